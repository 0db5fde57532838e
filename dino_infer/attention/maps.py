"""Attention as maps over the image, and the patches that hold most of its mass."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Shaped, UInt8
from torch import Tensor

from dino_infer.attention.grids import network_input, on_grid, seen
from dino_infer.attention.views import view_of
from dino_infer.images.pictures import one_or_many
from dino_infer.images.preprocess import Preprocess
from dino_infer.networks.backbone import Backbone

MASS = 0.6  # the share of the attention that the paper's masks keep
CPU_PATCHES, GPU_PATCHES = 1 << 11, 1 << 15  # of a forward pass; on a CPU more would be no faster

Head = int | Literal["mean", "max", "all"]
"""One head by number, the mean or the largest value over the heads, or every head by itself."""


class AttentionMaps(NamedTuple):
    """Attention of each head of one block in one image."""

    picture: UInt8[np.ndarray, "height width 3"]
    """The part of the image that the network saw, resized as it saw it."""
    heads: Float32[np.ndarray, "heads rows columns"]
    """Attention of the query to each patch; a head sums to less than 1, see ``cls_attention``.
    A rollout is a single head."""
    masks: Bool[np.ndarray, "heads rows columns"]
    """The patches that hold the wanted share of each head's mass."""
    query: tuple[int, int] | None = None
    """Row and column of the query patch; None if [CLS] is the query."""

    def __repr__(self) -> str:
        """Return the numbers of heads and patches, and the query."""
        heads, rows, columns = self.heads.shape
        asks = "[CLS]" if self.query is None else f"patch {self.query}"
        return f"AttentionMaps({heads} heads of {asks} over {rows} x {columns} patches)"


@one_or_many
@torch.inference_mode()
def attention_maps(
    image: UInt8[np.ndarray, "height width 3"],
    *,
    backbone: Backbone,
    preprocess: Preprocess,
    mass: float = MASS,
    layer: int = -1,
    query: tuple[float, float] | None = None,
    path: str = "image",
) -> AttentionMaps:
    """Attention of the [CLS] token, or of the patch at a pixel, to the patches of one image.

    Args:
        image: One picture in any form that ``Embedder`` takes, or a list, which gives a list.
        backbone: A Vision Transformer in evaluation mode, on any device.
        preprocess: Size and normalisation; ``crop="none"`` shows all of the image.
        mass: Share of the attention that the masks keep, in (0, 1].
        layer: Block to look at; negative counts from the last.
        query: x and y of a pixel of ``image``; the patch that shows it asks instead of [CLS].
        path: Name of the image in errors; by default a path itself.

    Raises:
        ImageError: The image cannot be read, or is too elongated to be resized whole.
        CheckpointError: The backbone has no [CLS] attention.
        ValueError: ``mass``, ``layer`` or ``query`` is out of range.
    """
    network: dict[str, Any] = {"backbone": backbone, "preprocess": preprocess, "mass": mass}
    return maps_of_many([image], paths=[path], **network, layer=layer, query=query)[0]


@one_or_many
@torch.inference_mode()
def attention_by_layer(
    image: UInt8[np.ndarray, "height width 3"],
    *,
    backbone: Backbone,
    preprocess: Preprocess,
    mass: float = MASS,
    path: str = "image",
) -> list[AttentionMaps]:
    """``attention_maps`` of the [CLS] token in every block, from one forward pass."""
    pixels = network_input(image, backbone=backbone, preprocess=preprocess, path=path)
    layers = backbone.cls_attention_by_layer(pixels)[0]
    return _maps(layers, pixels.expand(len(layers), -1, -1, -1), backbone, preprocess, mass)


@one_or_many
@torch.inference_mode()
def rollout_maps(
    image: UInt8[np.ndarray, "height width 3"],
    *,
    backbone: Backbone,
    preprocess: Preprocess,
    mass: float = MASS,
    path: str = "image",
) -> AttentionMaps:
    """Attention rollout: share of each patch in the last [CLS] token, as a single head.

    It needs all rows of every block and takes several times as long as ``attention_maps``.

    Raises:
        As ``attention_maps``.

    Source: Abnar and Zuidema 2020, https://arxiv.org/abs/2005.00928, section 3.
    """
    network: dict[str, Any] = {"backbone": backbone, "preprocess": preprocess, "mass": mass}
    return maps_of_many([image], paths=[path], **network, rollout=True)[0]


@torch.inference_mode()
def maps_of_many(
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    *,
    paths: Sequence[str],
    backbone: Backbone,
    preprocess: Preprocess,
    mass: float = MASS,
    layer: int = -1,
    query: tuple[float, float] | None = None,
    rollout: bool = False,
) -> list[AttentionMaps]:
    """``attention_maps`` or ``rollout_maps`` of many pictures at once, equal but for rounding.

    Pictures that the network sees in equal size, asked by the same patch, share forward passes.

    Args:
        images: Upright pictures; all are held in memory as the network sees them.
        paths: Name of each picture in errors.
        backbone: A Vision Transformer in evaluation mode, on any device.
        preprocess: Decides the size.
        mass: Share of the attention that the masks keep, in (0, 1].
        layer: Block to look at; negative counts from the last.
        query: x and y of a pixel of each picture; None asks by [CLS].
        rollout: Follow the attention of [CLS] through all blocks; without ``layer`` or ``query``.

    Raises:
        As ``attention_maps``.
    """
    inputs: list[Tensor] = []
    alike: dict[tuple[torch.Size, tuple[int, int] | None], list[int]] = defaultdict(list)
    for image, path in zip(images, paths, strict=True):
        pixels = network_input(image, backbone=backbone, preprocess=preprocess, path=path)
        patch = None
        if query is not None:
            patch = _patch_at(query, image, backbone=backbone, preprocess=preprocess, path=path)
        alike[pixels.shape, patch].append(len(inputs))
        inputs.append(pixels)
    found: dict[int, AttentionMaps] = {}
    for (shape, patch), places in alike.items():
        rows, columns = backbone.grid_of(*shape[-2:])
        most = CPU_PATCHES if inputs[0].device.type == "cpu" else GPU_PATCHES
        together = max(1, most // (rows * columns))
        for start in range(0, len(places), together):
            some = places[start : start + together]
            pixels = torch.cat([inputs[place] for place in some])
            if rollout:
                heads = backbone.attention_rollout(pixels)[:, None]
            elif patch is None:
                heads = backbone.cls_attention(pixels, layer=layer)
            else:
                number = patch[0] * columns + patch[1]
                heads = backbone.patch_attention(pixels, [number], layer=layer)[:, :, 0]
            maps = _maps(heads, pixels, backbone, preprocess, mass, query=patch)
            found |= zip(some, maps, strict=True)
    return [found[place] for place in range(len(inputs))]


def chosen_maps(
    heads: Float[np.ndarray, "heads rows columns"], head: Head
) -> dict[int | str, Float[np.ndarray, "rows columns"]]:
    """The maps that a choice of heads means, by name.

    Raises:
        ValueError: There is no such head.
    """
    if head == "mean":
        return {head: heads.mean(axis=0)}
    if head == "max":
        return {head: heads.max(axis=0)}
    if head == "all":
        return dict(enumerate(heads))
    if not isinstance(head, int) or not 0 <= head < len(heads):
        raise ValueError(
            f"head must be mean, max, all or a number from 0 to {len(heads) - 1}, got {head!r}"
        )
    return {head: heads[head]}


def mass_mask(
    attention: Float[Tensor, "*leading patches"], mass: float = MASS
) -> Bool[Tensor, "*leading patches"]:
    """The patches of highest attention that together hold a share of its mass.

    The weakest patches are dropped while their sum is at most ``1 - mass`` of the whole, so the
    kept ones hold at least ``mass``.

    Args:
        attention: Not negative; each row is taken relative to its own sum.
        mass: Share to keep, in (0, 1].

    Raises:
        ValueError: ``mass`` is out of range.

    Source: https://arxiv.org/abs/2104.14294, section 4.2.2 and figure 4.
    """
    if not 0 < mass <= 1:
        raise ValueError(f"mass must lie in (0, 1], got {mass}")
    ascending, order = attention.sort(dim=-1, stable=True)
    share = (ascending / ascending.sum(dim=-1, keepdim=True)).cumsum(dim=-1)
    kept = share > 1 - mass
    return torch.zeros_like(kept).scatter(-1, order, kept)


def grid_masks(
    maps: Float[np.ndarray, "*leading rows columns"], mass: float = MASS
) -> Bool[np.ndarray, "*leading rows columns"]:
    """``mass_mask`` of maps: another threshold needs no other forward pass."""
    rows = torch.from_numpy(np.ascontiguousarray(maps)).flatten(-2)
    masks: np.ndarray = mass_mask(rows, mass=mass).numpy()
    return masks.reshape(maps.shape)


def upsampled(
    maps: Shaped[np.ndarray, "*leading rows columns"], height: int, width: int
) -> Shaped[np.ndarray, "*leading {height} {width}"]:
    """Each patch as a rectangle of pixels; all together they fill the size."""
    rows, columns = maps.shape[-2:]
    of_row, of_column = np.arange(height) * rows // height, np.arange(width) * columns // width
    big: np.ndarray = maps[..., of_row[:, None], of_column]
    return big


def _patch_at(
    pixel: tuple[float, float],
    image: UInt8[np.ndarray, "height width 3"],
    *,
    backbone: Backbone,
    preprocess: Preprocess,
    path: str,
) -> tuple[int, int]:
    height, width = image.shape[:2]
    view = view_of(height, width, preprocess=preprocess, patch_size=backbone.patch_size)
    try:
        return view.patch_at(*pixel)
    except ValueError as error:
        raise ValueError(f"{path!r}: {error}") from error


def _maps(
    heads: Float[Tensor, "batch heads patches"],
    pixels: Float[Tensor, "batch 3 height width"],
    backbone: Backbone,
    preprocess: Preprocess,
    mass: float,
    *,
    query: tuple[int, int] | None = None,
) -> list[AttentionMaps]:
    grid = backbone.grid_of(*pixels.shape[-2:])
    return [
        AttentionMaps(seen(one[None], backbone, preprocess), maps, grid_masks(maps, mass), query)
        for one, maps in zip(pixels, on_grid(heads, grid), strict=True)
    ]
