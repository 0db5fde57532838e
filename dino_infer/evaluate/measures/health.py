"""Measures of features that need no labels: effective ranks, spread, and unique prototypes."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

SAME_PROTOTYPE = 0.025
"""Prototypes whose cosine is above 1 minus this count as one."""

AT_ONCE = 512  # prototypes that are compared with the unique ones


def rankme(features: Float[Tensor, "images embed_dim"]) -> float:
    """Effective rank of the features: exp of the entropy of their singular values.

    Between 1 (all features on one line) and ``min(images, embed_dim)``; needs no labels.

    Source: Garrido et al. 2023, https://arxiv.org/abs/2210.02885, equation 1.
    """
    return effective_rank(torch.linalg.svdvals(features.float()))


def effective_rank(strengths: Float[Tensor, " directions"]) -> float:
    """Number of directions that count: exp of the entropy of their shares.

    Args:
        strengths: Singular values or eigenvalues, none below 0.
    """
    shares = strengths / strengths.sum().clamp_min(1e-30) + 1e-7
    return float(torch.exp(-(shares * shares.log()).sum()))


def lidar(views: Float[Tensor, "images views embed_dim"], *, delta: float = 1e-4) -> float:
    """Effective rank of what tells images apart, beyond what tells views of one image apart.

    The eigenvalues are those of the discriminant analysis that takes each image for a class and its
    views for examples. Between 1 and ``min(images - 1, embed_dim)``.

    Args:
        views: Features of several augmented views of each image, at least 2 of each.
        delta: Variance that is added in every direction of the differences between views.

    Raises:
        ValueError: There are fewer than 2 images or 2 views of each.

    Source: Thilak et al. 2023, https://arxiv.org/abs/2312.04000, section 4.
    """
    images, count, dim = views.shape
    if images < 2 or count < 2:
        raise ValueError(f"expected at least 2 images and 2 views, got {images} and {count}")
    exact = views.double()
    centers = exact.mean(dim=1)
    between = centers - centers.mean(dim=0)
    within = (exact - centers[:, None]).flatten(0, 1)
    scatter = within.T @ within / len(within)
    scatter += delta * torch.eye(dim, dtype=scatter.dtype, device=scatter.device)
    # With the factor L of the scatter, S^-1/2 B S^-1/2 and L^-1 B L^-T have the same eigenvalues.
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(scatter), between.T, upper=False)
    eigenvalues = torch.linalg.svdvals(whitened).square()
    return effective_rank(F.pad(eigenvalues, (0, dim - len(eigenvalues))))


def feature_std(features: Float[Tensor, "images embed_dim"]) -> Float[Tensor, ""]:
    """Spread of L2-normalised features: 0 when all are equal, near 1 when they fill the sphere."""
    unit = F.normalize(features.float(), dim=-1)
    return unit.var(dim=0, correction=0).sum().sqrt()


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
