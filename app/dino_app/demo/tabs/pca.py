"""PCA colours: what patches have in common, over one photo or several in the same colours."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
from jaxtyping import Bool, UInt8

from dino_app.demo.availability import vit_only
from dino_app.demo.detail import detail_choice, detailed_look
from dino_app.demo.models import Look, Models
from dino_app.demo.photo_sets import photos_to_try, readable_photos
from dino_app.demo.style import to_result
from dino_app.demo.tiles import caption, tile_gallery
from dino_app.demo.uploads import plain_errors
from dino_infer.attention.patches import PatchPCA, foreground, patch_pca
from dino_infer.drawing.overlays import pca_colors

INTRO = (
    "Every patch becomes a colour; alike colours mean alike patches, in all photos together. "
    "Choose several photos of the same kind of thing, and its parts match."
)
FIRST_STEP = "Choose photos to begin."
MOST_PHOTOS = 8
SHOW = ("everything", "subject", "background")


class Colours(NamedTuple):
    """Pictures in colours that mean the same in each, and how much they tell."""

    pictures: list[UInt8[np.ndarray, "_ _ 3"]]
    basis: PatchPCA


def pca_tab(models: Models, picker: gr.Dropdown) -> None:
    """Build the tab inside the one that is open."""
    with vit_only(models, picker, "patches to colour"):
        gr.Markdown(INTRO, elem_classes="hint")
        with gr.Row(elem_classes="tab"):
            with gr.Column(elem_classes="ask"):
                photos = photos_to_try(MOST_PHOTOS, elem_id="pca-photos")
            with gr.Column(elem_classes="result", elem_id="pca-result"):
                told = gr.Markdown(FIRST_STEP, elem_id="pca-explained")
                gallery = tile_gallery(
                    "Photos and their colours",
                    elem_id="pca-gallery",
                    columns=2,
                    buttons=["download", "fullscreen"],
                )
            with gr.Column(elem_classes="settings"):
                show = gr.Radio(list(SHOW), value="everything", label="Show", elem_id="pca-show")
                own = gr.Checkbox(
                    False,
                    label="Colours of its own",
                    info="Spend all colours on what is shown: parts of the subject, say.",
                )
                smooth = gr.Checkbox(True, label="Smooth between patches")
                detail = detail_choice()
    looks = gr.State([])
    drawing: list[Any] = [show, own, smooth]
    shown = [gallery, told]

    @plain_errors()
    def pca(
        photos: list[str] | None, network: str, detail: str = "normal", show: str = SHOW[0],
        own_colours: bool = False, smooth: bool = True,
    ) -> tuple[list[tuple[str, Look]], list[Any], str]:  # fmt: skip
        """PCA colours of photos in one basis: pairs of photo and colours, and a sentence."""
        seen = _looks(photos, name=network, detail=detail, models=models)
        return seen, *_drawn(seen, show, own_colours, smooth)

    @plain_errors()
    def redrawn(seen: list[tuple[str, Look]], *drawing: Any) -> tuple[list[Any], str]:
        return _drawn(seen, *drawing)

    inputs = [photos, picker, detail, *drawing]
    busy: dict[str, Any] = {"show_progress_on": gallery, "concurrency_id": "pca"}
    asked = photos.change(pca, inputs, [looks, *shown], api_name="pca", **busy)
    asked.success(None, js=to_result("pca-result"), api_visibility="private")
    for choice in (picker, detail):
        choice.change(pca, inputs, [looks, *shown], api_visibility="private", **busy)
    gr.on(
        [choice.change for choice in drawing],
        redrawn,
        [looks, *drawing],
        shown,
        show_progress="hidden",
        api_visibility="private",
        concurrency_id="pca",
    )


def pca_colours(
    looks: Sequence[Look], *, show: str = "everything", own: bool = False, smooth: bool = True
) -> Colours:
    """Principal components of the patches of all pictures as colours.

    Args:
        looks: The pictures as one network sees them.
        show: One of ``SHOW``; patches that are not shown are black.
        own: Make the basis of the colours from the patches that are shown alone.
        smooth: Interpolate between patches, or show each as a rectangle.

    Raises:
        ValueError: ``show`` is none of them, or too few patches are shown.
    """
    if show not in SHOW:
        raise ValueError(f"show must be one of {list(SHOW)}, got {show!r}")
    tokens = [look.tokens for look in looks]
    basis = patch_pca(tokens)
    masks = [None if show == "everything" else mask for mask in _subjects(basis, tokens, show)]
    if own and show != "everything":
        shown = [patches[mask] for patches, mask in zip(tokens, masks, strict=True)]
        basis = patch_pca(shown)
    pictures = [
        pca_colors(
            basis.scores(patches),
            basis.variances,
            height=look.picture.shape[0],
            width=look.picture.shape[1],
            foreground=mask,
            smooth=smooth,
        )
        for look, patches, mask in zip(looks, tokens, masks, strict=True)
    ]
    return Colours(pictures, basis)


def explained(basis: PatchPCA, *, photos: int) -> str:
    """Share of the variance that the colours explain, as a sentence."""
    shares = [f"{100 * share:.0f} %" for share in basis.explained]
    total = 100 * float(basis.explained.sum())
    return (
        f"**{total:.0f} %** of what tells patches apart is in these colours: red {shares[0]}, "
        f"green {shares[1]}, blue {shares[2]}"
        + (f"; one basis for all {photos} photos." if photos > 1 else ".")
    )


def _looks(
    paths: list[str] | None, *, name: str, detail: str, models: Models
) -> list[tuple[str, Look]]:
    """The uploads as a network sees them, with their names."""
    model = models.model(name)
    if not paths or not model.has_attention:
        return []
    photos = readable_photos(paths, most=MOST_PHOTOS)
    return [(path, detailed_look(model, picture, detail)) for path, picture in photos]


def _drawn(
    seen: Sequence[tuple[str, Look]], show: str, own: bool, smooth: bool
) -> tuple[list[Any], str]:
    """Outputs for the page: each photo beside its colours, and a sentence."""
    if not seen:
        return [], FIRST_STEP
    colours = pca_colours([look for _, look in seen], show=show, own=own, smooth=smooth)
    items = []
    for (name, look), picture in zip(seen, colours.pictures, strict=True):
        items += [(look.picture, caption(name)), (picture, "colours")]
    return items, explained(colours.basis, photos=len(seen))


def _subjects(
    basis: PatchPCA, tokens: Sequence[np.ndarray], show: str
) -> list[Bool[np.ndarray, "_ _"]]:
    """The patches of each picture that are the subject, or those that are not."""
    first = [basis.scores(patches)[..., 0] for patches in tokens]
    subject = foreground(first)
    return [subject.mask(values) == (show == "subject") for values in first]
