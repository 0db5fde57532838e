"""Features of images, made of the outputs of a backbone."""

import re

import torch
from jaxtyping import Float
from torch import Tensor

from dino_infer.choices import FEATURES
from dino_infer.networks.backbone import Backbone, Images

GEM_POWER = 4.0
GEM_FLOOR = 1e-6
_LAST = re.compile(r"last([1-9][0-9]{0,3})(\+mean)?")


def feature_of(backbone: Backbone, images: Images, feature: str) -> Float[Tensor, "batch ..."]:
    """The chosen feature of a batch: one vector an image, or with "patches" a matrix.

    Args:
        backbone: Convnets give "cls" alone: their pooled features.
        images: Normalised.
        feature: One of ``FEATURES``; or ``lastN``, the [CLS] tokens of the last N blocks from the
            first of them to the deepest, or ``lastN+mean``, these and then the mean of the last
            block's patch tokens.

    Raises:
        ValueError: The backbone has no such feature.

    Source: linear evaluation takes "last4" of ViT-S and "last1+mean" of ViT-B,
    https://arxiv.org/abs/2104.14294, appendix F.2.
    """
    if feature == "cls":
        cls: Tensor = backbone(images)
        return cls
    if blocks := last_blocks(feature):
        last, has_mean = blocks
        if not has_mean:
            return backbone.class_tokens(images, last=last).flatten(1)
        class_tokens, patches = backbone.class_and_patch_tokens(images, last=last)
        return torch.cat([class_tokens.flatten(1), patches.mean(dim=1)], dim=1)
    tokens = backbone.tokens(images)
    return pooled(tokens.cls, tokens.patches, feature)


def pooled(
    cls: Float[Tensor, "batch embed_dim"],
    patches: Float[Tensor, "batch patches embed_dim"],
    feature: str,
) -> Float[Tensor, "batch ..."]:
    """A feature that is made of the last block's tokens: any but ``lastN``.

    Source: "cls+gem" with power 4 is the feature of copy detection,
    https://arxiv.org/abs/2104.14294, section 4.2.1.
    """
    match feature:
        case "cls":
            return cls
        case "patches":
            return patches
        case "mean":
            return patches.mean(dim=1)
        case "cls+mean":
            return torch.cat([cls, patches.mean(dim=1)], dim=1)
        case "gem":
            powers = patches.float().clamp(min=GEM_FLOOR).pow(GEM_POWER)
            return powers.mean(dim=1).pow(1 / GEM_POWER)
        case "cls+gem":
            return torch.cat([cls, pooled(cls, patches, "gem")], dim=1)
        case _:
            raise ValueError(f"feature {feature!r} is not made of the last block's tokens")


def last_blocks(feature: str) -> tuple[int, bool] | None:
    """The N of ``lastN`` and ``lastN+mean``, and if the mean is there; None for other features."""
    found = _LAST.fullmatch(feature)
    return (int(found[1]), found[2] is not None) if found else None


def check_feature(feature: str, *, arch: str, has_patches: bool, depth: int | None = None) -> None:
    """Refuse a feature that is unknown or that the backbone does not have.

    Raises:
        ValueError: There is no such feature, the backbone is a convnet, or its ``depth``, the
            number of its blocks, is too small.
    """
    blocks = last_blocks(feature)
    if feature not in FEATURES and blocks is None:
        raise ValueError(
            f"feature must be one of {', '.join(FEATURES)}, or lastN or lastN+mean for the last N "
            f"blocks, got {feature!r}"
        )
    if feature != "cls" and not has_patches:
        raise ValueError(
            f"feature {feature!r} is made of a Vision Transformer's tokens, and {arch!r} has none; "
            "use 'cls', which for a convnet is its pooled features"
        )
    if blocks is not None and depth is not None and blocks[0] > depth:
        raise ValueError(f"feature {feature!r} needs {blocks[0]} blocks, and {arch!r} has {depth}")
