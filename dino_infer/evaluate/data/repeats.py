"""Images that are byte for byte another one."""

import hashlib
import logging
from collections import Counter
from collections.abc import Set

from dino_infer.errors import ImageError
from dino_infer.evaluate.data.label_files import first_names
from dino_infer.sources.image_list import ImageList

logger = logging.getLogger(__name__)

UNKNOWN = -1  # size of an image that cannot be told without reading it


def repeats(images: ImageList, *, of: ImageList | None = None) -> dict[int, int]:
    """Images that are byte for byte an image of another list, or an earlier one of their own.

    Only images of equal size are read. Rows of tables, and images that cannot be read, repeat none.

    Args:
        images: Images that may be repeats.
        of: The images that they may repeat; None takes those of the list itself.

    Returns:
        Position of each repeat, and of the image that it repeats.
    """
    sizes = _sizes(images)
    if of is None:
        known: dict[bytes, int] = {}
        wanted = {size for size, count in Counter(sizes).items() if count > 1}
    else:
        known = _first_places(of, wanted=set(sizes))
        wanted = set(_sizes(of))
    found = {}
    for i, size in enumerate(sizes):
        digest = _digest(images, i) if size != UNKNOWN and size in wanted else None
        if digest is None:
            continue
        first = known.setdefault(digest, i) if of is None else known.get(digest)
        if first is not None and (of is not None or first != i):
            found[i] = first
    return found


def warn_of_shared(known: ImageList, asked: ImageList) -> None:
    """Warn of images to judge that are files of the images to judge by: each finds itself there."""
    files = set(map(tuple, known.files().tolist()))
    shared = [i for i, file in enumerate(asked.files().tolist()) if tuple(file) in files]
    if shared:
        logger.warning(
            "%d of the %d images to judge are among those to judge by, where each finds itself%s",
            len(shared),
            len(asked),
            first_names([asked.name(i) for i in shared]),
        )


def _first_places(images: ImageList, *, wanted: Set[int]) -> dict[bytes, int]:
    """Position of the first image with each content, of the wanted sizes."""
    places: dict[bytes, int] = {}
    for i, size in enumerate(_sizes(images)):
        if size != UNKNOWN and size in wanted and (digest := _digest(images, i)) is not None:
            places.setdefault(digest, i)
    return places


def _sizes(images: ImageList) -> list[int]:
    return [_size(images, i) for i in range(len(images))]


def _size(images: ImageList, i: int) -> int:
    try:
        return images.stat(i)[0]
    except ImageError:
        return UNKNOWN


def _digest(images: ImageList, i: int) -> bytes | None:
    try:
        return hashlib.sha256(images.read(i)).digest()
    except ImageError:
        return None
