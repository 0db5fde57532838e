"""Names of one file: links, other spellings and overlapping sources, of which one is to count."""

import logging
import os

import numpy as np
from jaxtyping import Int64

from dino_infer.sources.image_list import ImageList

logger = logging.getLogger(__name__)


def one_of_each_file(images: ImageList) -> Int64[np.ndarray, " kept"]:
    """The positions of the images with each file counted once.

    Of several names of a file the one that no link leads through is kept, and of several such, hard
    links among them, the first. A file that is missing is told apart by its path. Copies are files
    of their own.
    """
    files = images.files()
    order = np.lexsort((files["position"], files["inode"], files["device"]))
    ordered = files[order]
    firsts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)])
    kept = order[firsts]  # the sort is stable, so these are the first names
    sizes = np.diff(np.append(firsts, len(ordered)))
    for group in np.flatnonzero(sizes > 1).tolist():
        names = order[firsts[group] : firsts[group] + sizes[group]].tolist()
        kept[group] = next((i for i in names if not _is_linked(images, i)), names[0])
    if len(kept) < len(images):
        place = int(np.flatnonzero(sizes > 1)[0])
        names = order[firsts[place] : firsts[place] + sizes[place]].tolist()
        other = next(i for i in names if i != kept[place])
        logger.info(
            "%d of %d names are links to files listed under another name, or name them again, and "
            "do not count, such as %r, which is %r",
            len(images) - len(kept),
            len(images),
            images.location(other),
            images.location(kept[place]),
        )
    return np.sort(kept)


def _is_linked(images: ImageList, i: int) -> bool:
    """True if the name of an image leads through a link, or round about by ``..``."""
    folder, name = images.place(i)
    return os.path.realpath(os.path.join(folder, name)) != os.path.join(
        os.path.realpath(folder), name
    )
