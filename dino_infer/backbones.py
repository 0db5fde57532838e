"""Backbones by arch name: timm's modules, DINO's position embeddings and initialisation.

``build_backbone("vit_small", patch_size=8)`` gives a ViT whose weights carry the original key
names; any other arch is a timm model name (``resnet50``, ``xcit_small_12_p16_224`` ...).
"""

import difflib
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dino_infer.errors import MissingExtraError

NORM_EPS = 1e-6  # of every LayerNorm in a DINO ViT; PyTorch's default would be 1e-5
POSITION_OFFSET = 0.1  # added to the wanted grid side before the scale factor is formed


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


class Tokens(NamedTuple):
    """What a ViT says about a batch of images, after the final norm."""

    cls: Float[Tensor, "batch embed_dim"]
    patches: Float[Tensor, "batch patches embed_dim"]
    registers: Float[Tensor, "batch registers embed_dim"]
    grid: tuple[int, int]
    """Patches per column and per row: (height, width) // patch_size."""


class Backbone(nn.Module):
    """Any timm network as a feature extractor: images to one vector each.

    Attributes:
        arch: The name that ``build_backbone`` was given.
        network: The timm module; its state dict is what checkpoints hold.
        embed_dim: Length of the feature vector.
        patch_size: Side in pixels of a patch, or the total stride of a convnet.
        num_prefix_tokens: Tokens in front of the patch tokens: [CLS] and registers.
    """

    has_attention = False

    def __init__(self, network: nn.Module, *, arch: str, patch_size: int, image_size: int) -> None:
        super().__init__()
        self.network = network
        self.arch = arch
        self.patch_size = patch_size
        self.image_size = image_size
        self.small_stem = False
        self.num_prefix_tokens = 0

    @property
    def embed_dim(self) -> int:
        """Length of the feature vector."""
        return int(self.network.num_features)  # type: ignore[arg-type]

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch embed_dim"]:
        """Feature of each image: the normed [CLS] token of a ViT, pooled features of a convnet."""
        features: Tensor = self.network(images)
        return features

    def tokens(self, images: Float[Tensor, "batch 3 height width"]) -> Tokens:
        """All normed tokens of the last block.

        Raises:
            ValueError: The network is not a Vision Transformer.
        """
        raise ValueError(f"patch tokens need a Vision Transformer; {self.arch!r} is not one")

    def cls_attention(
        self, images: Float[Tensor, "batch 3 height width"], *, layer: int = -1
    ) -> Float[Tensor, "batch heads patches"]:
        """What the [CLS] token attends to.

        Raises:
            ValueError: The network is not a Vision Transformer.
        """
        raise ValueError(
            f"[CLS] attention needs a Vision Transformer; {self.arch!r} has no [CLS] token "
            "over a grid of patches"
        )


class ViTBackbone(Backbone):
    """A timm Vision Transformer that takes images of any height and width.

    Sizes that are not a multiple of the patch lose the rest at the right and the bottom, as in the
    original. Position embeddings are resampled as the original does, see ``resampled_positions``.
    """

    has_attention = True

    def __init__(self, network: nn.Module, *, arch: str, patch_size: int, image_size: int) -> None:
        super().__init__(network, arch=arch, patch_size=patch_size, image_size=image_size)
        self.num_prefix_tokens = int(network.num_prefix_tokens)  # type: ignore[arg-type]

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch embed_dim"]:
        """The [CLS] token after the final norm."""
        x, _ = self._embedded(images)
        for block in self._blocks():
            x = block(x)
        cls: Tensor = self.network.norm(x[:, 0])  # type: ignore[operator]
        return cls

    def tokens(self, images: Float[Tensor, "batch 3 height width"]) -> Tokens:
        """All tokens of the last block, after the final norm."""
        x, grid = self._embedded(images)
        for block in self._blocks():
            x = block(x)
        x = self.network.norm(x)  # type: ignore[operator]
        prefix = self.num_prefix_tokens
        return Tokens(cls=x[:, 0], patches=x[:, prefix:], registers=x[:, 1:prefix], grid=grid)

    def cls_attention(
        self, images: Float[Tensor, "batch 3 height width"], *, layer: int = -1
    ) -> Float[Tensor, "batch heads patches"]:
        """Attention of the [CLS] query to the patches in one block, from its q and k alone.

        The softmax runs over all keys; the keys of [CLS] and registers are dropped afterwards, so
        a row sums to less than 1. Memory is linear in the number of patches.

        Args:
            images: Normalised images.
            layer: Block to look at; negative counts from the last.

        Raises:
            ValueError: ``layer`` is out of range.
        """
        blocks = self._blocks()
        if not -len(blocks) <= layer < len(blocks):
            raise ValueError(
                f"layer must lie in [{-len(blocks)}, {len(blocks) - 1}] for {self.arch!r}, "
                f"got {layer}"
            )
        x, _ = self._embedded(images)
        layer %= len(blocks)
        for block in blocks[:layer]:
            x = block(x)
        attn = blocks[layer].attn
        heads = attn.num_heads
        qkv = attn.qkv(blocks[layer].norm1(x))
        q, k, _ = qkv.unflatten(-1, (3, heads, -1)).unbind(2)  # (batch, tokens, heads, head_dim)
        q, k = attn.q_norm(q[:, :1]), attn.k_norm(k)
        weights = torch.einsum("bqhd,bkhd->bhqk", q * attn.scale, k).softmax(dim=-1)
        return weights[:, :, 0, self.num_prefix_tokens :]

    def _blocks(self) -> list[Any]:
        return list(self.network.blocks)  # type: ignore[arg-type]

    def _embedded(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Patch embeddings with prefix tokens and positions, ready for the first block."""
        net: Any = self.network
        height, width = images.shape[-2:]
        grid = (height // self.patch_size, width // self.patch_size)
        if 0 in grid:
            raise ValueError(
                f"an image must hold at least one patch of {self.patch_size} px, "
                f"got {height} x {width}; use larger images or a smaller patch_size"
            )
        x = net.patch_embed.proj(images).flatten(2).transpose(1, 2)
        prefix = [
            token.expand(len(x), -1, -1)
            for token in (net.cls_token, net.reg_token)
            if token is not None
        ]
        count = 0 if net.no_embed_class else self.num_prefix_tokens
        if net.pos_embed is None:
            x = torch.cat([*prefix, x], dim=1)
        else:
            positions = net.pos_embed
            # The original resamples (then by 1 + 0.1/side) even to the learned grid itself
            # when the image is not square.
            if height != width or grid[0] * grid[1] != positions.shape[1] - count:
                patches = resampled_positions(positions[:, count:], grid)
                positions = torch.cat([positions[:, :count], patches], dim=1)
            if net.no_embed_class:
                x = torch.cat([*prefix, x + positions], dim=1)
            else:
                x = torch.cat([*prefix, x], dim=1) + positions
        return net.norm_pre(x), grid


def resampled_positions(
    positions: Float[Tensor, "1 patches embed_dim"], grid: tuple[int, int]
) -> Float[Tensor, "1 new_patches embed_dim"]:
    """Position embeddings of a square grid, resampled to another grid exactly as the original does.

    Bicubic without antialias. The scale factor is ``(side + 0.1) / old_side``, and because the
    factor, not the size, sets the sampling points, the 0.1 shifts the values: resizing to the size
    itself differs by up to 28 % on small grids and would not give the published features.

    Source: behaviour of the published DINO models, https://arxiv.org/abs/2104.14294.
    """
    side = math.isqrt(positions.shape[1])
    if side * side != positions.shape[1]:
        raise ValueError(f"position embeddings must form a square, got {positions.shape[1]}")
    scale = tuple((wanted + POSITION_OFFSET) / side for wanted in grid)
    square = positions.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    resampled = F.interpolate(square, scale_factor=scale, mode="bicubic", align_corners=False)
    return resampled.permute(0, 2, 3, 1).flatten(1, 2)


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
