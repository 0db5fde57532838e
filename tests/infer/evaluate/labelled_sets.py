"""Labelled features that tests of classification measure."""

import numpy as np

from dino_infer.evaluate.data.labelled import LabelledFeatures
from tests.infer.evaluate.conftest import DESCRIPTION

THREE = {"cat": 40, "dog": 40, "eel": 40}


def clusters(counts, *, seed=0, noise=0.5, dim=6, source="set"):
    """Labelled features around a centre for each class."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(list(counts), list(counts.values())).astype(object)
    centers = {
        label: np.random.default_rng(list(label.encode())).normal(size=dim) for label in counts
    }
    rows = [centers[label] + noise * rng.normal(size=dim) for label in labels]
    matrix = np.array(rows, dtype=np.float32).reshape(-1, dim)
    return LabelledFeatures(
        source=source, matrix=matrix, labels=labels, description=DESCRIPTION, images=len(rows),
        failed=0,
    )  # fmt: skip
