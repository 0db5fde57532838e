"""Masks of 100 images from one to nine painted ones, and the floors: intersection over union.

    python benchmarks/paint_iou.py ECSSD RUN [RUN ...]

ECSSD is a folder with ``images`` and ``masks`` of the same names. The true masks of 1, 3 and 9
images are painted, in five draws of other images, and a linear model of the patches, as in the
demo's Paint tab, masks 100 images. Beside each network is the same one untrained, and an ellipse
in the middle of the picture. ``--ridges`` compares penalties on 50 images that are in no result.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int8
from PIL import Image

from dino_app.demo.models import Model, Models
from dino_infer.attention.patches import patch_tokens
from dino_infer.drawing.overlays import smoothed
from dino_infer.evaluate.measures.overlaps import centred_ellipse
from dino_infer.objects.painting import RIDGE, fit_patch_model

PAINTED, DRAWS, TESTED, CHOOSING = (1, 3, 9), 5, 100, 50
RIDGES = (0.0001, 0.001, 0.01, 0.1, 1.0)


class Photo(NamedTuple):
    """One image as a network sees it, and its true mask."""

    tokens: Float32[np.ndarray, "rows columns dim"]
    truth: Bool[np.ndarray, "height width"]

    def marks(self) -> Int8[np.ndarray, "rows columns"]:
        """The true mask on the patches: 1 where it covers at least half of one."""
        rows, columns = self.tokens.shape[:2]
        shares = Image.fromarray(self.truth.astype(np.float32)).resize(
            (columns, rows), Image.Resampling.BOX
        )
        return (np.asarray(shares) >= 0.5).astype(np.int8)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("ecssd", type=Path)
    parser.add_argument("runs", nargs="+", help="weights")
    parser.add_argument("--size", type=int, default=256, help="pixels of the shorter side")
    parser.add_argument("--ridges", action="store_true", help="compare penalties")
    options = parser.parse_args(arguments)
    names = sorted(path.stem for path in (options.ecssd / "images").iterdir())
    tested, rest = names[:TESTED], names[TESTED:]
    painted = rest[: DRAWS * max(PAINTED)]
    if options.ridges:
        tested = rest[-CHOOSING:]
    truths = [truth(options.ecssd, name) for name in tested]
    ellipses = [iou(centred_ellipse(*one.shape), one) for one in truths]
    print(f"{len(tested)} images, shorter side {options.size}; ellipse {mean(ellipses):.3f}")
    models = Models(options.runs, "cpu")
    for name in models.names_with_untrained:
        model, started = models.model(name), time.perf_counter()
        sources, targets = (
            list(photos(options.ecssd, part, model, options.size)) for part in (painted, tested)
        )
        for ridge in RIDGES if options.ridges else (RIDGE,):
            for count in PAINTED:
                draws = [
                    mean(overlaps(sources[i * count : (i + 1) * count], targets, ridge))
                    for i in range(DRAWS)
                ]
                spread = statistics.stdev(draws)
                print(
                    f"{name}, ridge {ridge:g}, {count} painted: {mean(draws):.3f} +- {spread:.3f}"
                )
        print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
    return 0


def photos(folder: Path, names: Sequence[str], model: Model, size: int) -> Iterator[Photo]:
    """Images with their masks, as a network sees them."""
    for name in names:
        image = np.asarray(Image.open(folder / "images" / f"{name}.jpg").convert("RGB"))
        seen = patch_tokens(image, backbone=model.backbone, preprocess=model.preprocess(size))
        yield Photo(seen.tokens, truth(folder, name))


def truth(folder: Path, name: str) -> Bool[np.ndarray, "height width"]:
    """The true mask of an image."""
    mask: np.ndarray = np.asarray(Image.open(folder / "masks" / f"{name}.png").convert("L")) > 127
    return mask


def overlaps(painted: Sequence[Photo], others: Sequence[Photo], ridge: float) -> list[float]:
    """Intersection over union of the masks of others, in pixels."""
    model = fit_patch_model(
        [one.tokens for one in painted], [one.marks() for one in painted], ridge=ridge
    )
    return [
        iou(smoothed(model.scores(one.tokens), *one.truth.shape) >= 0, one.truth) for one in others
    ]


def iou(mask: Bool[np.ndarray, "height width"], truth: Bool[np.ndarray, "height width"]) -> float:
    """Intersection over union of two masks."""
    return float((mask & truth).sum() / max(1, (mask | truth).sum()))


def mean(values: Sequence[float]) -> float:
    """The mean."""
    return statistics.fmean(values)


if __name__ == "__main__":
    sys.exit(main())
