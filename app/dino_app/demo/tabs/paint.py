"""The tab where people paint a thing in a few photos and get its mask in all of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
from jaxtyping import Float32

from dino_app.demo.availability import vit_only
from dino_app.demo.clicks import EVERY_CLICK
from dino_app.demo.detail import detail_choice, detailed_look
from dino_app.demo.models import LOOKS, Look, Models
from dino_app.demo.photo_sets import photos_to_try, readable_photos
from dino_app.demo.style import to_result
from dino_app.demo.tabs.brush import brush_field, marks_of, to_paint_on
from dino_app.demo.tabs.mask_pictures import (
    PhotoMasks,
    masked_picture,
    smooth_mask,
    upload_mask,
    write_masks,
)
from dino_app.demo.tabs.saving import connect_save, save_button
from dino_app.demo.tiles import caption, photo_tile, tile_gallery
from dino_app.demo.uploads import plain_errors, said
from dino_infer.objects.painting import BACKGROUND, OBJECT, UNMARKED, fit_patch_model

MOST_PHOTOS, MOST_PAINTED = LOOKS, 9
ABOUT = (
    "Paint the thing that you want **orange**, in one to nine photos: all of it, or a part of it "
    "and then a part of what it is not **blue**. A linear model of the patches, fitted anew "
    "after each stroke, marks it in all the others."
)
PEN = "✎ "  # before the names of photos that are painted on
FIRST_STEP = "Choose photos to begin."
NEXT_STEP = "**Now paint on the photo.** Click another one below to paint there too."


class Painting(NamedTuple):
    """Photos of one visitor, and what was painted on them."""

    names: tuple[str, ...] = ()
    looks: tuple[Look, ...] = ()
    chosen: int = 0
    """Index of the photo that is painted on."""
    strokes: Mapping[int, bytes] = {}
    """Layers that were painted, by the index of their photo."""


def paint_tab(models: Models, picker: gr.Dropdown) -> None:
    """Build the tab inside the one that is open."""
    with vit_only(models, picker, "patches to learn from"):
        gr.Markdown(ABOUT, elem_classes="hint")
        with gr.Row(elem_classes="tab"):
            with gr.Column(elem_classes="ask"):
                photos = photos_to_try(MOST_PHOTOS, elem_id="paint-photos")
            with gr.Column(elem_classes="result", elem_id="paint-result"):
                told = gr.Markdown(FIRST_STEP, elem_id="paint-told")
                field = brush_field("Paint here", elem_id="paint-field")
                gallery = tile_gallery(
                    "Masks; click a photo to paint on it", elem_id="paint-gallery",
                    allow_preview=False, format="jpeg",
                )  # fmt: skip
                save, made = save_button("Save masks (PNG, COCO JSON)", elem_id="paint-save")
            with gr.Column(elem_classes="settings"):
                detail = detail_choice()
    painting = gr.State(Painting())

    @plain_errors()
    def collected(
        paths: list[str] | None, network: str, detail: str
    ) -> tuple[Painting, Any, Any, str]:
        model = models.model(network)
        if not paths or not model.has_attention:
            return Painting(), None, [], FIRST_STEP
        seen = [
            (name, detailed_look(model, picture, detail))
            for name, picture in readable_photos(paths, most=MOST_PHOTOS)
        ]
        names, looks = zip(*seen, strict=True)
        fresh = Painting(names, looks)
        for look in looks:
            look.tokens  # noqa: B018  # computed now, so that the first stroke is quick too
        return fresh, to_paint_on(looks[0].shown), _tiles(fresh), NEXT_STEP

    @plain_errors()
    def painted(strokes: bytes | None, before: Painting) -> tuple[Painting, Any, str]:
        after = with_strokes(before, strokes)
        return after, _tiles(after), _told(after)

    @plain_errors()
    def chosen(event: gr.SelectData, before: Painting) -> tuple[Painting, Any]:
        after = before._replace(chosen=_index(event.index, before))
        strokes = after.strokes.get(after.chosen)
        return after, to_paint_on(after.looks[after.chosen].shown, strokes)

    quiet: dict[str, Any] = {"api_visibility": "private", "concurrency_id": "paint"}
    for source in (photos, picker, detail):
        gathered = source.change(
            collected, [photos, picker, detail], [painting, field, gallery, told],
            show_progress_on=gallery, **quiet,
        )  # fmt: skip
        if source is photos:
            gathered.success(None, js=to_result("paint-result"), api_visibility="private")
    quiet["show_progress"] = "hidden"
    field.input(
        painted, [field, painting], [painting, gallery, told], trigger_mode="always_last", **quiet
    )
    gallery.select(chosen, [painting], [painting, field], **quiet, **EVERY_CLICK)
    connect_save(save, made, _masks_file, [painting])


def with_strokes(painting: Painting, strokes: bytes | None) -> Painting:
    """The painting after the photo that is chosen was painted on, or wiped clean.

    Raises:
        gr.Error: Too many photos are painted on.
    """
    kept = {place: layer for place, layer in painting.strokes.items() if place != painting.chosen}
    if strokes is not None and painting.looks:
        kept[painting.chosen] = strokes
    if len(kept) > MOST_PAINTED:
        raise said(f"Paint on at most {MOST_PAINTED} photos; wipe one of them clean first.")
    return painting._replace(strokes=kept)


def painted_scores(painting: Painting) -> list[Float32[np.ndarray, "_rows _columns"]]:
    """Scores of the patches of every photo, above 0 for the thing; none before it is painted."""
    looks = [painting.looks[place] for place in painting.strokes]
    marks = [
        marks_of(layer, (look.view.rows, look.view.columns))
        for look, layer in zip(looks, painting.strokes.values(), strict=True)
    ]
    used = [place for place, one in enumerate(marks) if (one != UNMARKED).any()]
    if not all(any((marks[i] == kind).any() for i in used) for kind in (OBJECT, BACKGROUND)):
        return []
    model = fit_patch_model([looks[i].tokens for i in used], [marks[i] for i in used])
    return [model.scores(look.tokens) for look in painting.looks]


def _tiles(painting: Painting) -> list[tuple[Any, str]]:
    """Every photo, small, with its mask where there are some."""
    tiles = [np.asarray(photo_tile(look.shown)) for look in painting.looks]
    for place, scores in enumerate(painted_scores(painting)):
        inside = smooth_mask(scores, *tiles[place].shape[:2], at_least=0)
        tiles[place] = masked_picture(tiles[place], [inside])
    return [
        (tile, (PEN if place in painting.strokes else "") + caption(name))
        for place, (tile, name) in enumerate(zip(tiles, painting.names, strict=True))
    ]


def _told(painting: Painting) -> str:
    if not painting.strokes:
        return NEXT_STEP if painting.looks else FIRST_STEP
    count, rest = len(painting.strokes), len(painting.looks) - len(painting.strokes)
    return f"Painted on {count} of {count + rest} photos; the masks below follow every stroke."


def _index(place: object, painting: Painting) -> int:
    """A place of the gallery, which may be anything from outside."""
    if isinstance(place, int) and 0 <= place < len(painting.looks):
        return place
    raise said("This photo is no longer there. Choose the photos again.")


def _masks_file(folder: Path, painting: Painting) -> str:
    """The masks of all photos in pixels of the uploads."""
    scores: Sequence[Any] = painted_scores(painting)
    if not scores:
        raise said("There are no masks yet. Paint on a photo first.")
    return write_masks(
        [
            PhotoMasks(name, [upload_mask(look, one, at_least=0)])
            for name, look, one in zip(painting.names, painting.looks, scores, strict=True)
        ],
        folder,
    )
