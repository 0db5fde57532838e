"""Backbones by arch name: timm's modules, DINO's position embeddings and initialisation.

``build_backbone("vit_small", patch_size=8)`` gives a ViT whose weights carry the original key
names; any other arch is a timm model name (``resnet50``, ``xcit_small_12_p16_224`` ...).
"""

import difflib
from dataclasses import dataclass
from typing import Any

from torch import nn

from dino_infer.errors import MissingExtraError
from dino_infer.networks import Backbone, Tokens, ViTBackbone, resampled_positions

__all__ = [
    "ARCHS",
    "Backbone",
    "Tokens",
    "ViTBackbone",
    "ViTShape",
    "build_backbone",
    "imported_timm",
    "resampled_positions",
    "vision_transformer",
]

NORM_EPS = 1e-6  # of every LayerNorm in a DINO ViT; PyTorch's default would be 1e-5


@dataclass(frozen=True, kw_only=True)
class ViTShape:
    """Width, depth and heads of a Vision Transformer."""

    embed_dim: int
    depth: int
    num_heads: int


ARCHS = {
    "vit_micro": ViTShape(embed_dim=128, depth=6, num_heads=4),  # ours: laptops and demos
    "vit_tiny": ViTShape(embed_dim=192, depth=12, num_heads=3),
    "vit_small": ViTShape(embed_dim=384, depth=12, num_heads=6),
    "vit_base": ViTShape(embed_dim=768, depth=12, num_heads=12),
    "vit_large": ViTShape(embed_dim=1024, depth=24, num_heads=16),
}
RESNET_MICRO = {"layers": (1, 1, 1, 1), "channels": (32, 64, 128, 256), "stem_width": 16}
"""``resnet_micro``, ours: timm's resnet10t with half its channels, for training on CPUs."""


def vision_transformer(
    *,
    embed_dim: int,
    depth: int,
    num_heads: int,
    patch_size: int = 16,
    image_size: int = 224,
    drop_path_rate: float = 0.0,
    arch: str = "vit",
) -> ViTBackbone:
    """A DINO Vision Transformer of any shape, initialised as the original.

    Args:
        embed_dim: Width of the tokens.
        depth: Number of blocks.
        num_heads: Attention heads; must divide ``embed_dim``.
        patch_size: Side of a patch in pixels.
        image_size: Side in pixels of the images whose position embeddings are learned.
        drop_path_rate: Stochastic depth of the last block, rising linearly from 0 at the first.
        arch: Name that the backbone reports.

    Raises:
        ValueError: The sizes do not fit each other.
    """
    if embed_dim % num_heads:
        raise ValueError(f"num_heads must divide embed_dim={embed_dim}, got {num_heads}")
    if not 1 <= patch_size <= image_size:
        raise ValueError(f"patch_size must lie in [1, image_size={image_size}], got {patch_size}")
    network = imported_timm().models.vision_transformer.VisionTransformer(
        img_size=image_size,
        patch_size=patch_size,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads,
        num_classes=0,
        drop_path_rate=drop_path_rate,
        norm_layer=lambda width, **kwargs: nn.LayerNorm(width, eps=NORM_EPS, **kwargs),
        weight_init="skip",
    )
    network.apply(_initialise)
    nn.init.trunc_normal_(network.cls_token, std=0.02)
    nn.init.trunc_normal_(network.pos_embed, std=0.02)
    return ViTBackbone(network, arch=arch, patch_size=patch_size, image_size=image_size)


def build_backbone(
    arch: str,
    *,
    patch_size: int = 16,
    image_size: int = 224,
    drop_path_rate: float = 0.0,
    small_stem: bool = False,
) -> Backbone:
    """An untrained backbone by name.

    Args:
        arch: One of ``ARCHS``, ``resnet_micro``, or any timm model name.
        patch_size: Side of a patch in pixels for the archs in ``ARCHS``; timm names bring theirs.
        image_size: Side in pixels for which position embeddings are learned.
        drop_path_rate: Stochastic depth, where the network knows it.
        small_stem: For images below 64 px: a ResNet without its max-pool, and with a 3x3
            convolution of stride 1 where the stem is one 7x7 convolution.

    Raises:
        ValueError: Unknown arch (the nearest names are given), or sizes that do not fit.
    """
    if arch in ARCHS:
        if small_stem:
            raise ValueError(f"small_stem is for ResNets, got arch {arch!r}")
        shape = ARCHS[arch]
        return vision_transformer(
            embed_dim=shape.embed_dim,
            depth=shape.depth,
            num_heads=shape.num_heads,
            patch_size=patch_size,
            image_size=image_size,
            drop_path_rate=drop_path_rate,
            arch=arch,
        )
    timm = imported_timm()
    if arch == "resnet_micro":
        network = timm.create_model(
            "resnet10t", num_classes=0, drop_path_rate=drop_path_rate, **RESNET_MICRO
        )
    elif timm.is_model(arch):
        network = _timm_network(timm, arch, image_size=image_size, drop_path_rate=drop_path_rate)
    else:
        raise ValueError(_unknown_arch(arch, timm.list_models()))
    if isinstance(network, timm.models.vision_transformer.VisionTransformer):
        patch = network.patch_embed.patch_size[0]
        return ViTBackbone(network, arch=arch, patch_size=patch, image_size=image_size)
    if small_stem:
        _shrink_stem(network, arch)
    stride = max((info["reduction"] for info in network.feature_info), default=1)
    backbone = Backbone(network, arch=arch, patch_size=stride, image_size=image_size)
    backbone.small_stem = small_stem
    return backbone


def _timm_network(timm: Any, arch: str, *, image_size: int, drop_path_rate: float) -> nn.Module:
    """The timm model without its classifier; only ViT-like models are told the image size."""
    options: dict[str, Any] = {"num_classes": 0, "drop_path_rate": drop_path_rate}
    try:
        return timm.create_model(arch, img_size=image_size, **options)  # type: ignore[no-any-return]
    except TypeError:  # convnets take any size and refuse the argument
        return timm.create_model(arch, **options)  # type: ignore[no-any-return]


def _shrink_stem(network: Any, arch: str) -> None:
    """Give a ResNet the stem for small images, in place."""
    if not isinstance(getattr(network, "maxpool", None), nn.MaxPool2d):
        raise ValueError(f"small_stem is for ResNets with a max-pool, got {arch!r}")
    network.maxpool = nn.Identity()
    old = network.conv1
    if isinstance(old, nn.Conv2d):
        network.conv1 = nn.Conv2d(3, old.out_channels, kernel_size=3, padding=1, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")


def _initialise(module: nn.Module) -> None:
    """Linear weights N(0, 0.02), zero bias; norms 1 and 0; convolutions as PyTorch does."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d | nn.LayerNorm):
        module.reset_parameters()


def _unknown_arch(arch: str, timm_names: list[str]) -> str:
    ours = [*ARCHS, "resnet_micro"]
    near = difflib.get_close_matches(arch, [*ours, *timm_names], n=5)
    hint = f"nearest: {', '.join(near)}" if near else "see timm.list_models()"
    return f"no arch named {arch!r}; choose one of {', '.join(ours)} or a timm model ({hint})"


def imported_timm() -> Any:
    """timm, imported on first use: it costs seconds, and a mixed torch install breaks it."""
    try:
        import timm
        import timm.models.vision_transformer
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        raise MissingExtraError(
            "torch and torchvision come from different builds and cannot work together "
            f"({error}); install both from one place, e.g. pip install --force-reinstall "
            "torch torchvision"
        ) from error
    return timm
