"""Output files of dino-attention for one image or one video."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from dino_infer.attention.boxes import mask_boxes
from dino_infer.attention.maps import AttentionMaps, Head, chosen_maps, grid_masks, upsampled
from dino_infer.attention.patches import PatchPCA, PatchTokens, patch_pca, patch_tokens
from dino_infer.attention.views import View, view_of
from dino_infer.cli.exit_codes import UsageError
from dino_infer.drawing.overlays import (
    head_colors,
    heat_overlay,
    heatmap,
    mask_overlay,
    mosaic,
    pca_colors,
)
from dino_infer.drawing.sheets import attention_picture, marked_picture
from dino_infer.drawing.videos import Scale, VideoFile, video_file
from dino_infer.errors import ImageError
from dino_infer.files import whole_file, write_json
from dino_infer.images.preprocess import Preprocess
from dino_infer.images.read import read_image
from dino_infer.networks.backbone import Backbone
from dino_infer.objects.find import ObjectMasks
from dino_infer.progress import Progress
from dino_infer.sources.image_list import ImageList

PCA_IMAGES = 100  # of a longer list, evenly spread, make the basis that all are drawn in


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Settings for turning maps into pictures and boxes."""

    mass: float
    head: Head
    opacity: float
    colormap: str
    min_patches: int


@dataclass(frozen=True, kw_only=True)
class Looking:
    """Network, preprocessing and function that turn images into maps."""

    look: Callable[..., Any]
    """Takes an image and ``path=``, as ``attention_maps`` and ``find_objects`` do."""
    backbone: Backbone
    preprocess: Preprocess
    method: str = "attention"
    """Method that ``look`` follows."""

    def maps(self, image: UInt8[np.ndarray, "_ _ 3"], *, name: str, head: Head) -> AttentionMaps:
        """The maps of an image, after a check that ``head`` is one of them.

        Raises:
            UsageError: The network has no such layer or head, or the image no such pixel.
        """
        try:
            maps: AttentionMaps = self.look(image, path=name)
            chosen_maps(maps.heads, head)
        except ValueError as error:
            raise UsageError(str(error)) from error
        return maps

    def objects(self, image: UInt8[np.ndarray, "_ _ 3"], *, name: str) -> ObjectMasks:
        """The objects in an image.

        Raises:
            UsageError: The network has no such layer.
        """
        try:
            found: ObjectMasks = self.look(image, path=name)
        except ValueError as error:
            raise UsageError(str(error)) from error
        return found

    def view(self, image: UInt8[np.ndarray, "height width 3"]) -> View:
        """The grid of patches over an image."""
        height, width = image.shape[:2]
        return view_of(
            height, width, preprocess=self.preprocess, patch_size=self.backbone.patch_size
        )

    def tokens(self, image: UInt8[np.ndarray, "_ _ 3"], *, name: str) -> PatchTokens:
        """The patch tokens of an image."""
        return patch_tokens(image, backbone=self.backbone, preprocess=self.preprocess, path=name)


def write_files(
    target: Path, maps: AttentionMaps, kinds: tuple[str, ...], drawing: Drawing
) -> list[Path]:
    """Write each kind of file about one image and return their paths, in the order of ``kinds``.

    Args:
        target: Path without the endings of the kinds; its folder must exist.
        maps: Attention of the network in the image.
        kinds: Keys of ``WRITERS``.
        drawing: Options for drawing.
    """
    return [path for kind in kinds for path in WRITERS[kind](target, maps, drawing)]


def write_boxes(
    target: Path, image: UInt8[np.ndarray, "_ _ 3"], maps: AttentionMaps, looking: Looking,
    drawing: Drawing, *, name: str,
) -> Path:  # fmt: skip
    """Write the boxes around the connected parts of the masks, in pixels of the image."""
    view, (height, width) = looking.view(image), image.shape[:2]
    boxes = [
        box._asdict() | {"head": head}
        for head, values in chosen_maps(maps.heads, drawing.head).items()
        for box in mask_boxes(
            values, grid_masks(values, drawing.mass), view, min_patches=drawing.min_patches
        )
    ]
    about = {"image": name, "width": width, "height": height, "head": drawing.head}
    path = with_ending(target, "boxes.json")
    write_json(path, about | {"boxes": boxes})
    return path


def write_pca(
    target: Path, image: UInt8[np.ndarray, "_ _ 3"], basis: PatchPCA, looking: Looking, *, name: str
) -> Path:
    """Write the patches of one image in the colours of a basis."""
    patches = looking.tokens(image, name=name)
    height, width = patches.picture.shape[:2]
    colors = pca_colors(basis.scores(patches.tokens), basis.variances, height=height, width=width)
    return saved(with_ending(target, "pca.png"), colors)


def pca_basis(listed: ImageList, looking: Looking) -> PatchPCA | None:
    """The basis of up to ``PCA_IMAGES`` images of a list; None where none of them can be read.

    Raises:
        UsageError: Three components cannot be told from so few patches.
    """
    chosen = np.linspace(0, len(listed) - 1, min(len(listed), PCA_IMAGES)).round().astype(int)
    tokens = _readable_tokens(listed, chosen.tolist(), looking)
    first = next(tokens, None)
    if first is None:
        return None
    try:
        return patch_pca(itertools.chain([first], tokens))
    except ValueError as error:
        raise UsageError(f"--pca: {error}") from error


def _readable_tokens(
    listed: ImageList, chosen: list[int], looking: Looking
) -> Iterator[Float32[np.ndarray, "rows columns dim"]]:
    with Progress("colours", total=len(chosen)) as progress:
        for i in chosen:
            name = listed.name(i)
            # One that fails is reported when its turn comes to be drawn.
            with suppress(ImageError):
                yield looking.tokens(read_image(listed.read(i), path=name), name=name).tokens
            progress.advance(1)


def write_video(
    target: Path, video: VideoFile, looking: Looking, drawing: Drawing, *, step: int,
    max_frames: int | None,
) -> Path:  # fmt: skip
    """Write a video with the attention laid over it; nothing stays of one that is damaged.

    The colours of a map run from its lowest to its highest value, both averaged over the frames
    so far (``Scale``), so that they follow the scene without flickering.

    Raises:
        ImageError: The video is damaged.
    """
    path = with_ending(target, "attention.mp4")
    scales: dict[int | str, Scale] = {}
    total = -(-video.frame_count // step)
    with (
        Progress(f"attention of {video.name}", total=min(total, max_frames or total)) as progress,
        video_file(path, rate=video.rate / step) as written,
    ):
        for frame in video.frames(step=step, max_frames=max_frames):
            maps = looking.maps(frame, name=video.name, head=drawing.head)
            panels = []
            for head, values in chosen_maps(maps.heads, drawing.head).items():
                scales[head] = Scale.after(scales.get(head), values)
                panels.append(_overlay(maps, values, drawing, scales[head]))
            written.write(mosaic(panels))
            progress.advance(1)
    return path


def _overlay(
    maps: AttentionMaps, values: np.ndarray, drawing: Drawing, scale: Scale | None = None
) -> np.ndarray:
    return heat_overlay(
        marked_picture(maps),
        values,
        opacity=drawing.opacity,
        colormap=drawing.colormap,
        scale=scale,
    )


def _write_sheet(target: Path, maps: AttentionMaps, drawing: Drawing) -> list[Path]:
    path = with_ending(target, "attention.png")
    with whole_file(path) as temporary:
        attention_picture([maps], mass=drawing.mass, colormap=drawing.colormap).save(temporary)
    return [path]


def _write_npz(target: Path, maps: AttentionMaps, drawing: Drawing) -> list[Path]:
    path = with_ending(target, "attention.npz")
    with whole_file(path) as temporary:
        np.savez_compressed(temporary, attention=maps.heads, masks=maps.masks)
    return [path]


def _write_overlay(target: Path, maps: AttentionMaps, drawing: Drawing) -> list[Path]:
    panels = [
        _overlay(maps, values, drawing) for values in chosen_maps(maps.heads, drawing.head).values()
    ]
    return [saved(with_ending(target, "overlay.png"), mosaic(panels))]


def _write_mask(target: Path, maps: AttentionMaps, drawing: Drawing) -> list[Path]:
    panels = [
        mask_overlay(maps.picture, grid_masks(values, drawing.mass))
        for values in chosen_maps(maps.heads, drawing.head).values()
    ]
    return [saved(with_ending(target, "mask.png"), mosaic(panels))]


def _write_heads(target: Path, maps: AttentionMaps, drawing: Drawing) -> list[Path]:
    height, width = maps.picture.shape[:2]
    colors = [heatmap(values, colormap=drawing.colormap) for values in maps.heads]
    return [
        saved(
            with_ending(target, f"head{i}.png"),
            upsampled(color.transpose(2, 0, 1), height, width).transpose(1, 2, 0),
        )
        for i, color in enumerate(colors)
    ]


def _write_colors(target: Path, maps: AttentionMaps, drawing: Drawing) -> list[Path]:
    colors = head_colors(maps.picture, maps.heads, mass=drawing.mass)
    return [saved(with_ending(target, "colors.png"), colors)]


WRITERS: dict[str, Callable[[Path, AttentionMaps, Drawing], list[Path]]] = {
    "sheet": _write_sheet,
    "npz": _write_npz,
    "overlay": _write_overlay,
    "mask": _write_mask,
    "heads": _write_heads,
    "colors": _write_colors,
}


def with_ending(target: Path, ending: str) -> Path:
    """Path of one of the files about an image."""
    return target.with_name(f"{target.name}.{ending}")


def saved(path: Path, picture: UInt8[np.ndarray, "height width 3"]) -> Path:
    """Write a picture and return its path."""
    with whole_file(path) as temporary:
        Image.fromarray(picture).save(temporary)
    return path
