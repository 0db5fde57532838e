"""Small videos of squares that move over noise, with their masks."""

from pathlib import Path

import numpy as np
from PIL import Image

from dino_infer.evaluate.reports.mask_sheets import write_palette_mask

HEIGHT, WIDTH, STEP = 48, 80, 4


def write_clip(frames: Path, masks: Path, *, count=6, labels=(1, 2), truths=None, start=0) -> None:
    """Write frames as JPEG and, for the first ``truths`` (all by default), masks as palette PNG."""
    rng = np.random.default_rng(3)
    ground = rng.integers(0, 60, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    frames.mkdir(parents=True)
    masks.mkdir(parents=True)
    for i in range(count):
        picture, mask = ground.copy(), np.zeros((HEIGHT, WIDTH), np.uint8)
        for place, label in enumerate(labels):
            rows = slice(4 + 22 * place, 22 + 22 * place)
            columns = slice(8 + STEP * i, 32 + STEP * i)
            picture[rows, columns], mask[rows, columns] = 0, label
            picture[rows, columns, place] = 240
        name = f"{start + i:05d}"
        Image.fromarray(picture).save(frames / f"{name}.jpg", quality=95)
        if truths is None or i < truths:
            write_palette_mask(masks / f"{name}.png", mask)


def davis(root: Path, *names: str, resolution="480p") -> Path:
    """Several clips in the layout of DAVIS."""
    for i, name in enumerate(names):
        write_clip(
            root / "JPEGImages" / resolution / name,
            root / "Annotations" / resolution / name,
            count=5 + i,
            labels=(1, 2)[: 1 + i % 2],
        )
    return root


def plain(root: Path, **options) -> Path:
    """One clip in the folders frames and masks."""
    write_clip(root / "frames", root / "masks", **options)
    return root
