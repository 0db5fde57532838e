"""Images with masks in two sets, of which the first is a memory for the second."""

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int32, Int64

from dino_infer.choices import MaskMeaning
from dino_infer.errors import DataError
from dino_infer.evaluate.data.label_files import first_names
from dino_infer.evaluate.data.mask_files import VOID
from dino_infer.evaluate.data.mask_layouts import VOC_IMAGES, VOC_SPLITS, check_no_split
from dino_infer.evaluate.data.masks import MaskedImages, masked_images
from dino_infer.evaluate.data.repeats import warn_of_shared

logger = logging.getLogger(__name__)

SHOWN = 5  # labels in an error


@dataclass(frozen=True, kw_only=True)
class MaskSets:
    """A memory and queries, with the classes of both."""

    memory: MaskedImages
    """Images to learn from, in random order."""
    queries: MaskedImages
    """Images to segment."""
    classes: Int32[np.ndarray, " classes"]
    """Labels of the classes in the masks, ascending; 0 is background."""
    pixels: Int64[np.ndarray, " classes"]
    """Pixels of each class in the memory; 0 for a class without an example."""
    requested: int
    """Images of both sets, with those that are left out or failed."""
    failed: int
    """Images that could not be read."""
    excluded: tuple[str, ...]
    """Images and masks that were left out, and why: a line each."""

    def indices(
        self, labels: Int32[np.ndarray, "height width"]
    ) -> Int32[np.ndarray, "height width"]:
        """Places in ``classes`` of the labels of a mask; void stays ``VOID``."""
        places = np.searchsorted(self.classes, labels).astype(np.int32)
        return np.where(labels == VOID, np.int32(VOID), places)

    def subset(self, denominator: int) -> MaskedImages:
        """The first part of the memory: one image of so many, at least one."""
        return self.memory.select(range(math.ceil(len(self.memory) / denominator)))


def mask_sets(
    source: str | Path,
    *,
    val: str | Path | None = None,
    masks: str | Path | None = None,
    levels: MaskMeaning | None = None,
    train_split: str | None = None,
    split: str | None = None,
    seed: int = 0,
) -> MaskSets:
    """Read two sets of images with masks.

    Args:
        source: As for ``masked_images``. Without ``val``, the lists of the layout of PASCAL VOC
            tell the two sets, and other images are parted in halves at random.
        val: The queries, as for ``masked_images``.
        masks: Folder of the masks of ``source``.
        levels: Meaning of the masks' levels, see ``masked_images``.
        train_split: List of the memory in the layout of PASCAL VOC. None takes ``train`` where
            there are lists.
        split: List of the queries in the layout of PASCAL VOC. None takes ``val``.
        seed: Seed of the halves, and of the order of the memory.

    Raises:
        DataError: There are fewer than two images, the sets share no class or differ in the
            meaning of their levels, or as ``masked_images``.
    """
    has_lists = masks is None and (Path(source) / VOC_IMAGES).is_dir()
    has_lists = has_lists and (Path(source) / VOC_SPLITS).is_dir()
    if train_split is None and has_lists:
        train_split = "train"
    if val is None and not has_lists:
        check_no_split(split, source)
    memory = masked_images(source, masks=masks, levels=levels, split=train_split, objects=False)
    order = np.random.default_rng(seed).permutation(len(memory))
    if val is not None or has_lists:
        queries = masked_images(val or source, levels=levels, split=split, objects=False)
        warn_of_shared(memory.images, queries.images)
        found = _in_sets(memory.select(order), queries)
        return replace(
            found,
            requested=memory.requested + queries.requested,
            failed=memory.failed + queries.failed,
            excluded=memory.excluded + queries.excluded,
        )
    if len(memory) < 2:
        raise DataError(f"{memory.source!r} has one image, expected at least 2 to part in halves")
    half = (len(memory) + 1) // 2
    return _in_sets(memory.select(order[:half]), memory.select(np.sort(order[half:])))


def _in_sets(memory: MaskedImages, queries: MaskedImages) -> MaskSets:
    """Find the classes of both sets; those without an example in the memory are named.

    Args:
        memory: Images to learn from, in random order.
        queries: Images to segment.

    Raises:
        DataError: The sets differ in the meaning of their levels, share no class, or hold only one.
    """
    if memory.levels != queries.levels:
        raise DataError(
            f"the masks of {memory.source!r} are {memory.levels}, those of {queries.source!r} "
            f"{queries.levels}; pass `levels` if they mean the same"
        )
    known, wanted = _pixels(memory), _pixels(queries)
    unknown = sorted(wanted.keys() - known.keys())
    if unknown and not wanted.keys() & known.keys() - {0}:
        raise DataError(
            f"the masks of {queries.source!r} and {memory.source!r} share no class but background: "
            f"they hold {_listed(wanted)} and {_listed(known)}"
        )
    if unknown:
        logger.warning(
            "%d classes of %s have no example in the memory and count as wrong%s",
            len(unknown),
            queries.source,
            first_names([str(label) for label in unknown]),
        )
    classes = sorted(known.keys() | wanted.keys())
    if len(classes) == 1:
        raise DataError(
            f"all masks of {memory.source!r} hold the label {classes[0]} alone, which every answer "
            "gets right; mark objects by other labels"
        )
    return MaskSets(
        memory=memory,
        queries=queries,
        classes=np.array(classes, np.int32),
        pixels=np.array([known.get(label, 0) for label in classes], np.int64),
        requested=memory.requested,
        failed=memory.failed,
        excluded=memory.excluded,
    )


def _listed(labels: Iterable[int]) -> str:
    return ", ".join(str(label) for label in sorted(labels)[:SHOWN])


def _pixels(images: MaskedImages) -> dict[int, int]:
    """Number of pixels of each label of a set but void."""
    total: dict[int, int] = {}
    for i in range(len(images)):
        labels = images.class_labels(i)
        counts = np.bincount(labels[labels != VOID])
        for label in np.flatnonzero(counts).tolist():
            total[label] = total.get(label, 0) + int(counts[label])
    return total
