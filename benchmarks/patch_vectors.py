"""Vectors with the statistics of photographs, in any number, made block by block.

Each is a random 16 x 16 patch of a folder of photographs under one random projection, scaled to
length 1. A block depends on its number alone, so that millions of rows need not be kept.
"""

from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 16
BLOCK = 16_384  # rows


class PatchVectors:
    """Rows of a matrix that is not in memory; only ranges of rows can be taken."""

    def __init__(self, folder: Path, *, dim: int = 384, photos: int = 4000) -> None:
        paths = sorted(path for path in folder.rglob("*") if path.suffix in (".jpg", ".png"))
        rng = np.random.default_rng(0)
        chosen = [paths[i] for i in sorted(rng.permutation(len(paths))[:photos])]
        pictures = [np.asarray(Image.open(path).convert("RGB")) for path in chosen]
        self._pictures = [picture for picture in pictures if min(picture.shape[:2]) >= SIDE]
        scale = (SIDE * SIDE * 3) ** -0.5
        self._projection = rng.standard_normal((SIDE * SIDE * 3, dim), np.float32) * scale
        self.dim = dim

    def block(self, number: int) -> np.ndarray:
        """``BLOCK`` unit rows; negative numbers give queries that are among no others."""
        rng = np.random.default_rng([1, number] if number >= 0 else [2, -number])
        patches = np.empty((BLOCK, SIDE * SIDE * 3), np.float32)
        which = rng.integers(0, len(self._pictures), BLOCK)
        places = rng.random((BLOCK, 2))
        for row, (picture, place) in enumerate(zip(which, places, strict=True)):
            pixels = self._pictures[picture]
            top, left = (place * (np.array(pixels.shape[:2]) - SIDE + 1)).astype(int)
            patches[row] = pixels[top : top + SIDE, left : left + SIDE].reshape(-1)
        rows = (patches / 127.5 - 1) @ self._projection
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Some of the rows, in order."""
        numbers = range(start // BLOCK, (stop - 1) // BLOCK + 1)
        blocks = np.concatenate([self.block(number) for number in numbers])
        return blocks[start - numbers[0] * BLOCK : stop - numbers[0] * BLOCK]
