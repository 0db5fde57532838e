"""Objects found in the grid of patches of an image."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from dino_infer.attention.boxes import Box, components, mask_boxes
from dino_infer.attention.views import View


class FoundObject(NamedTuple):
    """One object in the grid of patches of an image."""

    mask: Bool[np.ndarray, "rows columns"]
    """The patches of the object: one connected part that holds the seed."""
    scores: Float[np.ndarray, "rows columns"]
    """The number of each patch that the mask was cut from, the higher the more of an object."""
    seed: tuple[int, int]
    """Row and column of the patch that the object was found by."""

    def box(self, view: View) -> Box:
        """The box around the object, in pixels of the image.

        Its ``mass`` is the share of the positive scores that lie in the object.
        """
        return mask_boxes(self.scores.clip(min=0), self.mask, view)[0]


def part_with(
    partition: Bool[np.ndarray, "rows columns"], seed: tuple[int, int]
) -> Bool[np.ndarray, "rows columns"]:
    """The patches of a partition that are connected to a seed in it, side by side."""
    parts = components(partition, diagonal=False)
    part: np.ndarray = parts == parts[seed]
    return part
