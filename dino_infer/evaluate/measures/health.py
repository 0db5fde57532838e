"""Measures of networks that need no labels."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

SAME_PROTOTYPE = 0.025
"""Prototypes whose cosine is above 1 minus this count as one."""

AT_ONCE = 512  # prototypes that are compared with the unique ones


def unique_prototypes(
    prototypes: Float[Tensor, "prototypes dim"], *, tolerance: float = SAME_PROTOTYPE
) -> int:
    """Number of prototypes that are no copies of an earlier one.

    Args:
        prototypes: Rows of the last layer of a projection head; lengths do not matter.
        tolerance: Rows whose cosine is above 1 minus this are copies.

    Source: Govindarajan et al. 2024, https://arxiv.org/abs/2410.14060, where DINO's heads keep a
    few percent of their prototypes.
    """
    unit = F.normalize(prototypes.float(), dim=-1)
    unique = unit[:0]
    for start in range(0, len(unit), AT_ONCE):
        block = unit[start : start + AT_ONCE]
        if len(unique):
            block = block[(block @ unique.T).amax(dim=1) <= 1 - tolerance]
        copies = (block @ block.T > 1 - tolerance).cpu().numpy()
        first: list[int] = []
        for i in range(len(block)):
            if not copies[i, first].any():
                first.append(i)
        unique = torch.cat([unique, block[first]])
    return len(unique)
