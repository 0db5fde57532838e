"""Other ways to compute what ``MultiCropNetwork`` computes, for benchmarks to time against it.

All take the modules of a network that exists, so weights and gradients are shared with it. None
knows stochastic depth.
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn

from dino_train.student_teacher import MultiCropNetwork


class Layout(NamedTuple):
    """Where the tokens of an image lie in the long row."""

    sizes: list[tuple[int, int]]
    """Images and tokens an image, for each crop size."""
    starts: Int[Tensor, " starts"]
    """Of each image, and the end of the last; 32 bits."""


Attention = Callable[[Tensor, Layout], Tensor]
"""From (all tokens, 3, heads, head_dim) to (all tokens, heads x head_dim)."""

LARGEST_FP8 = 448.0  # of float8_e4m3fn
SMALLEST_SCALE = 1e-12


class PackedNetwork(MultiCropNetwork):
    """Tokens of all crops as one long row: a matrix product takes all of them, whatever their size.

    Args:
        network: Whose modules are used.
        attention: Keeps the images apart.
    """

    def __init__(self, network: MultiCropNetwork, attention: Attention) -> None:
        super().__init__(network.backbone, network.head)
        self.attention = attention

    def forward(self, *crops: Tensor) -> tuple[Tensor, Tensor]:
        """Bottlenecks and features, as ``MultiCropNetwork`` gives them."""
        backbone = self.backbone
        embedded = [backbone._embedded(group.flatten(0, 1)) for group in crops]
        layout = layout_of([part.x for part in embedded])
        x = torch.cat([part.x.flatten(0, 1) for part in embedded])
        *blocks, last = backbone.network.blocks
        for block in blocks:
            x = self._through(block, x, layout)
        tokens = [
            backbone._class_token(last, part._replace(x=own))
            for part, own in zip(embedded, by_size(x, layout), strict=True)
        ]
        features = backbone._normed(torch.cat(tokens)).float()
        batch = crops[0].shape[1]
        bottlenecks = self.head.bottleneck(features)
        return bottlenecks.unflatten(0, (-1, batch)), features.unflatten(0, (-1, batch))

    def _through(self, block: Any, x: Tensor, layout: Layout) -> Tensor:
        attn = block.attn
        qkv = attn.qkv(block.norm1(x)).unflatten(-1, (3, attn.num_heads, -1))
        x = x + block.ls1(attn.proj(self.attention(qkv, layout)))
        return x + block.ls2(block.mlp(block.norm2(x)))


def layout_of(parts: list[Tensor]) -> Layout:
    """Of crops of each size, as (images, tokens, embed_dim)."""
    sizes, starts, end = [], [], 0
    for part in parts:
        images, tokens = part.shape[:2]
        sizes.append((images, tokens))
        starts.append(torch.arange(end, end + images * tokens, tokens, device=part.device))
        end += images * tokens
    starts.append(torch.full((1,), end, device=parts[0].device))
    return Layout(sizes, torch.cat(starts).int())


def by_size(rows: Tensor, layout: Layout) -> list[Tensor]:
    """Views for each crop size, with images in front."""
    parts = rows.split([images * tokens for images, tokens in layout.sizes])
    return [part.unflatten(0, size) for part, size in zip(parts, layout.sizes, strict=True)]


def attention_by_size(qkv: Tensor, layout: Layout) -> Tensor:
    """One call for each crop size."""
    mixed = []
    for part in by_size(qkv, layout):
        q, k, v = part.permute(2, 0, 3, 1, 4)
        mixed.append(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(0, 1))
    return torch.cat(mixed).flatten(1)


def varlen_attention(qkv: Tensor, layout: Layout) -> Tensor:
    """One call of a kernel that is told where each image starts; GPUs alone, 16-bit types alone."""
    from torch.nn.attention.varlen import varlen_attn  # not in older PyTorch

    longest = max(tokens for _, tokens in layout.sizes)
    starts = layout.starts
    return varlen_attn(*qkv.unbind(1), starts, starts, longest, longest).flatten(1)


def jagged_attention(qkv: Tensor, layout: Layout) -> Tensor:
    """PyTorch's attention over nested tensors, which hold images of unequal length; GPUs alone."""
    lengths = [tokens for _, tokens in layout.sizes]
    q, k, v = (
        torch.nested.nested_tensor_from_jagged(
            part, layout.starts.long(), min_seqlen=min(lengths), max_seqlen=max(lengths)
        ).transpose(1, 2)
        for part in qkv.unbind(1)
    )
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).values().flatten(1)


class Fp8Linear(nn.Module):
    """A linear layer whose forward product is in fp8, with one scale a tensor; backward in bf16."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """As ``nn.Linear``, in bf16."""
        rows = x.flatten(0, -2)
        operands = [value.to(torch.bfloat16) for value in (rows, self.weight, self.bias)]
        return Fp8Product.apply(*operands).unflatten(0, x.shape[:-1])


class Fp8Product(torch.autograd.Function):
    """``x @ weight.T + bias``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Both factors are scaled to the range of fp8 first."""
        ctx.save_for_backward(x, weight)
        (x8, x_scale), (weight8, weight_scale) = scaled_to_fp8(x), scaled_to_fp8(weight)
        return torch._scaled_mm(
            x8,
            weight8.t(),
            scale_a=x_scale,
            scale_b=weight_scale,
            bias=bias,
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Products in bf16."""
        x, weight = ctx.saved_tensors
        return grad @ weight, grad.t() @ x, grad.sum(dim=0)


def scaled_to_fp8(values: Tensor) -> tuple[Tensor, Tensor]:
    """Values times a factor that uses the whole range, and what undoes the factor."""
    scale = values.abs().amax().float().clamp(min=SMALLEST_SCALE) / LARGEST_FP8
    return (values / scale).to(torch.float8_e4m3fn), scale


def with_fp8(network: MultiCropNetwork) -> MultiCropNetwork:
    """A copy whose blocks multiply in fp8; patches and head stay as they are."""
    network = copy.deepcopy(network)
    for block in network.backbone.network.blocks:
        for part, names in ((block.attn, ("qkv", "proj")), (block.mlp, ("fc1", "fc2"))):
            for name in names:
                setattr(part, name, Fp8Linear(getattr(part, name)))
    return network
