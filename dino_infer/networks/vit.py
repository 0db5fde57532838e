"""Vision Transformers of any input size: tokens, and attention one row at a time."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dino_infer.networks.backbone import Backbone, Images, Tokens
from dino_infer.networks.positions import PositionEmbedding, resampled_positions

ATTENTION_ROWS_BYTES = 64 << 20  # attention held at once where a whole matrix is gone through


class Embedded(NamedTuple):
    """Images on their way into the first block."""

    x: Float[Tensor, "batch tokens embed_dim"]
    grid: tuple[int, int]
    rotary: Float[Tensor, "patches double_head_dim"] | None = None
    """Sines and cosines for queries and keys, where positions are rotary."""


class ViTBackbone(Backbone):
    """A timm Vision Transformer that takes images of any height and width.

    Sizes that are not a multiple of the patch lose the rest at the right and the bottom, as in the
    original. Position embeddings are resampled as the original does, see ``resampled_positions``.
    """

    has_attention = True

    def __init__(self, network: nn.Module, *, arch: str, patch_size: int, image_size: int) -> None:
        super().__init__(network, arch=arch, patch_size=patch_size, image_size=image_size)
        self.num_prefix_tokens = int(network.num_prefix_tokens)  # type: ignore[arg-type]
        self.position_embedding: PositionEmbedding = "dino"

    @property
    def depth(self) -> int:  # type: ignore[override]
        """Number of blocks."""
        return len(self._blocks())

    def forward(self, images: Images) -> Float[Tensor, "batch embed_dim"]:
        """The [CLS] token after the final norm.

        The last block computes no other token, which saves a fourteenth of the work of 12 blocks.
        """
        return self._normed(self._class_token(*self._before(images, -1)))

    def tokens(self, images: Images) -> Tokens:
        """All tokens of the last block, after the final norm."""
        last = self._through(self._blocks(), self._embedded(images))
        x, prefix = self._normed(last.x), self.num_prefix_tokens
        return Tokens(cls=x[:, 0], patches=x[:, prefix:], registers=x[:, 1:prefix], grid=last.grid)

    def class_and_patch_tokens(
        self, images: Images, *, last: int = 4
    ) -> tuple[Float[Tensor, "batch last embed_dim"], Float[Tensor, "batch patches embed_dim"]]:
        """``class_tokens`` and the normed patch tokens of the last block, from one forward pass."""
        if not 1 <= last <= self.depth:
            raise ValueError(f"last must lie in [1, {self.depth}], blocks of {self.arch!r}: {last}")
        embedded, tokens = self._embedded(images), []
        for block in self._blocks():
            embedded = self._through([block], embedded)
            tokens.append(embedded.x[:, 0])
        patches = embedded.x[:, self.num_prefix_tokens :]
        return self._normed(torch.stack(tokens[-last:], dim=1)), self._normed(patches)

    def cls_attention(
        self, images: Images, *, layer: int = -1
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
        return self._cls_row(*self._before(images, layer))

    def cls_attention_by_layer(self, images: Images) -> Float[Tensor, "batch layers heads patches"]:
        """``cls_attention`` of every block, from one forward pass."""
        return torch.stack([self._cls_row(*step) for step in self._steps(images)], dim=1)

    def patch_attention(
        self,
        images: Images,
        patches: Sequence[int],
        *,
        layer: int = -1,
    ) -> Float[Tensor, "batch heads queries patches"]:
        """Attention of chosen patches to all patches in one block.

        As ``cls_attention``: softmax over all keys, memory linear in patches per query.

        Args:
            images: Normalised images.
            patches: Numbers of the query patches, row by row from the top left.
            layer: Block to look at; negative counts from the last.

        Raises:
            ValueError: ``layer`` or a patch is out of range.
        """
        block, embedded = self._before(images, layer)
        count = embedded.grid[0] * embedded.grid[1]
        if bad := [patch for patch in patches if not 0 <= patch < count]:
            raise ValueError(
                f"patches must lie in [0, {count - 1}] on a grid of {embedded.grid[0]} x "
                f"{embedded.grid[1]}, got {bad[0]}"
            )
        rows = torch.tensor(list(patches), device=images.device) + self.num_prefix_tokens
        return self._attention(block, embedded, rows)[..., self.num_prefix_tokens :]

    def keys(self, images: Images, *, layer: int = -1) -> Float[Tensor, "batch patches dim"]:
        """Keys of the patches in one block, the heads one after the other.

        They tell objects from their surroundings better than the tokens after the block. Rotary
        positions are left out: they would make patches unlike that lie far apart.

        Args:
            images: Normalised images.
            layer: Block to look at; negative counts from the last.

        Raises:
            ValueError: ``layer`` is out of range.
        """
        _, k = self._projected(*self._before(images, layer))
        return k[:, :, self.num_prefix_tokens :].transpose(1, 2).flatten(2)

    def attention_rollout(self, images: Images) -> Float[Tensor, "batch patches"]:
        """Share of each patch that reaches the last [CLS] token by the attention of all blocks.

        The product over blocks of half the mean attention of the heads and half the identity, which
        stands for the residual connection. Only its [CLS] row is formed, from the last block back,
        and attention is held a few rows at a time.

        Source: Abnar and Zuidema 2020, https://arxiv.org/abs/2005.00928, section 3.
        """
        steps = list(self._steps(images))
        share = torch.zeros_like(steps[0][1].x[..., 0], dtype=torch.float32)
        share[:, 0] = 1
        for block, embedded in reversed(steps):
            share = (share + self._mixed(block, embedded, share)) / 2
        return share[:, self.num_prefix_tokens :]

    def _mixed(self, block: Any, embedded: Embedded, share: Tensor) -> Tensor:
        """``share`` times the block's attention, averaged over heads."""
        batch, tokens = share.shape
        bytes_per_row = 4 * batch * block.attn.num_heads * tokens
        rows = max(1, ATTENTION_ROWS_BYTES // max(1, bytes_per_row))
        mixed = torch.zeros_like(share)
        for start in range(0, tokens, rows):
            part = slice(start, start + rows)
            attention = self._attention(block, embedded, part).float().mean(dim=1)
            mixed += torch.einsum("bq,bqk->bk", share[:, part], attention)
        return mixed

    def _steps(self, images: Tensor) -> Iterator[tuple[Any, Embedded]]:
        """Every block with what goes into it."""
        embedded = self._embedded(images)
        for block in self._blocks():
            yield block, embedded
            embedded = self._through([block], embedded)

    def _before(self, images: Tensor, layer: int) -> tuple[Any, Embedded]:
        """One block and what goes into it."""
        if not -self.depth <= layer < self.depth:
            raise ValueError(
                f"layer must lie in [{-self.depth}, {self.depth - 1}] for {self.arch!r}, "
                f"got {layer}"
            )
        blocks = self._blocks()
        return blocks[layer], self._through(blocks[: layer % self.depth], self._embedded(images))

    def _through(self, blocks: list[Any], embedded: Embedded) -> Embedded:
        for block in blocks:
            embedded = embedded._replace(x=self._block(block, embedded))
        return embedded

    def _block(self, block: Any, embedded: Embedded) -> Tensor:
        x: Tensor = block(embedded.x)
        return x

    def _class_token(self, block: Any, embedded: Embedded) -> Float[Tensor, "batch embed_dim"]:
        """The [CLS] token after a block: keys and values of all tokens, the rest of one."""
        if not _is_plain(block):
            return self._block(block, embedded)[:, 0]
        attn, x = block.attn, embedded.x
        qkv = attn.qkv(block.norm1(x)).unflatten(-1, (3, attn.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        weights = (attn.q_norm(q[:, :, :1]) * attn.scale) @ attn.k_norm(k).transpose(-2, -1)
        mixed = attn.norm((weights.softmax(dim=-1) @ v).flatten(1))
        token = x[:, 0] + block.drop_path1(block.ls1(attn.proj_drop(attn.proj(mixed))))
        return token + block.drop_path2(block.ls2(block.mlp(block.norm2(token))))  # type: ignore[no-any-return]

    def _normed(self, x: Tensor) -> Tensor:
        normed: Tensor = self.network.norm(x)  # type: ignore[operator]
        return normed

    def _cls_row(self, block: Any, embedded: Embedded) -> Tensor:
        return self._attention(block, embedded, slice(0, 1))[:, :, 0, self.num_prefix_tokens :]

    def _attention(self, block: Any, embedded: Embedded, rows: slice | Tensor) -> Tensor:
        """Attention of the tokens in ``rows`` to all tokens: (batch, heads, rows, tokens)."""
        q, k = self._queries_and_keys(block, embedded)
        # No einsum: onnxruntime's divides by zero, and ends the process, on a batch of none.
        weights: Tensor = (q[:, :, rows] * block.attn.scale) @ k.transpose(-2, -1)
        return weights.softmax(dim=-1)

    def _queries_and_keys(self, block: Any, embedded: Embedded) -> tuple[Tensor, Tensor]:
        """Both as (batch, heads, tokens, head_dim), before scaling."""
        return self._projected(block, embedded)

    def _projected(self, block: Any, embedded: Embedded) -> tuple[Tensor, Tensor]:
        """Queries and keys by what tokens hold, not yet by where they are."""
        attn = block.attn
        qkv = attn.qkv(block.norm1(embedded.x)).unflatten(-1, (3, attn.num_heads, -1))
        q, k, _ = qkv.permute(2, 0, 3, 1, 4)
        return attn.q_norm(q), attn.k_norm(k)

    def _blocks(self) -> list[Any]:
        return list(self.network.blocks)  # type: ignore[arg-type]

    def _embedded(self, images: Tensor) -> Embedded:
        """Patch embeddings with prefix tokens and positions, ready for the first block."""
        net: Any = self.network
        height, width = images.shape[-2:]
        grid = self.grid_of(height, width)
        x = net.patch_embed.proj(images).flatten(2).transpose(1, 2)
        prefix = self._prefix(x.shape[0])
        if net.pos_embed is None:
            x = torch.cat([*prefix, x], dim=1)
        else:
            positions = self._positions(grid, square=height == width)
            if net.no_embed_class:
                x = torch.cat([*prefix, x + positions], dim=1)
            else:
                x = torch.cat([*prefix, x], dim=1) + positions
        return Embedded(net.norm_pre(x), grid)

    def _prefix(self, batch: int) -> list[Tensor]:
        net: Any = self.network
        tokens = (net.cls_token, net.reg_token)
        return [token.expand(batch, -1, -1) for token in tokens if token is not None]

    def _positions(self, grid: tuple[int, int], *, square: bool) -> Tensor:
        """Position embeddings for a grid, those of prefix tokens in front where they have some."""
        positions: Tensor = self.network.pos_embed  # type: ignore[assignment]
        count = 0 if self.network.no_embed_class else self.num_prefix_tokens
        # The original resamples (then by 1 + 0.1/side) even to the learned grid itself when the
        # image is not square.
        if square and grid[0] * grid[1] == positions.shape[1] - count:
            return positions
        patches = resampled_positions(positions[:, count:], grid, how=self.position_embedding)
        return torch.cat([positions[:, :count], patches], dim=1)


def _is_plain(block: Any) -> bool:
    """True if a block is what ``_class_token`` writes out: no variant of timm's."""
    from timm.layers.attention import Attention
    from timm.models.vision_transformer import Block

    attn = getattr(block, "attn", None)
    return (
        type(block) is Block
        and type(attn) is Attention
        and attn.gate is None
        and attn.attn_drop.p == 0
    )
