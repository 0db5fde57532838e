"""What a backbone answers: one feature an image, all tokens, what [CLS] attends to."""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

POSITION_OFFSET = 0.1  # added to the wanted grid side before the scale factor is formed


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
