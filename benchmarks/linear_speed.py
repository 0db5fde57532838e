"""Time of the fast mode of dino-eval linear: a grid of learning rates, then all rows with the best.

python benchmarks/linear_speed.py --rows 50000 --dim 384 --classes 10
"""

import time
from dataclasses import dataclass

import numpy as np
import tyro

from dino_infer.evaluate.data.labelled import LabelledFeatures
from dino_infer.evaluate.linear import LRS, train_linear


@dataclass
class Options:
    """Size of the problem."""

    rows: int = 50_000
    dim: int = 384
    classes: int = 10
    epochs: int = 100
    tries: int = 1


def main(options: Options) -> None:
    """Print seconds of wall-clock and of processor time."""
    rng = np.random.default_rng(0)
    labels = rng.integers(options.classes, size=options.rows)
    centers = rng.normal(size=(options.classes, options.dim))
    matrix = centers[labels] + 5 * rng.normal(size=(options.rows, options.dim))
    train = LabelledFeatures(
        source="random",
        matrix=matrix.astype(np.float32),
        labels=np.array([f"class {label}" for label in labels], dtype=object),
        description={"weights_sha256": "", "feature": "", "preprocess": {}},
        images=options.rows,
        failed=0,
    )
    wall, processor = time.perf_counter(), time.process_time()
    train_linear(train, epochs=options.epochs, tries=options.tries)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    print(f"{options}, {len(LRS)} learning rates: {wall:.1f} s wall, {processor:.1f} s processor")


if __name__ == "__main__":
    main(tyro.cli(Options))
