"""Thumbnails, one after the other in files that only grow, each checked when it is read.

Their places stand with the items, so merges move no picture and a picture whose item never came
to be is only lost room.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from dino_app.errors import StoreError
from dino_app.store.faiss_store.disk.manifest import sync

PREFIX = "thumbnails-"
_NAME = re.compile(PREFIX + r"\d{6}")
_PLACE = re.compile(rf"({_NAME.pattern}):(\d{{1,15}}):(\d{{1,9}}):([0-9a-f]{{64}})")
"""No way out of the folder, and no more memory than a picture takes."""


def picture_files(folder: Path) -> list[Path]:
    """The files of thumbnails in a folder, sorted."""
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


class Pictures:
    """The thumbnails of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, pictures: Sequence[bytes | None]) -> list[str | None]:
        """Bring pictures to the disk.

        Returns:
            The place of each, None where there is no picture.

        Raises:
            OSError: They cannot be written.
        """
        if not any(pictures):
            return [None] * len(pictures)
        packs = picture_files(self._folder)
        path = packs[-1] if packs else self._folder / f"{PREFIX}000001"
        places: list[str | None] = []
        with path.open("ab") as file:
            offset = file.tell()
            for picture in pictures:
                if not picture:
                    places.append(None)
                    continue
                file.write(picture)
                digest = hashlib.sha256(picture).hexdigest()
                places.append(f"{path.name}:{offset}:{len(picture)}:{digest}")
                offset += len(picture)
            file.flush()
            os.fsync(file.fileno())
        if not packs:
            sync(self._folder)
        return places

    def read(self, place: str) -> bytes:
        """The picture at a place.

        Raises:
            StoreError: It is missing or damaged.
        """
        found = _PLACE.fullmatch(place)
        if found is None:
            raise StoreError(f"no place of a thumbnail: {place[:100]!r}")
        name, offset, size, digest = found.groups()
        try:
            with (self._folder / name).open("rb") as file:
                data = os.pread(file.fileno(), int(size), int(offset))
        except OSError as error:
            raise StoreError(f"thumbnails cannot be read: {error}") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise StoreError(f"a thumbnail in {name} is damaged")
        return data
