"""Files of one JSON object a line, where a damaged line costs only itself."""

import json
from pathlib import Path
from typing import Any


def lines_of(path: Path) -> list[bytes]:
    """Lines of a file without their ends, blank ones included; none if there is no file."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    return lines if lines[-1] else lines[:-1]


def parsed_object(line: bytes) -> dict[str, Any] | None:
    """Object that a line holds, or None if it is damaged."""
    try:
        value = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
