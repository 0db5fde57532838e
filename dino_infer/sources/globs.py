"""Patterns that no shell has expanded: ``*``, ``?``, ``[ab]``, ``**``, ``{a,b}``, ``{0..9}``."""

import fnmatch
import itertools
import logging
import os
import re
from collections.abc import Iterator

from dino_infer.errors import DataError

logger = logging.getLogger(__name__)

_TOO_MANY = 1_000_000  # names from braces: a digit too many in {0..999999}

_SPECIAL = re.compile(rb"[*?\[{]")
_WILDCARD = re.compile(rb"[*?\[]")
_NUMBERS = re.compile(rb"(-?\d{1,15})\.\.(-?\d{1,15})(?:\.\.(-?\d{1,15}))?")
_LETTERS = re.compile(rb"([A-Za-z])\.\.([A-Za-z])")


def is_pattern(source: bytes) -> bool:
    """True if a source is to be expanded: it is no file or folder, and has a special character."""
    return _SPECIAL.search(source) is not None and not os.path.lexists(source)


def matches(pattern: bytes) -> tuple[bytes, list[bytes]]:
    """Folder and paths that a pattern stands for.

    Hidden files and folders match only where the pattern writes their dot; pipes, sockets and
    devices never do. ``**`` stands for any number of folders, each real one once; as it finds the
    files in them, a pattern with it matches no folder itself.

    Returns:
        The folder before the first special character, and the paths below it, sorted by bytes;
        those of folders end with a slash.

    Raises:
        DataError: Braces stand for too many, or spell out a path that does not exist.
    """
    parts = pattern.split(b"/")
    plain = next(i for i, part in enumerate(parts) if _SPECIAL.search(part))
    root = (b"/".join(parts[:plain]) or b"/") if plain else b"."
    alternatives = list(itertools.islice(_alternatives(b"/".join(parts[plain:])), _TOO_MANY))
    if len(alternatives) == _TOO_MANY:
        raise DataError(f"the braces of {os.fsdecode(pattern)!r} stand for too many names")
    return root, sorted({name for one in alternatives for name in _matching(root, one)})


def _matching(root: bytes, pattern: bytes) -> Iterator[bytes]:
    """Paths that one pattern without braces stands for below a root."""
    path = os.path.join(root, pattern)
    if _WILDCARD.search(pattern) is None and not os.path.lexists(path):
        raise DataError(f"cannot read the data source {os.fsdecode(path)!r}: it does not exist")
    if os.path.lexists(path):
        yield pattern.rstrip(b"/") + b"/" if os.path.isdir(path) else pattern
        return
    parts = [part for part in pattern.split(b"/") if part]
    found = _below(root, b"", parts)
    yield from (name for name in found if not (b"**" in parts and name.endswith(b"/")))


def _alternatives(pattern: bytes) -> Iterator[bytes]:
    """The patterns without braces that one with braces stands for, as in bash."""
    for start, end in _braces(pattern):
        choices = _choices(pattern[start + 1 : end])
        if choices is not None:
            for choice in choices:
                for rest in _alternatives(pattern[end + 1 :]):
                    yield pattern[:start] + choice + rest
            return
    yield pattern


def _braces(pattern: bytes) -> Iterator[tuple[int, int]]:
    """Places of each opening brace and of the one that closes it."""
    for found in re.finditer(rb"\{", pattern):
        depth = 0
        for place in range(found.start(), len(pattern)):
            depth += {b"{": 1, b"}": -1}.get(pattern[place : place + 1], 0)
            if depth == 0:
                yield found.start(), place
                break


def _choices(inside: bytes) -> Iterator[bytes] | None:
    """Texts that may stand in place of a pair of braces; None where they mean themselves."""
    if found := _NUMBERS.fullmatch(inside):
        return _numbers(*found.groups())
    if found := _LETTERS.fullmatch(inside):
        first, last = found[1][0], found[2][0]
        step = 1 if first <= last else -1
        return (bytes([letter]) for letter in range(first, last + step, step))
    parts = _split(inside)
    return None if len(parts) == 1 else itertools.chain.from_iterable(map(_alternatives, parts))


def _numbers(first: bytes, last: bytes, step: bytes | None) -> Iterator[bytes]:
    is_padded = any(re.match(rb"-?0\d", number) for number in (first, last))
    width = max(len(first), len(last)) if is_padded else 0
    stride = abs(int(step or 1)) or 1
    start, stop = int(first), int(last)
    numbers = range(start, stop + 1, stride) if start <= stop else range(start, stop - 1, -stride)
    return (b"%0*d" % (width, number) for number in numbers)


def _split(inside: bytes) -> list[bytes]:
    """Split at the commas that stand in no inner braces."""
    parts, depth = [b""], 0
    for place in range(len(inside)):
        character = inside[place : place + 1]
        depth += {b"{": 1, b"}": -1}.get(character, 0)
        if character == b"," and depth == 0:
            parts.append(b"")
        else:
            parts[-1] += character
    return parts


def _below(root: bytes, folder: bytes, parts: list[bytes]) -> Iterator[bytes]:
    """Paths in a folder below a root that match the parts of a pattern, one part a level."""
    part, rest = parts[0], parts[1:]
    if part == b"**":
        for inner in _folders(root, folder):
            yield from _below(root, inner, rest or [b"*"])
        return
    for name in _entries(os.path.join(root, folder), part):
        if not rest:
            yield folder + name
        elif name.endswith(b"/"):
            yield from _below(root, folder + name, rest)


def _folders(root: bytes, first: bytes) -> Iterator[bytes]:
    """A folder and all that are not hidden below it, links followed, each real one once."""
    seen: set[tuple[int, int]] = set()
    pending = [first]
    while pending:
        folder = pending.pop()
        names = _entries(os.path.join(root, folder), b"*")
        try:
            status = os.stat(os.path.join(root, folder))
        except OSError:
            continue  # _entries has told
        if (status.st_dev, status.st_ino) not in seen:
            seen.add((status.st_dev, status.st_ino))
            yield folder
            names = [folder + name for name in names if name.endswith(b"/")]
            pending += sorted(names, reverse=True)


def _entries(folder: bytes, pattern: bytes) -> list[bytes]:
    """The names in a folder that one part of a pattern matches; those of folders with a slash."""
    if _WILDCARD.search(pattern) is None:
        path = os.path.join(folder, pattern)
        return [pattern + b"/" if os.path.isdir(path) else pattern] if os.path.lexists(path) else []
    is_match = re.compile(fnmatch.translate(os.fsdecode(pattern))).match  # "?" is a whole letter
    names = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                is_hidden = entry.name.startswith(b".") and not pattern.startswith(b".")
                if is_hidden or not is_match(os.fsdecode(entry.name)):
                    continue
                if is_folder(entry):
                    names.append(entry.name + b"/")
                elif entry.is_symlink() or entry.is_file():
                    names.append(entry.name)
    except OSError as error:
        logger.warning("left out the folder %r: %s", os.fsdecode(folder), error.strerror or error)
    return names


def is_folder(entry: os.DirEntry[bytes]) -> bool:
    """True if an entry is a folder or a link to one that can be reached."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or into a folder that may not be entered
        return False
