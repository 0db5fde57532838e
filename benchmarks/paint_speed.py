"""The demo's Paint tab without a browser: from a stroke to the new masks of nine photos.

    python benchmarks/paint_speed.py --weights RUN

Nine noisy photos of 480 x 640 pixels, features at hand, half of each of three painted: the strokes
are read, the model is fitted, all patches are scored, and nine small pictures are drawn. Without
--weights, ViT-S/16 with random weights. Times are of the wall and of the processor, which tell
apart on a busy machine.
"""

import argparse
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from serve_load import random_weights

from dino_app.demo.models import Models
from dino_app.demo.tabs.paint import Painting, _tiles, with_strokes

PHOTOS, PAINTED, SIZE = 9, 3, (480, 640)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", help="a Vision Transformer")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        weights = options.weights or str(random_weights(Path(folder), "vit_small", 224))
        models = Models([weights], "cpu")
    model, rng = models.model(models.names[0]), np.random.default_rng(0)
    photos = [rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8) for _ in range(PHOTOS)]
    looks = [model.look(photo, size=min(SIZE)) for photo in photos]
    patches = [look.tokens.shape for look in looks]
    painting = Painting(tuple(f"{i}.png" for i in range(PHOTOS)), tuple(looks))
    for place in range(PAINTED):
        painting = with_strokes(painting._replace(chosen=place), strokes())
    _tiles(painting)
    walls, cores = [], []
    for _ in range(options.rounds):
        wall, core = time.perf_counter(), time.process_time()
        _tiles(with_strokes(painting, strokes()))
        walls.append(1000 * (time.perf_counter() - wall))
        cores.append(1000 * (time.process_time() - core))
    print(f"{weights}: {PHOTOS} photos, patches {patches[0]}, {PAINTED} painted")
    for what, times in (("wall", walls), ("processor", cores)):
        print(f"{what}, ms: {statistics.median(times):.0f} ({min(times):.0f} - {max(times):.0f})")
    return 0


def strokes() -> bytes:
    """The left half painted, as the page sends it."""
    layer = np.zeros((480, 640, 4), dtype=np.uint8)
    layer[:, :320] = (255, 96, 16, 255)
    file = io.BytesIO()
    Image.fromarray(layer).save(file, "PNG", compress_level=1)
    return file.getvalue()


if __name__ == "__main__":
    sys.exit(main())
