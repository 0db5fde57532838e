"""The folder that ``dino-eval knn -o`` writes.

``accuracies.json``  top-1 and top-5 for each k, few-shot results, and what was compared how
``classes.csv``      of each class: images, top-1, and the class it is most often taken for
``confusion.png``    the confusion matrix, rows and columns in the order of ``classes.csv``

The last two are for one k: that with the best top-1, the smallest of several.
"""

import csv
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from dino_infer.errors import DataError
from dino_infer.evaluate.confusion import ClassResult, class_results, confusion_picture
from dino_infer.evaluate.knn import FewShot
from dino_infer.evaluate.labelled import MUST_AGREE, LabelledFeatures
from dino_infer.files import hold_output, remove_leftovers, whole_file
from dino_infer.knn.classifier import accuracy
from dino_infer.knn.votes import Ranking

FORMAT_VERSION = 1
FILES = ("accuracies.json", "classes.csv", "confusion.png")
COLUMNS = ("class", "images", "top1_percent", "most_confused_with", "confused_percent")


@contextmanager
def hold_report(folder: Path, *, overwrite: bool) -> Iterator[None]:
    """Be the only process that works on a report; refuse before hours of work what cannot be.

    The folder is made, and taken away again if nothing comes of it.

    Raises:
        DataError: It is no folder, not writable, or holds a report that must stay.
        OutputInUseError: Another process works on it.
    """
    _check_writable(folder)
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with hold_output(folder):
            found = [str(folder / name) for name in FILES if (folder / name).exists()]
            if found and not overwrite:
                raise DataError(f"{found[0]!r} exists; pass `overwrite=True`, or another `out`")
            remove_leftovers(*(folder / name for name in FILES))
            yield
    finally:
        if is_new:
            with suppress(OSError):  # it holds the report
                folder.rmdir()


def _check_writable(folder: Path) -> None:
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise DataError(f"the report goes to a folder, but {str(there)!r} is a file; change `out`")
    if not os.access(there, os.W_OK):
        raise DataError(f"cannot write {str(folder)!r}: folder {str(there)!r} is not writable")


def write_knn_report(
    folder: Path,
    *,
    train: LabelledFeatures,
    val: LabelledFeatures | None,
    rankings: dict[int, Ranking],
    few_shot: Sequence[FewShot],
    settings: dict[str, Any],
) -> None:
    """Write the files of a report; when one cannot be made, no older one is touched.

    Args:
        folder: An existing folder, see ``hold_report``.
        train: The neighbours.
        val: What was classified; None for leave-one-out.
        rankings: By k.
        few_shot: May be empty.
        settings: More to note in the JSON: temperature, seed and the like.
    """
    results = {k: accuracy(ranking, k=k) for k, ranking in rankings.items()}
    best = max(sorted(results), key=lambda k: results[k].top1_percent)
    summary = {
        "format_version": FORMAT_VERSION,
        "train": _origin(train),
        "val": "leave-one-out" if val is None else _origin(val),
        **{key: train.description.get(key) for key in MUST_AGREE},
        **settings,
        "accuracies": [{"k": k, **result._asdict()} for k, result in results.items()],
        "classes_k": best,
        "few_shot": [shot._asdict() for shot in few_shot],
    }
    labels = (train if val is None else val).labels
    names = np.unique(np.concatenate([train.labels, labels]))
    wanted, predicted = (np.searchsorted(names, side) for side in (labels, rankings[best].winners))
    classes = class_results(wanted, predicted, classes_number=len(names))
    title = f"k-NN with k = {best}: top-1 {results[best].top1_percent:.2f} %"
    with ExitStack() as files:
        # Nothing takes its name before all three are written.
        paths = [files.enter_context(whole_file(folder / name)) for name in FILES]
        paths[0].write_text(json.dumps(summary, indent=2) + "\n")
        _write_classes(paths[1], names.tolist(), classes)
        confusion_picture(wanted, predicted, names=names.tolist(), title=title).save(paths[2])


def _origin(side: LabelledFeatures) -> dict[str, Any]:
    counts = {"images": side.images, "failed": side.failed, "classes": len(set(side.labels))}
    return {"source": side.source, **counts}


def _write_classes(path: Path, names: Sequence[str], classes: Sequence[ClassResult]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(COLUMNS)
        for name, (images, correct, other, confused) in zip(names, classes, strict=True):
            top1 = f"{100 * correct / images:.2f}" if images else ""
            mistaken = ("", "")
            if other is not None:
                mistaken = (names[other], f"{100 * confused / images:.2f}")
            rows.writerow([name, images, top1, *mistaken])
