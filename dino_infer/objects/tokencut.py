"""TokenCut: the most salient object, by a normalised cut of the graph of alike patches."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64

from dino_infer.objects.affinity import (
    PatchGraph,
    alike_rows,
    checked_rows,
    second_vector,
    unit_rows,
)
from dino_infer.objects.found import FoundObject, part_with

TAU = 0.2
EPS = 1e-5


def token_cut(
    keys: Float[np.ndarray, "rows columns dim"], *, tau: float = TAU, eps: float = EPS
) -> FoundObject | None:
    """The most salient object of an image; None where all patches are equally alike.

    Patches are alike if the cosine of their keys is at least ``tau``. The second vector of the
    graph, cut at its mean, divides the patches in two; the object is the connected part that holds
    the patch of largest magnitude.

    Args:
        keys: Keys of the patches, see ``Backbone.keys``.
        tau: Cosine from which on two patches are alike.
        eps: Weight of the edges between patches that are not, above 0.

    Raises:
        ValueError: ``keys`` hold no patch, or NaN.

    Source: Wang et al. 2022, https://arxiv.org/abs/2202.11539, section 3.
    """
    cut = cut_of(checked_rows(keys), tau=tau, eps=eps)
    if cut is None:
        return None
    seed = int(abs(cut.vector).argmax())
    cut = cut if cut.above[seed] else cut.reversed()
    return cut.part_of(seed, grid=keys.shape[:2])


class Cut(NamedTuple):
    """Division of patches in two."""

    vector: Float64[np.ndarray, " patches"]
    """The second vector of the graph."""
    above: Bool[np.ndarray, " patches"]
    """True for the half that counts as objects, whose numbers are the higher ones."""

    def reversed(self) -> "Cut":
        """The same cut with the other half as objects."""
        return Cut(-self.vector, ~self.above)

    def part_of(self, seed: int, *, grid: tuple[int, int]) -> FoundObject:
        """The object that holds a patch."""
        row, column = divmod(seed, grid[1])
        mask = part_with(self.above.reshape(grid), (row, column))
        return FoundObject(mask, self.vector.reshape(grid), (row, column))


def cut_of(rows: Float[np.ndarray, "patches dim"], *, tau: float, eps: float) -> Cut | None:
    """The best cut of patches, of either sign; None where none is better than another."""
    if eps <= 0:
        raise ValueError(f"`eps` must be above 0, got {eps}")
    graph = PatchGraph(alike_rows(unit_rows(rows), at_least=tau), eps)
    if graph.is_uniform:
        return None
    vector = second_vector(graph)
    return Cut(vector, vector > vector.mean())
