"""Content of a data source: a folder, list file, tar shard, table, image, or a pattern of them."""

import logging
import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int32, Int64

from dino_infer.errors import DataError, first_line
from dino_infer.images.read import IMAGE_SUFFIXES
from dino_infer.sources import globs, parquet, tars
from dino_infer.sources.locations import Found, Source
from dino_infer.sources.tar_labels import shard_labels

logger = logging.getLogger(__name__)

_SUFFIXES = tuple(suffix.encode() for suffix in IMAGE_SUFFIXES)
_UNREAD_PICTURES = (b".heic", b".heif", b".jxl", b".svg", b".psd", b".dng", b".cr2", b".nef")
_ARCHIVES = (b".gz", b".tgz", b".bz2", b".xz", b".zst", b".zip", b".7z", b".rar")


def found_at(source: str | Path, *, image_column: str | None = None) -> list[Found]:
    """The images of one source, or of all that a pattern stands for; ``list_images`` has the rules.

    Raises:
        DataError: A source is missing, unreadable, damaged, or holds no image.
    """
    pattern = os.fsencode(source)
    if globs.is_pattern(pattern):
        return _matched(pattern, image_column)
    return [_found_in(source, image_column)]


def _matched(pattern: bytes, image_column: str | None) -> list[Found]:
    """All image files as one source, then every other match as one of its own."""
    root, names = globs.matches(pattern)
    # Lists count only where the pattern asks for their suffix: "photos/*" also matches notes.txt.
    wanted = {b".tar", b".parquet", os.path.splitext(pattern)[1].lower()} - {b"", *_SUFFIXES}
    images, others = [], []
    for name in names:
        suffix = os.path.splitext(name)[1].lower()
        if name.endswith(b"/") or suffix in wanted:
            others.append(name)
        elif suffix in _SUFFIXES:
            images.append(name)
    if not images and not others:
        hint = f"; it matches {len(names)} files of other kinds" if names else ""
        raise DataError(
            f"no image, folder, .tar or .parquet matches {os.fsdecode(pattern)!r}{hint}"
        )
    left_out = len(names) - len(images) - len(others)
    if left_out:
        logger.info("%r: skipped %d files of other kinds", os.fsdecode(pattern), left_out)
    found = [_files(os.path.abspath(root), images)] if images else []
    for name in others:
        found.append(_found_in(os.fsdecode(os.path.join(root, name)), image_column))
    return found


def _found_in(source: str | Path, image_column: str | None) -> Found:
    try:
        path = os.path.abspath(os.fsencode(source))
        mode = os.stat(os.fsencode(source)).st_mode
    except (OSError, ValueError) as error:  # ValueError: a NUL inside
        raise DataError(
            f"cannot read the data source {str(source)!r}: {first_line(error)}"
        ) from error
    suffix = os.path.splitext(path)[1].lower()
    if stat.S_ISDIR(mode):
        return _in_folder(path)
    if not stat.S_ISREG(mode):
        raise DataError(f"expected a folder or a regular file of images, got {str(source)!r}")
    if suffix == b".tar":
        return _in_shard(path)
    if suffix == b".parquet":
        return _in_table(path, image_column)
    if suffix in _SUFFIXES:
        return _files(os.path.dirname(path), [os.path.basename(path)])
    if suffix in _ARCHIVES:
        raise DataError(f"expected a folder, a list file or a .tar, got {str(source)!r}: unpack it")
    return _in_list_file(path)


def _files(folder: bytes, names: list[bytes]) -> Found:
    return Found(Source(folder), b"".join(names), _lengths(names))


def _lengths(names: list[bytes]) -> Int32[np.ndarray, " images"]:
    return np.fromiter(map(len, names), dtype=np.int32, count=len(names))


def _in_folder(root: bytes) -> Found:
    skipped: Counter[bytes] = Counter()
    names = list(_walk(root, skipped))
    others = ", ".join(
        f"{count} {os.fsdecode(suffix) or 'without suffix'}"
        for suffix, count in skipped.most_common(5)
    )
    if not names:
        hint = f"; it holds other files: {others}" if others else ""
        for suffix in (".tar", ".parquet"):
            if skipped[suffix.encode()]:
                hint += f"; give {suffix} files by name, such as FOLDER/*{suffix}"
        raise DataError(f"no image in {os.fsdecode(root)!r}{hint}")
    if others:
        level = logging.WARNING if any(s in skipped for s in _UNREAD_PICTURES) else logging.INFO
        logger.log(level, "%r: skipped other files: %s", os.fsdecode(root), others)
    return _files(root, names)


def _walk(root: bytes, skipped: Counter[bytes]) -> Iterator[bytes]:
    """Names of images below a root, sorted by the bytes of the whole relative path."""
    seen: set[tuple[int, int]] = set()
    pending = [b""]
    while pending:
        name = pending.pop()
        if name and not name.endswith(b"/"):
            yield name
            continue
        try:
            pending += [name + entry for entry in _entries(os.path.join(root, name), seen, skipped)]
        except OSError as error:
            if not name:
                raise DataError(
                    f"cannot read {os.fsdecode(root)!r}: {first_line(error)}"
                ) from error
            folder = os.fsdecode(os.path.join(root, name))
            logger.warning("left out the folder %r: %s", folder, first_line(error))


def _entries(folder: bytes, seen: set[tuple[int, int]], skipped: Counter[bytes]) -> list[bytes]:
    """Images and subfolders of one folder, last first; subfolders end with a slash."""
    status = os.stat(folder)
    if (status.st_dev, status.st_ino) in seen:
        logger.info("%r is a folder that was listed already", os.fsdecode(folder))
        return []
    seen.add((status.st_dev, status.st_ino))
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(b"."):
                continue
            if globs.is_folder(entry):
                # The slash also sorts the folder as it will stand in the paths below it.
                names.append(entry.name + b"/")
            elif not entry.name.lower().endswith(_SUFFIXES):
                skipped[os.path.splitext(entry.name)[1].lower()] += 1
            elif entry.is_symlink() or entry.is_file():
                names.append(entry.name)
    return sorted(names, reverse=True)


def _in_list_file(path: bytes) -> Found:
    try:
        with open(path, "rb") as file:
            is_text = b"\0" not in file.read(4096)
            file.seek(0)
            data = file.read() if is_text else b""
    except OSError as error:
        raise DataError(f"cannot read {os.fsdecode(path)!r}: {first_line(error)}") from error
    if not is_text or b"\0" in data:
        raise DataError(
            f"expected a folder, a .tar, a .parquet or a UTF-8 text file with one path a line, "
            f"got other data in {os.fsdecode(path)!r}"
        )
    lines = data.removeprefix(b"\xef\xbb\xbf").splitlines()
    names = sorted(line.removeprefix(b"./") for line in lines if line.strip())
    if not names:
        raise DataError(f"the list file {os.fsdecode(path)!r} names no image")
    return _files(os.path.dirname(path), names)


def _in_shard(path: bytes) -> Found:
    shard, contents = tars.scan_shard(path)
    visible, links = _visible(contents.members), _visible(contents.links)
    by_place = {member.offset: member for member in visible if _is_image(member)}
    for link in sorted(filter(_is_image, links)):
        # A link to a listed image is that image; one to a file of another kind of name is its name.
        by_place.setdefault(link.offset, link)
    images = sorted(by_place.values())
    if not images:
        raise DataError(
            f"no image among the {len(contents.members)} files in {os.fsdecode(path)!r}"
        )
    others = [member for member in visible + links if not _is_image(member)]
    labels = shard_labels(shard, images, others)
    _warn_of_members(path, contents, others, labels)
    names = [os.path.basename(path) + b"/" + member.name for member in images]
    return Found(
        Source(os.path.dirname(path), shard=shard, has_row_labels=True),
        b"".join(names),
        _lengths(names),
        spans=np.array([member[1:] for member in images], dtype=np.int64),
        labels=labels if any(labels) else None,
    )


def _visible(members: list[tars.Member]) -> list[tars.Member]:
    return [member for member in members if b"/." not in b"/" + member.name]


def _is_image(member: tars.Member) -> bool:
    return member.name.lower().endswith(_SUFFIXES)


def _warn_of_members(
    path: bytes,
    contents: tars.Contents,
    others: list[tars.Member],
    labels: list[bytes | None],
) -> None:
    """Warn in one line of the members of a shard that are not used."""
    classes = sum(member.name.lower().endswith(b".cls") for member in others)
    pictures = sum(member.name.lower().endswith(_UNREAD_PICTURES) for member in others)
    broken = [name for name in contents.broken if name.lower().endswith((*_SUFFIXES, b".cls"))]
    without = labels.count(None)
    tells_classes = classes or without < len(labels)
    counted = (
        (
            without * bool(tells_classes),
            f"of {len(labels)} images have no class, so no class is used",
        ),
        (pictures, "pictures in formats that are not read"),
        (len(broken), "links to what is not in the tar"),
        (contents.replaced, "members of a name that comes again later"),
    )
    if told := "; ".join(f"{count} {what}" for count, what in counted if count):
        logger.warning("%r: %s", os.fsdecode(path), told)


def _in_table(path: bytes, image_column: str | None) -> Found:
    table, rows = parquet.scan_table(path, image_column=image_column)
    if not rows.names:
        raise DataError(f"the table {os.fsdecode(path)!r} has no rows")
    order = sorted(range(len(rows.names)), key=rows.names.__getitem__)
    before = os.path.basename(path) + b"/" if table.column else b""
    names = [before + rows.names[row] for row in order]
    spans = np.array([(row, -1) for row in order], dtype=np.int64)
    labels = [rows.labels[row] for row in order] if rows.labels else None
    if table.column:
        _warn_of_jumps(table, spans[:, 0])
        source = Source(os.path.dirname(path), table=table, has_row_labels=True)
    else:
        source = Source(os.path.dirname(path), has_row_labels=labels is not None)
    return Found(source, b"".join(names), _lengths(names), spans=spans, labels=labels)


def _warn_of_jumps(table: parquet.Table, rows: Int64[np.ndarray, " images"]) -> None:
    groups = np.searchsorted(table.group_ends, rows, side="right")
    changes = int((np.diff(groups) != 0).sum())
    if changes > 2 * len(table.group_ends):
        logger.warning(
            "%r: in the order of their paths the images change %d times between %d row groups, "
            "which are decoded each time; sort the table by its paths to read it fast",
            os.fsdecode(table.path),
            changes,
            len(table.group_ends),
        )
