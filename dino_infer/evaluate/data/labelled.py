"""Images and features with a class each, and which sets of features may be compared."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Shaped
from numpy.typing import ArrayLike

from dino_infer.errors import DataError
from dino_infer.evaluate.contestants import Contestant
from dino_infer.evaluate.data.label_files import first_names, labels_from_file
from dino_infer.features.comparable import differences
from dino_infer.features.files import (
    Features,
    class_names,
    failures_in,
    feature_paths,
    read_features,
)
from dino_infer.features.matrix import SUFFIXES
from dino_infer.features.table import OK, possible_links, table_rows
from dino_infer.sources.aliases import one_of_each_file
from dino_infer.sources.image_list import ImageList, list_images

ROWS_AT_ONCE = 65_536

logger = logging.getLogger(__name__)


class LabelledFeatures(NamedTuple):
    """Features with a class name each, and where they come from."""

    source: str
    matrix: Float[np.ndarray, "rows dim"]
    labels: Shaped[np.ndarray, " rows"]
    description: Mapping[str, Any]
    images: int
    """Number of requested images."""
    failed: int
    """Number of requested images that could not be read."""


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """Images with a class name each."""

    source: str
    images: ImageList
    labels: Shaped[np.ndarray, " images"]

    def features(self, contestant: Contestant, **view: Any) -> LabelledFeatures:
        """Features of the images that can be read.

        Args:
            contestant: Maker of the features.
            **view: ``feature``, ``size`` and ``crop``, see ``Network.rows``.

        Raises:
            DataError: No image can be read.
        """
        rows = contestant.rows(self.images, **view)
        if not len(rows.features):
            raise DataError(f"{self.source!r} has no image that can be read")
        return LabelledFeatures(
            source=self.source,
            matrix=rows.features,
            labels=self.labels[rows.ok],
            description=contestant.description(**view),
            images=len(self.images),
            failed=rows.failed,
        )


def labelled_images(
    source: str, *, label_file: str | Path | None = None, image_column: str | None = None
) -> LabelledImages:
    """Images with their classes; those with several names count once.

    Args:
        source: Images in any form that ``list_images`` takes.
        label_file: Classes of the images, see ``labels_from_file``; by default those of the class
            folders, the tar or the table.
        image_column: See ``list_images``.

    Raises:
        DataError: There are no images, or no labels.
    """
    listed = list_images([source], image_column=image_column)
    if label_file is None:
        labels = class_names(listed)
    else:
        labels = labels_from_file(label_file, [listed.name(i) for i in range(len(listed))])
    if labels is None:
        raise DataError(_unlabelled(source))
    # A second name of an image would be its own nearest neighbour.
    kept = one_of_each_file(listed)
    return LabelledImages(source=source, images=listed.select(kept), labels=labels[kept])


def check_comparable(train: LabelledFeatures, val: LabelledFeatures) -> None:
    """Refuse sets that were made differently or share no class; report classes of only one.

    Raises:
        DataError: They cannot be compared.
    """
    widths = train.matrix.shape[1], val.matrix.shape[1]
    found = list(differences(train.description, val.description))
    differ = [f"{name} ({one} and {other})" for name, one, other in found]
    if widths[0] != widths[1]:
        differ.append(f"width ({widths[0]} and {widths[1]})")
    if differ:
        remedy = "embed both with the same weights, feature and size"
        if "preprocessing exact_decode" in (each.name for each in found):
            remedy += ", and feature files with `exact_decode`, as images are embedded here"
        raise DataError(
            f"{train.source!r} and {val.source!r} cannot be compared: they differ in "
            f"{', '.join(differ)}; {remedy}"
        )
    known, wanted = set(train.labels), set(val.labels)
    unknown, idle = sorted(wanted - known), sorted(known - wanted)
    if len(unknown) == len(wanted):
        raise DataError(
            f"{val.source!r} and {train.source!r} share no class; the first are {unknown[0]!r} "
            f"and {idle[0]!r}"
        )
    if unknown:
        logger.warning(
            "%d classes of %s have no training image and count as wrong%s",
            len(unknown),
            val.source,
            first_names(unknown),
        )
    if idle:
        logger.info("%d training classes have no image in %s", len(idle), val.source)


def is_feature_file(source: str) -> bool:
    """Tell if a source is a feature file, not a table of images."""
    path = Path(source)
    # A .parquet without a manifest beside it may be a table of images.
    is_images = path.suffix == ".parquet" and not feature_paths(path).manifest.is_file()
    return path.suffix in SUFFIXES and not is_images


def labelled_arrays(
    name: str,
    matrix: ArrayLike | torch.Tensor,
    labels: ArrayLike | torch.Tensor,
) -> LabelledFeatures:
    """Features and classes that are in memory.

    Args:
        name: Name of them in errors and reports.
        matrix: Features of the images, (rows, dim): an array, a tensor on any device, or lists.
        labels: Class of each row, (rows,).

    Raises:
        DataError: Features are not rows of finite numbers, differ from labels in number, or there
            are none.
    """
    try:
        with np.errstate(over="ignore"):  # told as infinity below
            matrix = _array(matrix).astype(np.float32, copy=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} must be rows of numbers, (rows, dim): {error}") from error
    labels = _array(labels)
    if matrix.ndim != 2 or labels.ndim != 1:
        raise DataError(
            f"{name} must have shape (rows, dim) and labels (rows,), got {matrix.shape} and "
            f"{labels.shape}"
        )
    if not len(matrix) == len(labels) > 0:
        raise DataError(
            f"{name} must have rows and a label for each, got {len(matrix)} rows and "
            f"{len(labels)} labels"
        )
    _check_finite(name, matrix)
    return LabelledFeatures(
        source=name,
        matrix=matrix,
        labels=np.array([str(label) for label in labels], dtype=object),
        description={},
        images=len(matrix),
        failed=0,
    )


def _array(values: ArrayLike | torch.Tensor) -> Shaped[np.ndarray, "..."]:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        # Which NumPy does not know.
        values = values.float() if values.dtype == torch.bfloat16 else values
    return np.asarray(values)


def features_in(source: str, *, label_file: str | Path | None = None) -> LabelledFeatures:
    """Features of a file with their classes.

    Args:
        source: A feature file: ``.npy``, ``.safetensors``, or ``.parquet`` with its manifest.
        label_file: Classes of the images, see ``labels_from_file``; by default those in the file.

    Raises:
        DataError: There are no labels, no rows, or the files cannot be used.
    """
    features = _read_rows(source)
    made, labels = features.manifest, features.labels
    if label_file is not None:
        failures = failures_in(feature_paths(source).failures) if made["failed"] else ()
        unread = [failure.path for failure in failures]
        labels = labels_from_file(label_file, features.paths, unread=unread)
    if labels is None:
        raise DataError(_unlabelled(source))
    if features.matrix.ndim != 2:
        raise DataError(
            f"{source!r} holds features of shape {features.matrix.shape}; k-NN needs one vector an "
            "image, so embed the images again without patches"
        )
    if not len(features.matrix):
        raise DataError(f"{source!r} has no feature rows")
    _check_finite(source, features.matrix, features.paths)
    if links := possible_links(feature_paths(source).table):
        logger.warning(
            "%d rows of %s may be links to files of others (same bytes and time), which would be "
            "their nearest neighbours; embed without them, or evaluate the images",
            links,
            source,
        )
    return LabelledFeatures(
        source=source,
        matrix=features.matrix,
        labels=labels,
        description=made,
        images=made.get("images", len(labels)),
        failed=made.get("failed", 0),
    )


def _read_rows(source: str) -> Features:
    """The features of a file, without the rows that stand for images that could not be read."""
    features = read_features(source, verify=True)  # every row is used
    if features.manifest.get("on_error") != "nan":
        return features
    ok = np.array([row.status == OK for row in table_rows(feature_paths(source).table)], np.bool_)
    return replace(
        features,
        matrix=features.matrix[ok],
        paths=tuple(compress(features.paths, ok)),
        labels=None if features.labels is None else features.labels[ok],
    )


def _check_finite(
    source: str, matrix: Float[np.ndarray, "rows dim"], paths: tuple[str, ...] = ()
) -> None:
    for start in range(0, len(matrix), ROWS_AT_ONCE):
        finite = np.isfinite(matrix[start : start + ROWS_AT_ONCE]).all(axis=1)
        if not finite.all():
            row = start + int(np.flatnonzero(~finite)[0])
            of = f", the features of {paths[row]!r}," if paths else ""
            raise DataError(
                f"{source!r}: row {row}{of} holds NaN or infinity; embed the images again"
            )


def _unlabelled(source: str) -> str:
    return (
        f"{source!r} has no labels; put the images into a folder for each class, CLASS/IMAGE, or "
        "name the classes in a label file"
    )
