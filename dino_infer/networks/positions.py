"""Learned position embeddings on grids that they were not learned on."""

import math
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

POSITION_OFFSET = 0.1  # added to the wanted grid side before the scale factor is formed

PositionEmbedding = Literal["dino", "antialiased"]
"""Resampling of position embeddings: "dino" also serves DINOv2, "antialiased" its models with
registers."""


def resampled_positions(
    positions: Float[Tensor, "1 patches embed_dim"],
    grid: tuple[int, int],
    *,
    how: PositionEmbedding = "dino",
) -> Float[Tensor, "1 new_patches embed_dim"]:
    """Position embeddings of a square grid, resampled to another grid exactly as the original does.

    "dino" is bicubic without antialias. The scale factor is ``(side + 0.1) / old_side``, and
    because the factor, not the size, sets the sampling points, the 0.1 shifts the values: resizing
    to the size itself differs by up to 28 % on small grids and would not give the published
    features. "antialiased" is bicubic to the size itself, as DINOv2 does in models with registers.

    Source: behaviour of the published DINO models, https://arxiv.org/abs/2104.14294.
    """
    side = math.isqrt(positions.shape[1])
    if side * side != positions.shape[1]:
        raise ValueError(f"position embeddings must form a square, got {positions.shape[1]}")
    table = positions.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    if how == "antialiased":
        resampled = F.interpolate(table, size=grid, mode="bicubic", antialias=True)
    else:
        scale = tuple((wanted + POSITION_OFFSET) / side for wanted in grid)
        resampled = F.interpolate(table, scale_factor=scale, mode="bicubic", align_corners=False)
    return resampled.permute(0, 2, 3, 1).flatten(1, 2)
