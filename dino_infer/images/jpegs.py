"""Markers and segments of JPEG files."""

import re
from collections.abc import Iterator

FORMATS = ("JPEG", "MPO")
"""Names that Pillow gives to JPEGs, the second to those with more pictures behind the first."""

START, SCAN, END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
SEQUENTIAL = (0xC0, 0xC1)  # frames of one scan, Huffman
HARMLESS = (0xDB, 0xC4, 0xDD, 0xFE, 0xE0)  # tables, restart interval, comment, JFIF

_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # no stuffed byte, restart or padding


def is_jpeg(data: bytes) -> bool:
    """True if a file begins as a JPEG."""
    return data.startswith(START)


def has_zeroed_end(jpeg: bytes) -> bool:
    """True if zeros follow the scan where its end marker should be.

    Interrupted copies leave such files at full length, and libjpeg decodes zeros as flat grey.
    """
    return jpeg.endswith(bytes(16)) and jpeg.rfind(END) < jpeg.rfind(SCAN)


def segments(jpeg: bytes, *, past_scans: bool = False) -> Iterator[tuple[bytes, int, int]]:
    """Marker, start and end of the segments of a JPEG, up to its first scan or to its end."""
    place = 2
    while found := _MARKER.search(jpeg, place):
        marker, start = found[0], found.end() + 2
        if marker == END or start > len(jpeg) or (marker == SCAN and not past_scans):
            return
        place = found.end() + max(2, int.from_bytes(jpeg[found.end() : start], "big"))
        yield marker, start, place
