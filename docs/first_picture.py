"""Draw the README's first picture: python docs/first_picture.py RUN [--out docs/pictures].

RUN is the run folder of the quick start. Columns are photographs that ship with scikit-image and
scikit-learn; rows are the photograph, the object that TokenCut finds, and the patches in the three
principal colours of their features.
"""

import argparse
import dataclasses
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from dino_infer import (
    Backbone,
    Embedder,
    Preprocess,
    find_objects,
    load_backbone,
    load_image,
    patch_pca,
    patch_tokens,
    pca_colors,
)
from dino_infer.drawing.overlays import smoothed
from dino_infer.samples import whole_photos

NAMES = ("flower", "china", "rocket")
SIDE = 320  # pixels that the network sees on the shorter side
CELL = (392, 260)
GAP = 8
DIM = 0.28  # of the light that is left beside an object


def main() -> int:
    """Write the picture and say how large it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="weights of the network to show")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    options = parser.parse_args()
    backbone, _ = load_backbone(options.run)
    look = dataclasses.replace(Embedder.load(options.run).preprocess, size=SIDE, crop="none")
    with TemporaryDirectory() as folder:
        photos = [np.asarray(load_image(p)) for p in whole_photos(Path(folder), names=NAMES)]
    columns = [[photo, *views(photo, backbone, look)] for photo in photos]
    width, height = (CELL[i] + GAP for i in (0, 1))
    sheet = Image.new("RGB", (width * len(columns) - GAP, height * 3 - GAP), "white")
    for x, column in enumerate(columns):
        for y, cell in enumerate(column):
            sheet.paste(cut(cell), (x * width, y * height))
    path = options.out / "objects.webp"
    sheet.save(path, quality=80, method=6)
    sys.stdout.write(f"{path}: {path.stat().st_size / 1e3:.0f} kB\n")
    return 0


def views(photo: np.ndarray, backbone: Backbone, look: Preprocess) -> list[np.ndarray]:
    """The object on a darkened photograph, and the colours of the patches."""
    found = find_objects(photo, backbone=backbone, preprocess=look)
    height, width = found.picture.shape[:2]
    light = smoothed(255.0 * found.masks.any(axis=0), height, width).clip(0, 255) / 255
    shown = found.picture * (DIM + (1 - DIM) * light[..., None])
    patches = patch_tokens(photo, backbone=backbone, preprocess=look).tokens
    basis = patch_pca([patches])
    colors = pca_colors(basis.scores(patches), basis.variances, height=height, width=width)
    return [shown.round().astype(np.uint8), colors]


def cut(picture: np.ndarray) -> Image.Image:
    """The middle of a picture, as large as a cell."""
    image = Image.fromarray(picture)
    scale = max(CELL[0] / image.width, CELL[1] / image.height)
    image = image.resize((round(image.width * scale), round(image.height * scale)))
    left, top = (image.width - CELL[0]) // 2, (image.height - CELL[1]) // 2
    return image.crop((left, top, left + CELL[0], top + CELL[1]))


if __name__ == "__main__":
    sys.exit(main())
