"""Vision Transformers with rotary positions."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dino_infer.networks.vit import Embedded, ViTBackbone


class RotaryViTBackbone(ViTBackbone):
    """A ViT whose positions turn queries and keys instead of being added: DINOv3, as timm's Eva."""

    def _embedded(self, images: Tensor) -> Embedded:
        net: Any = self.network
        grid = self.grid_of(*images.shape[-2:])
        x = net.patch_embed.proj(images).flatten(2).transpose(1, 2)
        x = torch.cat([*self._prefix(x.shape[0]), x], dim=1)
        return Embedded(net.norm_pre(x), grid, rotary=net.rope.get_embed(shape=grid))

    def _block(self, block: Any, embedded: Embedded) -> Tensor:
        if _is_empty(embedded.x):  # timm's reshape cannot tell the width of nothing
            return embedded.x
        return block(embedded.x, rope=embedded.rotary)  # type: ignore[no-any-return]

    def _queries_and_keys(self, block: Any, embedded: Embedded) -> tuple[Tensor, Tensor]:
        q, k = self._projected(block, embedded)
        return self._turned(block.attn, q, embedded), self._turned(block.attn, k, embedded)

    def _projected(self, block: Any, embedded: Embedded) -> tuple[Tensor, Tensor]:
        attn = block.attn
        biases = None
        if attn.q_bias is not None:
            biases = torch.cat([attn.q_bias, attn.k_bias, attn.v_bias])
        qkv = F.linear(block.norm1(embedded.x), attn.qkv.weight, biases)
        shape = (*qkv.shape[:2], 3, attn.num_heads, qkv.shape[-1] // (3 * attn.num_heads))
        q, k, _ = qkv.reshape(shape).permute(2, 0, 3, 1, 4)
        return attn.q_norm(q), attn.k_norm(k)

    def _turned(self, attn: Any, x: Tensor, embedded: Embedded) -> Tensor:
        """Queries or keys with those of the patches turned by their positions."""
        from timm.layers.pos_embed_sincos import apply_rot_embed_cat

        prefix = self.num_prefix_tokens
        assert embedded.rotary is not None  # ``_embedded`` made it
        patches = apply_rot_embed_cat(x[:, :, prefix:], embedded.rotary, half=attn.rotate_half)
        return torch.cat([x[:, :, :prefix], patches.to(x.dtype)], dim=2)


def _is_empty(x: Tensor) -> bool:
    """True for a batch of no image; never while a graph is recorded, which is for any batch."""
    recording = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    return not recording and not len(x)
