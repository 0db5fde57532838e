"""LOST: one object, grown from the patch that is like the fewest others."""

import numpy as np
from jaxtyping import Float

from dino_infer.objects.affinity import alike_rows, checked_rows
from dino_infer.objects.found import FoundObject, part_with

K = 100


def lost(keys: Float[np.ndarray, "rows columns dim"], *, k: int = K) -> FoundObject:
    """One object of an image.

    Patches are alike if the product of their keys is not negative. The seed is the patch like the
    fewest others. Those of the ``k`` patches of lowest degree that are like the seed grow it; the
    object is the connected part, around the seed, of the patches that are like them together.

    Args:
        keys: Keys of the patches, see ``Backbone.keys``.
        k: Number of patches that may grow the seed; all of them where there are fewer.

    Raises:
        ValueError: ``keys`` hold no patch, or NaN.

    Source: Siméoni et al. 2021, https://arxiv.org/abs/2109.14279, section 3.
    """
    if k < 1:
        raise ValueError(f"`k` must be at least 1, got {k}")
    rows, (height, width) = checked_rows(keys), keys.shape[:2]
    order = alike_rows(rows, at_least=0.0).sum(axis=1).argsort(kind="stable")
    seed, rows = int(order[0]), rows.astype(np.float64)
    lowest = rows[order[:k]]
    grown = lowest[lowest @ rows[seed] >= 0]
    scores = rows @ grown.sum(axis=0)
    partition = scores >= 0
    partition[seed] = True  # by all terms of its sum, whose rounding may say otherwise
    place = divmod(seed, width)
    mask = part_with(partition.reshape(height, width), place)
    return FoundObject(mask, scores.reshape(height, width), place)
