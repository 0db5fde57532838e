"""Images as Vision Transformers take them, and their patches as rows and columns."""

import dataclasses

import numpy as np
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from dino_infer.errors import CheckpointError
from dino_infer.images.preprocess import Preprocess, denormalized
from dino_infer.networks.backbone import Backbone


def check_has_attention(backbone: Backbone) -> None:
    """Refuse a network without [CLS] attention.

    Raises:
        CheckpointError: It is no Vision Transformer.
    """
    if not backbone.has_attention:
        raise CheckpointError(
            f"attention needs a Vision Transformer, but the weights are a {backbone.arch!r}, which "
            "has no [CLS] token; pass `weights` of a ViT"
        )


def check_patch_fits(backbone: Backbone, size: int) -> None:
    """Refuse a network without patches, and images that are smaller than one.

    Raises:
        CheckpointError: The network is no Vision Transformer.
        ValueError: ``size`` is below one patch.
    """
    check_has_attention(backbone)
    if size < backbone.patch_size:
        raise ValueError(
            f"`size` must be at least one patch of {backbone.patch_size} px, got {size}"
        )


def whole_image(preprocess: Preprocess, *, size: int, patch_size: int) -> Preprocess:
    """The same normalisation, but showing all of an image with its shorter side ``size`` pixels."""
    return dataclasses.replace(preprocess, size=size, crop="none", patch_size=patch_size)


def network_input(
    image: UInt8[np.ndarray, "height width 3"],
    *,
    backbone: Backbone,
    preprocess: Preprocess,
    path: str = "image",
) -> Float[Tensor, "1 3 _height _width"]:
    """One image as a Vision Transformer takes it, on the device of the network.

    Raises:
        ImageError: The image is too elongated to be resized whole.
        CheckpointError: The backbone is no Vision Transformer.
    """
    check_has_attention(backbone)
    device = next(backbone.parameters()).device
    return preprocess(image, path=path)[None].to(device)


def shown(
    pixels: Float[Tensor, "3 height width"], preprocess: Preprocess
) -> UInt8[np.ndarray, "height width 3"]:
    """Return normalised pixels as a picture again."""
    levels = denormalized(pixels.cpu(), mean=preprocess.mean, std=preprocess.std)
    return levels.permute(1, 2, 0).contiguous().numpy()


def seen(
    pixels: Float[Tensor, "1 3 height width"], backbone: Backbone, preprocess: Preprocess
) -> UInt8[np.ndarray, "_height _width 3"]:
    """The picture of a network input, cut to whole patches."""
    height, width = (side * backbone.patch_size for side in backbone.grid_of(*pixels.shape[-2:]))
    return shown(pixels[0, :, :height, :width], preprocess)


def on_grid(
    values: Float[Tensor, "*leading patches"], grid: tuple[int, int]
) -> Float32[np.ndarray, "*leading rows columns"]:
    """Numbers of patches on their rows and columns."""
    array: np.ndarray = values.float().cpu().reshape(*values.shape[:-1], *grid).numpy()
    return array
