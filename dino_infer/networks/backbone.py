"""Interface of backbones: one feature an image, all tokens, attention of [CLS] and patches."""

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

Images = Float[Tensor, "batch 3 height width"]
"""Normalised images, as networks take them."""


class Tokens(NamedTuple):
    """Tokens of a ViT for a batch of images, after the final norm."""

    cls: Float[Tensor, "batch embed_dim"]
    patches: Float[Tensor, "batch patches embed_dim"]
    registers: Float[Tensor, "batch registers embed_dim"]
    grid: tuple[int, int]
    """Patches per column and per row: (height, width) // patch_size."""


class Backbone(nn.Module):
    """Any timm network as a feature extractor: images to one vector each.

    All but ``forward`` and ``grid_of`` raise a ValueError where the network is no Vision
    Transformer.

    Attributes:
        arch: The name that ``build_backbone`` was given.
        network: The timm module; its state dict is what checkpoints hold.
        embed_dim: Length of the feature vector.
        patch_size: Side in pixels of a patch, or the total stride of a convnet.
        num_prefix_tokens: Tokens in front of the patch tokens: [CLS] and registers.
    """

    has_attention = False
    depth = 0
    """Transformer blocks that ``cls_attention`` can look at."""

    def __init__(self, network: nn.Module, *, arch: str, patch_size: int, image_size: int) -> None:
        super().__init__()
        self.network = network
        self.arch = arch
        self.patch_size = patch_size
        self.image_size = image_size
        self.small_stem = False
        self.num_prefix_tokens = 0

    def __repr__(self) -> str:
        millions = sum(parameter.numel() for parameter in self.parameters()) / 1e6
        return (
            f"{type(self).__name__}({self.arch!r}, patch_size={self.patch_size}, "
            f"embed_dim={self.embed_dim}, {millions:.1f} M parameters)"
        )

    @property
    def embed_dim(self) -> int:
        """Length of the feature vector."""
        return int(self.network.num_features)  # type: ignore[arg-type]

    def forward(self, images: Images) -> Float[Tensor, "batch embed_dim"]:
        """Feature of each image: the normed [CLS] token of a ViT, pooled features of a convnet."""
        features: Tensor = self.network(images)
        return features

    def tokens(self, images: Images) -> Tokens:
        """All normed tokens of the last block."""
        raise self._no_vit("patch tokens")

    def class_tokens(
        self, images: Images, *, last: int = 4
    ) -> Float[Tensor, "batch last embed_dim"]:
        """The normed [CLS] token after each of the last blocks, the deepest at the end."""
        return self.class_and_patch_tokens(images, last=last)[0]

    def class_and_patch_tokens(
        self, images: Images, *, last: int = 4
    ) -> tuple[Float[Tensor, "batch last embed_dim"], Float[Tensor, "batch patches embed_dim"]]:
        """``class_tokens`` and the normed patch tokens of the last block, from one forward pass."""
        raise self._no_vit("[CLS] tokens of several blocks")

    def cls_attention(
        self, images: Images, *, layer: int = -1
    ) -> Float[Tensor, "batch heads patches"]:
        """Attention of the [CLS] token to each patch."""
        raise self._no_vit("[CLS] attention")

    def cls_attention_by_layer(self, images: Images) -> Float[Tensor, "batch layers heads patches"]:
        """``cls_attention`` of every block, from one forward pass."""
        raise self._no_vit("[CLS] attention")

    def patch_attention(
        self,
        images: Images,
        patches: Sequence[int],
        *,
        layer: int = -1,
    ) -> Float[Tensor, "batch heads queries patches"]:
        """Attention of chosen patches to all patches."""
        raise self._no_vit("attention of patches")

    def keys(self, images: Images, *, layer: int = -1) -> Float[Tensor, "batch patches dim"]:
        """Keys of the patches in one block, the heads one after the other."""
        raise self._no_vit("keys of patches")

    def attention_rollout(self, images: Images) -> Float[Tensor, "batch patches"]:
        """Share of each patch that reaches the last [CLS] token by the attention of all blocks."""
        raise self._no_vit("attention rollout")

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Patches per column and per row of an image.

        Raises:
            ValueError: The image does not hold one patch.
        """
        grid = (height // self.patch_size, width // self.patch_size)
        if 0 in grid:
            raise ValueError(
                f"an image must hold at least one patch of {self.patch_size} px, "
                f"got {height} x {width}; use larger images or a smaller `patch_size`"
            )
        return grid

    def _no_vit(self, what: str) -> ValueError:
        return ValueError(
            f"{what} must come from a Vision Transformer; {self.arch!r} has no [CLS] token over a "
            "grid of patches"
        )
