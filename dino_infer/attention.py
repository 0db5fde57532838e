"""[CLS] attention as maps over the image, and the patches that hold most of its mass."""

import dataclasses
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Shaped, UInt8
from torch import Tensor

from dino_infer.backbones import Backbone
from dino_infer.errors import CheckpointError
from dino_infer.preprocess import Preprocess

MASS = 0.6  # the share of the attention that the paper's masks keep


class AttentionMaps(NamedTuple):
    """What each head of one block looks at in one image."""

    picture: UInt8[np.ndarray, "height width 3"]
    """The part of the image that the network saw, resized as it saw it."""
    heads: Float32[np.ndarray, "heads rows columns"]
    """Attention of [CLS] to each patch; a head sums to less than 1, see ``cls_attention``."""
    masks: Bool[np.ndarray, "heads rows columns"]
    """The patches that hold the wanted share of each head's mass."""


@torch.inference_mode()
def attention_maps(
    image: UInt8[np.ndarray, "height width 3"],
    *,
    backbone: Backbone,
    preprocess: Preprocess,
    mass: float = MASS,
    layer: int = -1,
    path: str = "image",
) -> AttentionMaps:
    """Attention of the [CLS] token to the patches of one image.

    Args:
        image: Upright RGB.
        backbone: A Vision Transformer in evaluation mode, on any device.
        preprocess: Decides the size; ``crop="none"`` shows all of the image.
        mass: Share of the attention that the masks keep, in (0, 1].
        layer: Block to look at; negative counts from the last.
        path: What an error calls the image.

    Raises:
        ImageError: The image is too elongated to be resized whole.
        CheckpointError: The backbone has no [CLS] attention.
        ValueError: ``mass`` or ``layer`` is out of range.
    """
    check_has_attention(backbone)
    device = next(backbone.parameters()).device
    pixels = preprocess(image, path=path)
    maps = cls_attention_maps(backbone, pixels[None].to(device), layer=layer)[0].float().cpu()
    masks = mass_mask(maps.flatten(1), mass=mass).reshape(maps.shape)
    return AttentionMaps(shown(pixels, preprocess), maps.numpy(), masks.numpy())


def check_has_attention(backbone: Backbone) -> None:
    """Refuse a network without [CLS] attention.

    Raises:
        CheckpointError: It is no Vision Transformer.
    """
    if not backbone.has_attention:
        raise CheckpointError(
            f"attention needs a Vision Transformer, but the weights are a {backbone.arch!r}, which "
            "has no [CLS] token; pass --weights of a ViT"
        )


def whole_image(preprocess: Preprocess, *, size: int, patch_size: int) -> Preprocess:
    """The same normalisation, but showing all of an image with its shorter side ``size`` pixels."""
    return dataclasses.replace(preprocess, size=size, crop="none", patch_size=patch_size)


def cls_attention_maps(
    backbone: Backbone, images: Float[Tensor, "batch 3 height width"], *, layer: int = -1
) -> Float[Tensor, "batch heads rows columns"]:
    """``Backbone.cls_attention`` laid out as the grid of patches."""
    rows, columns = (side // backbone.patch_size for side in images.shape[-2:])
    attention = backbone.cls_attention(images, layer=layer)
    return attention.reshape(*attention.shape[:2], rows, columns)


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


def upsampled(
    maps: Shaped[np.ndarray, "*leading rows columns"], patch_size: int
) -> Shaped[np.ndarray, "*leading height width"]:
    """Each patch as a square of pixels."""
    return maps.repeat(patch_size, axis=-2).repeat(patch_size, axis=-1)


def shown(
    pixels: Float[Tensor, "3 height width"], preprocess: Preprocess
) -> UInt8[np.ndarray, "height width 3"]:
    """Normalised pixels back as a picture."""
    mean, std = (
        torch.tensor(values)[:, None, None] for values in (preprocess.mean, preprocess.std)
    )
    levels = (pixels.cpu() * std + mean).mul(255).round().clamp(0, 255).to(torch.uint8)
    return levels.permute(1, 2, 0).contiguous().numpy()
