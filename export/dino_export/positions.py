"""Position embeddings resampled inside an exported graph, for whatever size comes.

Bicubic resampling is two matrix products, one per axis. Built from ``arange`` and comparisons, the
matrices need no resize operator, whose bicubic kernel, scales and edges differ between runtimes.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dino_infer.networks.positions import POSITION_OFFSET, PositionEmbedding

SHARPNESS = -0.75  # of PyTorch's bicubic kernel
ANTIALIASED_SHARPNESS = -0.5  # of the kernel that it widens against aliases, which is Pillow's


def axis_weights(
    old: int, new: int | torch.SymInt, *, offset: Float[Tensor, ""]
) -> Float[Tensor, "new old"]:
    """Weights of the old positions in each new one along an axis, without antialias.

    Args:
        old: Learned positions along the axis.
        new: Wanted positions.
        offset: Added to ``new`` before the scale is formed. With 0 and ``new`` equal to ``old``
            the matrix is the identity, exactly. Its device is where the matrix is made.
    """
    centers = torch.arange(new, dtype=torch.float32, device=offset.device) + 0.5
    source = centers * (old / (torch.scalar_tensor(new, device=offset.device) + offset)) - 0.5
    first = source.floor()
    # Taps beyond an edge count for the position at the edge.
    taps = torch.stack([first + tap for tap in (-1.0, 0.0, 1.0, 2.0)], dim=1)
    weights = _cubic((source[:, None] - taps).abs(), SHARPNESS)
    positions = torch.arange(old, dtype=torch.float32, device=offset.device)
    hits = taps.clamp(0, old - 1)[:, :, None] == positions
    return (weights[:, :, None] * hits).sum(dim=1)


def antialiased_axis_weights(
    old: int, new: int | torch.SymInt, *, device: torch.device
) -> Float[Tensor, "new old"]:
    """``axis_weights`` of a kernel that widens when the axis shrinks; identity for equal sizes."""
    scale = old / torch.scalar_tensor(new, dtype=torch.float32, device=device)
    centers = (torch.arange(new, dtype=torch.float32, device=device) + 0.5) * scale
    positions = torch.arange(old, dtype=torch.float32, device=device) + 0.5
    distances = positions - centers[:, None]
    weights = _cubic((distances / scale.clamp(min=1)).abs(), ANTIALIASED_SHARPNESS)
    return weights / weights.sum(dim=1, keepdim=True)


def resampled_in_graph(
    table: Float[Tensor, "old old embed_dim"],
    grid: tuple[int, int],
    *,
    square: bool | torch.SymBool,
    how: PositionEmbedding,
) -> Float[Tensor, "new_patches embed_dim"]:
    """``resampled_positions``, and for square images of the learned grid the table as it is.

    Args:
        table: Learned position embeddings.
        grid: Wanted rows and columns, which may be symbols.
        square: The image has as many rows of pixels as columns.
        how: Method as in ``resampled_positions``.
    """
    old, device = table.shape[0], table.device
    if how == "antialiased":
        rows, columns = (antialiased_axis_weights(old, new, device=device) for new in grid)
    else:
        # Tensors, because the truth of a symbol would be frozen at that of the traced size.
        same = [torch.scalar_tensor(fact, device=device) for fact in (square, grid[0] == old)]
        offset = torch.where(same[0] * same[1] > 0, 0.0, POSITION_OFFSET)
        rows, columns = (axis_weights(old, new, offset=offset) for new in grid)
    return torch.einsum("hi,wj,ijd->hwd", rows, columns, table).flatten(0, 1)


def rotary_in_graph(rope: Any, grid: tuple[int, int]) -> Float[Tensor, "patches double_head_dim"]:
    """Sines and cosines of DINOv3 for a grid, whose sides timm's own code would freeze."""
    numbers = (torch.arange(n, dtype=torch.float32, device=rope.periods.device) for n in grid)
    rows, columns = (2 * (i + 0.5) / n - 1 for i, n in zip(numbers, grid, strict=True))
    places = [rows[:, None].expand(-1, grid[1]), columns[None].expand(grid[0], -1)]
    turns = rope._get_pos_embed_from_coords(torch.stack(places, dim=-1).flatten(0, 1))
    return torch.cat(turns, dim=-1)


def _cubic(distance: Tensor, sharpness: float) -> Tensor:
    """The bicubic kernel of an absolute distance; zero from 2 on."""
    a, x = sharpness, distance
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
