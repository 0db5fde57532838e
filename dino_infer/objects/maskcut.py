"""MaskCut: several objects of an image, by cuts of the patches that no object has yet."""

import numpy as np
from jaxtyping import Bool, Float

from dino_infer.objects.affinity import checked_rows
from dino_infer.objects.found import FoundObject, part_with
from dino_infer.objects.tokencut import EPS, Cut, cut_of

TAU = 0.15
SMALLEST = 0.01  # share of the patches that a second and later object must have more of
MOST_OVERLAP = 0.5  # of a second and later object with the one before


def mask_cut(
    keys: Float[np.ndarray, "rows columns dim"],
    *,
    objects: int = 3,
    tau: float = TAU,
    eps: float = EPS,
) -> list[FoundObject]:
    """Objects of an image, the most salient first; their masks have no patch in common.

    The patches are cut as ``token_cut`` cuts them. A half with three or four corners of the grid
    is background, whatever its patches. Then the keys of the object become 0, so that its patches
    are like no other, and the rest is cut again. The objects end early where a cut finds an earlier
    object again, or a hundredth of the patches and less.

    Args:
        keys: Keys of the patches, see ``Backbone.keys``.
        objects: The most objects to look for.
        tau: Cosine from which on two patches are alike.
        eps: Weight of the edges between patches that are not, above 0.

    Raises:
        ValueError: ``keys`` hold no patch, or NaN.

    Source: Wang et al. 2023, https://arxiv.org/abs/2301.11320, section 3.2, equations 2 and 3. The
    end is that of the published code. The corners are counted after the half of the peak is chosen:
    in the code the sign of the vector, which is arbitrary, decides where these rules disagree.
    """
    if objects < 1:
        raise ValueError(f"`objects` must be at least 1, got {objects}")
    rows, grid = checked_rows(keys), keys.shape[:2]
    found: list[FoundObject] = []
    taken = np.zeros(grid, dtype=np.bool_)
    while len(found) < objects:
        free = np.where(taken.reshape(-1, 1), 0, rows).astype(rows.dtype)
        cut = cut_of(free, tau=tau, eps=eps)
        if cut is None:
            break
        cut = _with_background(cut, grid)
        one = cut.part_of(int(cut.vector.argmax()), grid=grid)
        if found and (one.mask.mean() <= SMALLEST or _overlap(one, found[-1]) > MOST_OVERLAP):
            break
        if taken[one.seed]:
            break
        one = one._replace(mask=part_with(one.mask & ~taken, one.seed))
        taken |= one.mask
        found.append(one)
    return found


def _with_background(cut: Cut, grid: tuple[int, int]) -> Cut:
    """The cut with the half as objects that holds the peak, or the other if it holds the frame."""
    cut = cut if cut.above[abs(cut.vector).argmax()] else cut.reversed()
    above: Bool[np.ndarray, "rows columns"] = cut.above.reshape(grid)
    corners = int(above[0, 0]) + int(above[0, -1]) + int(above[-1, 0]) + int(above[-1, -1])
    return cut.reversed() if corners >= 3 else cut


def _overlap(one: FoundObject, other: FoundObject) -> float:
    both, either = one.mask & other.mask, one.mask | other.mask
    return float(both.sum() / either.sum())
