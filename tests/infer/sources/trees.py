"""Files, shards and names for the tests of this folder."""

import io
import os
import tarfile
from pathlib import Path


def grow(root: Path, *names: str | bytes, content: bytes = b"pixels") -> Path:
    """Create files, each holding its own name after ``content``."""
    for name in map(os.fsencode, names):
        path = os.path.join(os.fsencode(root), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content + b" of " + name)
    return root


def shard(path: Path, members: dict[str, bytes], **options) -> Path:
    with tarfile.open(path, "w", **options) as tar:
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return path


def names(images) -> list[str]:
    return [images.name(i) for i in range(len(images))]


def read_in_child(images, results):
    results.put([images.read(i) for i in range(len(images))])
