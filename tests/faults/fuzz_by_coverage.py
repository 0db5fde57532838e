"""Fuzzing that looks for inputs which reach new code, by hand; needs ``pip install atheris``.

python -m tests.faults.fuzz_by_coverage pictures -max_total_time=600 -rss_limit_mb=4096
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["PIL", "dino_infer", "safetensors"]):
    from dino_infer.errors import DinoError
    from dino_infer.images.read import image_size, read_image
    from dino_infer.sources.tars import scan_shard
    from dino_infer.weights.files import read_weight_file
    from tests.faults.test_fuzz import MAX_PIXELS, pictures, refused_or, shard, small_weights

FOLDER = Path(tempfile.mkdtemp())


def read_picture(data: bytes) -> None:
    """Decode it at full size and smaller."""
    for wanted in (None, (8, 8)):
        refused_or(lambda w=wanted: read_image(data, max_pixels=MAX_PIXELS, min_scale_size=w))
    refused_or(lambda: image_size(data, "x", max_pixels=MAX_PIXELS))


def in_file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], None]:
    """Let a reader of files read bytes."""

    def run(data: bytes) -> None:
        (FOLDER / name).write_bytes(data)
        refused_or(lambda: read(FOLDER / name), DinoError)

    return run


TARGETS: dict[str, tuple[Callable[[bytes], None], Callable[[], list[bytes]]]] = {
    "pictures": (read_picture, pictures),
    "tars": (in_file("a.tar", lambda path: scan_shard(bytes(path))), lambda: [shard()]),
    "weights": (in_file("a.safetensors", read_weight_file), lambda: [small_weights()]),
}


if __name__ == "__main__":
    target, originals = TARGETS[sys.argv.pop(1)]
    corpus = FOLDER / "corpus"
    corpus.mkdir()
    for number, original in enumerate(originals()):
        (corpus / str(number)).write_bytes(original)
    atheris.Setup([*sys.argv, str(corpus)], target)
    atheris.Fuzz()
