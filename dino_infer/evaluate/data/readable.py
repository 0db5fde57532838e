"""Features of the images that every contestant could read, so that all are asked the same."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from dino_infer.evaluate.contestants import Rows


class CommonRows(NamedTuple):
    """Feature rows of several contestants for the same images."""

    features: tuple[Float[np.ndarray, "rows _"], ...]
    """Rows of each contestant."""
    ok: Bool[np.ndarray, " images"]
    """True for the images of the list that have a row."""

    @property
    def failed(self) -> int:
        """Number of images without a row."""
        return int((~self.ok).sum())


def common_rows(rows: Sequence[Rows]) -> CommonRows:
    """The rows of those images that all contestants have.

    Args:
        rows: Rows of each contestant, for one list of images.
    """
    ok = np.logical_and.reduce([one.ok for one in rows])
    return CommonRows(tuple(one.features[ok[one.ok]] for one in rows), ok)
