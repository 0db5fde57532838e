"""A folder of odd, broken and hostile files: each is decoded or named, cheaply, and none hurts."""

import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest

from dino_infer.errors import ImageError
from dino_infer.images.read import image_size, read_image
from dino_infer.sources.image_list import list_images
from tests.infer.images import odd_files
from tests.infer.images.odd_files import as_file

GROWTH_MIB = 100  # what the worst file may cost beyond an ordinary picture
WALL_S = 60  # for all of them; one second on an idle machine
WALK = """
import sys
from pathlib import Path
from dino_infer.errors import ImageError
from dino_infer.images.read import read_image
from dino_infer.sources.image_list import list_images

def peak_mib():  # not ru_maxrss, which begins at what the parent process had
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

images = list_images(sys.argv[1:])
read_image(images.read(0), path="warm")
before = peak_mib()
for i in range(1, len(images)):
    name = images.name(i)
    start = peak_mib()
    try:
        read_image(images.read(i), path=name)
    except ImageError:
        pass
    print(f"{peak_mib() - start:.0f} MiB {name!r}", file=sys.stderr)
print(peak_mib() - before)
"""


@pytest.fixture(scope="module")
def odd_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("collection") / "odd"
    return folder, odd_files.write_odd_files(folder)


def outcome(images, i: int) -> str:
    try:
        image = read_image(images.read(i), path=images.name(i))
    except ImageError as error:
        assert error.path == images.name(i)
        assert error.reason and "\n" not in str(error)
        return error.kind
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    return "ok"


def test_every_odd_file_is_decoded_or_named_with_its_kind(odd_folder):
    folder, expected = odd_folder
    images = list_images(folder)
    got = {images.name(i): outcome(images, i) for i in range(len(images))}
    assert got == expected


def test_odd_files_cost_little_memory_and_time(odd_folder, tmp_path):
    folder, expected = odd_folder
    (tmp_path / "first.jpg").write_bytes(as_file("JPEG"))
    sources = [os.fspath(tmp_path / "first.jpg"), os.fspath(folder)]
    start = time.monotonic()
    walk = subprocess.run(
        [sys.executable, "-c", WALK, *sources], capture_output=True, text=True, timeout=300
    )
    assert time.monotonic() - start < WALL_S
    assert walk.returncode == 0, walk.stderr
    assert len(re.findall("MiB", walk.stderr)) == len(expected)
    assert float(walk.stdout) < GROWTH_MIB, walk.stderr


def test_sizes_of_odd_files_are_told_or_refused(odd_folder):
    folder, expected = odd_folder
    images = list_images(folder)
    for i in range(len(images)):
        name = images.name(i)
        if expected[name] in ("ok", "too_large", "unsupported"):
            try:
                height, width = image_size(images.read(i), name)
            except ImageError as error:
                assert error.kind == expected[name]
            else:
                assert expected[name] == "ok" and height > 0 and width > 0
