"""A small labelled data set without a download: tiles of photographs that ship inside packages.

    python -m dino_infer.samples OUT

writes ``OUT/train/CLASS/*.png``, ``OUT/val/CLASS/*.png`` and ``OUT/SOURCES.txt``. A class is one
photograph; its training tiles come from one half of it and its validation tiles from the other.
"""

import argparse
import importlib.util
import itertools
import logging
import re
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from dino_infer.errors import DataError, DinoError, MissingExtraError
from dino_infer.images.read import load_image

logger = logging.getLogger(__name__)

SOURCES = "SOURCES.txt"
TITLE = "Tiles of photographs that ship with scikit-image and scikit-learn."

WINDOW_SCALES = (0.35, 0.95)
"""Side of the square that becomes a tile, relative to the shorter side of the half."""

CANDIDATES = 3
"""Squares drawn for a tile; the one with most contrast is kept, so that few show empty sky."""


@dataclass(frozen=True, kw_only=True)
class Photo:
    """A photograph inside an installed package."""

    package: str
    file: str
    credit: str
    licence: str
    stacked: bool = False
    """Halves are top and bottom instead of left and right: whichever show similar things."""


_CC0 = "CC0"
_PUBLIC = "public domain"
_FREE = "no known copyright restrictions"
_UNSTATED = "no licence stated by scikit-image"
_CC_BY = "CC BY 2.0, https://creativecommons.org/licenses/by/2.0/; changed: cut into tiles"


def _skimage(file: str, credit: str, licence: str) -> Photo:
    return Photo(package="skimage", file=f"data/{file}", credit=credit, licence=licence)


def _sklearn(file: str, credit: str, *, stacked: bool = False) -> Photo:
    path = f"datasets/images/{file}"
    return Photo(package="sklearn", file=path, credit=credit, licence=_CC_BY, stacked=stacked)


PHOTOS = {
    "astronaut": _skimage("astronaut.png", "NASA, https://flic.kr/p/r9qvLn", _PUBLIC),
    "brick": _skimage("brick.png", "https://cc0textures.com/view.php?tex=Bricks25", _CC0),
    "camera": _skimage("camera.png", "Lav Varshney", _CC0),
    "chelsea": _skimage("chelsea.png", "Stefan van der Walt", _CC0),
    "china": _sklearn(
        "china.jpg",
        "danielbuechele, https://www.flickr.com/photos/danielbuechele/6061409035/",
        stacked=True,
    ),
    "clock": _skimage("clock_motion.png", "Stefan van der Walt", _PUBLIC),
    "coffee": _skimage("coffee.png", "Rachel Michetti, by courtesy of Pikolo Espresso Bar", _CC0),
    "coins": _skimage("coins.png", "Brooklyn Museum Collection, archives/image/51611", _FREE),
    "flower": _sklearn(
        "flower.jpg", "vultilion, https://www.flickr.com/photos/vultilion/6056698931/"
    ),
    "grass": _skimage("grass.png", "linolafett, https://www.deviantart.com/linolafett", _CC0),
    "gravel": _skimage("gravel.png", "https://cc0textures.com/view.php?tex=Gravel04", _CC0),
    "hubble": _skimage("hubble_deep_field.jpg", "NASA, http://hubblesite.org", _PUBLIC),
    "moon": _skimage("moon.png", "the surface of the moon", _UNSTATED),
    "motorcycle": _skimage(
        "motorcycle_left.png",
        "D. Scharstein et al., Middlebury 2014, http://vision.middlebury.edu/stereo/data/scenes2014/",
        _UNSTATED,
    ),
    "page": _skimage("page.png", "a scanned page", _UNSTATED),
    "retina": _skimage("retina.jpg", "Mikael Häggström, doi:10.15347/wjm/2014.008", _CC0),
    "rocket": _skimage(
        "rocket.jpg", "SpaceX, https://www.flickr.com/photos/spacexphotos/16511594820/", _PUBLIC
    ),
    "text": _skimage("text.png", "https://en.wikipedia.org/wiki/File:Corner.png", _PUBLIC),
    "tissue": _skimage("ihc.png", "Center for Microscopy And Molecular Imaging", _FREE),
}


@dataclass(frozen=True)
class SampleCounts:
    """Number of classes and tiles that were written."""

    classes: int
    train: int
    val: int

    def __str__(self) -> str:
        return f"{self.train} training and {self.val} validation tiles of {self.classes} classes"


def write_samples(
    out: str | Path,
    *,
    tile: int = 64,
    train_per_class: int = 60,
    val_per_class: int = 20,
    seed: int = 0,
) -> SampleCounts:
    """Cut the photographs into tiles; equal arguments give equal files.

    The folder appears when it is complete. One that this function wrote before is replaced.

    Args:
        out: The new folder.
        tile: Height and width of the tiles, in pixels.
        train_per_class: Tiles of each photograph's first half.
        val_per_class: Tiles of its second half.
        seed: Seed of the places where tiles are cut.

    Raises:
        MissingExtraError: scikit-image or scikit-learn is not installed.
        DataError: ``out`` holds something else, or cannot be written.
    """
    if min(tile, train_per_class, val_per_class) < 1:
        raise ValueError(
            "tile, train_per_class and val_per_class must be at least 1, "
            f"got {tile}, {train_per_class}, {val_per_class}"
        )
    paths = photo_paths()
    counts = {"train": train_per_class, "val": val_per_class}
    with _new_folder(Path(out)) as folder:
        for name, path in paths.items():
            halves = _halves(load_image(path), stacked=PHOTOS[name].stacked)
            for (split, count), half in zip(counts.items(), halves, strict=True):
                (folder / split / name).mkdir(parents=True)
                rng = np.random.default_rng([seed, zlib.crc32(f"{split}/{name}".encode())])
                for i in range(count):
                    _tile(half, tile, rng).save(folder / split / name / f"{i:03}.png")
        (folder / SOURCES).write_text(_sources(paths), encoding="utf-8")
    return SampleCounts(len(paths), len(paths) * train_per_class, len(paths) * val_per_class)


def whole_photos(folder: str | Path, *, names: Sequence[str]) -> list[Path]:
    """Write whole photographs as ``folder/NAME.png``, to look at.

    Raises:
        MissingExtraError: scikit-image or scikit-learn is not installed.
        ValueError: A name is not in ``PHOTOS``.
    """
    paths = photo_paths()
    if unknown := sorted(set(names) - set(paths)):
        raise ValueError(f"expected names among {sorted(paths)}, got {unknown}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / f"{name}.png" for name in names]
    for name, path in zip(names, written, strict=True):
        Image.fromarray(load_image(paths[name])).save(path)
    return written


def photo_paths() -> dict[str, Path]:
    """The photographs that are really there: found as files, without importing the packages.

    Raises:
        MissingExtraError: scikit-image or scikit-learn is not installed.
    """
    roots: dict[str, Path] = {}
    for package, distribution in (("skimage", "scikit-image"), ("sklearn", "scikit-learn")):
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise MissingExtraError(
                f"the sample photographs are part of {distribution}, which is not installed: "
                'pip install "dino-toolkit[demo]"'
            )
        roots[package] = Path(spec.origin).parent
    paths = {name: roots[photo.package] / photo.file for name, photo in PHOTOS.items()}
    if missing := [name for name, path in paths.items() if not path.is_file()]:
        logger.warning("left out, because the installed packages lack them: %s", missing)
    return {name: path for name, path in paths.items() if name not in missing}


def _halves(
    photo: UInt8[np.ndarray, "height width 3"], *, stacked: bool
) -> tuple[UInt8[np.ndarray, "height_1 width_1 3"], UInt8[np.ndarray, "height_2 width_2 3"]]:
    """Two parts that share no pixel: left and right, or top and bottom."""
    middle = photo.shape[0 if stacked else 1] // 2
    return (photo[:middle], photo[middle:]) if stacked else (photo[:, :middle], photo[:, middle:])


def _tile(
    half: UInt8[np.ndarray, "height width 3"], tile: int, rng: np.random.Generator
) -> Image.Image:
    """A random square of the half, shrunk or enlarged to the size of a tile."""
    squares = [_square(half, rng) for _ in range(CANDIDATES)]
    best = max(squares, key=lambda square: float(square[::4, ::4].std()))
    return Image.fromarray(best).resize((tile, tile), Image.Resampling.LANCZOS)


def _square(
    half: UInt8[np.ndarray, "height width 3"], rng: np.random.Generator
) -> UInt8[np.ndarray, "side side 3"]:
    height, width = half.shape[:2]
    side = round(min(height, width) * float(rng.uniform(*WINDOW_SCALES)))
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    return np.ascontiguousarray(half[top : top + side, left : left + side])


def _sources(paths: Mapping[str, Path]) -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("scikit-image", "scikit-learn"))
    lines = [TITLE, f"Cut from the files of {versions}; one class is one photograph.", ""]
    for name in paths:
        photo = PHOTOS[name]
        lines.append(f"{name}: {photo.package}/{photo.file}; {photo.credit}; {photo.licence}")
    return "\n".join(lines) + "\n"


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder whose files become those of ``out`` when the block ends well."""
    if out.exists() and not _replaceable(out):
        raise DataError(f"expected a new folder, but {str(out)!r} holds something else")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
            folder = Path(temporary) / out.name
            folder.mkdir()
            yield folder
            _remove_earlier(out)
            if not out.exists():
                folder.rename(out)
                return
            for file in sorted(path for path in folder.rglob("*") if path.is_file()):
                target = out / file.relative_to(folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                file.replace(target)
    except OSError as error:
        raise DataError(f"cannot write {str(out)!r}: {error.strerror or error}") from error


def _replaceable(out: Path) -> bool:
    """True if a folder is empty or was written by ``write_samples``."""
    if not out.is_dir():
        return False
    sources = out / SOURCES
    is_ours = sources.is_file() and sources.read_bytes().startswith(TITLE.encode())
    return is_ours or not any(out.iterdir())


def _remove_earlier(out: Path) -> None:
    """Delete what ``write_samples`` wrote, and the folders that are empty then."""
    tiles = [
        path
        for split, name in itertools.product(("train", "val"), PHOTOS)
        for path in (out / split / name).glob("*.png")
        if re.fullmatch(r"\d{3,}", path.stem) and path.is_file()
    ]
    for file in (*tiles, out / SOURCES):
        file.unlink(missing_ok=True)
    classes = {tile.parent for tile in tiles}
    for folder in (*classes, *{path.parent for path in classes}, out):
        with suppress(OSError):  # it is missing, or others keep something in it
            folder.rmdir()


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the data set from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m dino_infer.samples", description=TITLE)
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to create")
    parser.add_argument("--tile", type=int, default=64, help="side of a tile, in pixels")
    parser.add_argument("--seed", type=int, default=0, help="decides where the tiles are cut")
    options = parser.parse_args(arguments)
    if options.tile < 1:
        parser.error(f"--tile must be at least 1, got {options.tile}")
    try:
        counts = write_samples(options.out, tile=options.tile, seed=options.seed)
    except DinoError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(f"{options.out}: {counts}; credits in {options.out / SOURCES}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
