"""Features of images, made of the outputs of a backbone."""

import torch
from jaxtyping import Float
from torch import Tensor

from dino_infer.choices import FEATURES, Feature
from dino_infer.networks.backbone import Backbone, Images

GEM_POWER = 4.0
GEM_FLOOR = 1e-6


def feature_of(backbone: Backbone, images: Images, feature: Feature) -> Float[Tensor, "batch ..."]:
    """The chosen feature of a batch: one vector an image, or with "patches" a matrix.

    Args:
        backbone: Convnets give "cls" alone: their pooled features.
        images: Normalised.
        feature: Which.

    Raises:
        ValueError: The backbone has no such feature.
    """
    if feature == "cls":
        cls: Tensor = backbone(images)
        return cls
    if feature == "last4":
        return backbone.class_tokens(images, last=4).flatten(1)
    tokens = backbone.tokens(images)
    return pooled(tokens.cls, tokens.patches, feature)


def pooled(
    cls: Float[Tensor, "batch embed_dim"],
    patches: Float[Tensor, "batch patches embed_dim"],
    feature: Feature,
) -> Float[Tensor, "batch ..."]:
    """A feature that is made of the last block's tokens: any but "last4".

    Source: "gem" with power 4 is what copy detection pools patch tokens with,
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
        case _:
            raise ValueError(f"feature {feature!r} is not made of the last block's tokens")


def check_feature(feature: str, *, arch: str, has_patches: bool) -> None:
    """Refuse a feature that is unknown or that the backbone does not have.

    Raises:
        ValueError: It is not one of ``FEATURES``, or the backbone is a convnet.
    """
    if feature not in FEATURES:
        raise ValueError(f"feature must be one of {', '.join(FEATURES)}, got {feature!r}")
    if feature != "cls" and not has_patches:
        raise ValueError(
            f"feature {feature!r} is made of a Vision Transformer's tokens, and {arch!r} has none; "
            "use 'cls', which for a convnet is its pooled features"
        )
