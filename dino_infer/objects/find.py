"""Objects in one image, by the keys of a network's last block."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from PIL import Image

from dino_infer.attention.grids import network_input, seen
from dino_infer.choices import OBJECT_METHODS, ObjectMethod
from dino_infer.drawing.overlays import mask_overlay, mosaic
from dino_infer.errors import CheckpointError
from dino_infer.images.pictures import one_or_many, png_bytes
from dino_infer.images.preprocess import Preprocess
from dino_infer.networks.backbone import Backbone
from dino_infer.objects.found import FoundObject
from dino_infer.objects.lost import lost
from dino_infer.objects.maskcut import mask_cut
from dino_infer.objects.tokencut import token_cut


class PatchKeys(NamedTuple):
    """The keys of the patches of one image, on their grid."""

    picture: UInt8[np.ndarray, "height width 3"]
    """The part of the image that the network saw, resized as it saw it."""
    keys: Float32[np.ndarray, "rows columns dim"]


class ObjectMasks(NamedTuple):
    """Objects in one image, the most salient first."""

    picture: UInt8[np.ndarray, "height width 3"]
    """The part of the image that the network saw, resized as it saw it."""
    grid: tuple[int, int]
    """Rows and columns of patches."""
    objects: tuple[FoundObject, ...]

    @property
    def masks(self) -> Bool[np.ndarray, "objects rows columns"]:
        """The patches of each object."""
        masks: np.ndarray = np.array([one.mask for one in self.objects], dtype=np.bool_)
        return masks.reshape(-1, *self.grid)

    def __repr__(self) -> str:
        """The numbers of objects and patches."""
        rows, columns = self.grid
        return f"ObjectMasks({len(self.objects)} objects in {rows} x {columns} patches)"

    def overlay(self) -> Image.Image:
        """Each object in the picture, side by side; where there is none, an empty mask."""
        masks = self.masks if self.objects else np.zeros((1, *self.grid), dtype=np.bool_)
        return Image.fromarray(mosaic([mask_overlay(self.picture, mask) for mask in masks]))

    def _repr_png_(self) -> bytes:
        """The overlay as a notebook shows it."""
        return png_bytes(self.overlay())


@one_or_many
@torch.inference_mode()
def patch_keys(
    image: UInt8[np.ndarray, "height width 3"],
    *,
    backbone: Backbone,
    preprocess: Preprocess,
    layer: int = -1,
    path: str = "image",
) -> PatchKeys:
    """The keys of one block that stand for the patches of one image.

    Args:
        image: One picture in any form that ``Embedder`` takes, or a list, which gives a list.
        backbone: A Vision Transformer in evaluation mode, on any device.
        preprocess: Size and normalisation; ``crop="none"`` shows all of the image.
        layer: Block to look at; negative counts from the last.
        path: Name of the image in errors; by default a path itself.

    Raises:
        ImageError: The image cannot be read, or is too elongated to be resized whole.
        CheckpointError: The network has no keys of patches, or gives NaN.
        ValueError: ``layer`` is out of range.
    """
    pixels = network_input(image, backbone=backbone, preprocess=preprocess, path=path)
    grid = backbone.grid_of(*pixels.shape[-2:])
    keys: np.ndarray = backbone.keys(pixels, layer=layer)[0].float().cpu().numpy()
    if not np.isfinite(keys).all():
        raise CheckpointError(
            f"the keys of {path!r} hold NaN or infinity, so the weights are damaged; pass other "
            "`weights`"
        )
    return PatchKeys(seen(pixels, backbone, preprocess), keys.reshape(*grid, -1))


def objects_in(
    keys: Float[np.ndarray, "rows columns dim"],
    method: ObjectMethod = "tokencut",
    *,
    objects: int = 3,
) -> tuple[FoundObject, ...]:
    """The objects that a method finds in the keys of an image, the most salient first.

    Args:
        keys: Keys of the patches, see ``Backbone.keys``.
        method: Method, run with the settings of its paper.
        objects: The most objects that MaskCut looks for; the others find one.

    Raises:
        ValueError: ``keys`` hold no patch, or NaN, or there is no such method.
    """
    if method == "maskcut":
        return tuple(mask_cut(keys, objects=objects))
    if method == "lost":
        return (lost(keys),)
    if method != "tokencut":
        raise ValueError(f"`method` must be one of {', '.join(OBJECT_METHODS)}, got {method!r}")
    one = token_cut(keys)
    return () if one is None else (one,)


@one_or_many
def find_objects(
    image: UInt8[np.ndarray, "height width 3"],
    *,
    backbone: Backbone,
    preprocess: Preprocess,
    method: ObjectMethod = "tokencut",
    layer: int = -1,
    path: str = "image",
) -> ObjectMasks:
    """The objects in one image: ``objects_in`` its ``patch_keys``.

    Raises:
        As those two.
    """
    seen_keys = patch_keys(image, backbone=backbone, preprocess=preprocess, layer=layer, path=path)
    rows, columns = seen_keys.keys.shape[:2]
    return ObjectMasks(seen_keys.picture, (rows, columns), objects_in(seen_keys.keys, method))
