"""Plan of a suite: the protocols whose data is there.

The data is a folder in this layout, each part of which may be missing, or a TOML file with a table
for each protocol that names its data:

``train/CLASS/*``, ``val/CLASS/*``     knn, linear, logistic, few-shot, retrieval, health
``images/*``, ``masks/*``              segmentation, objects, dense-knn
``copies/``                            copy-detection
``video/``                             video
``revisited/``                         revisited
"""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dino_infer.errors import DataError
from dino_infer.evaluate.suite.protocols import PROTOCOLS, Protocol


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Protocols to run, with their data."""

    data: Mapping[str, Mapping[str, Any]]
    """Arguments of the protocol, by its name."""
    skipped: Mapping[str, str]
    """Why each other protocol is not run."""


def read_plan(source: str | Path, *, only: Sequence[str] = ()) -> Plan:
    """Find the data of each protocol.

    Args:
        source: A folder in the layout of this module, or a ``.toml`` file. Paths in the file are
            relative to its folder.
        only: Names of protocols; by default all.

    Raises:
        DataError: The source cannot be used, holds data of no protocol, or names something
            unknown.
    """
    path = Path(source)
    if unknown := sorted(set(only) - PROTOCOLS.keys()):
        raise DataError(f"unknown protocol {unknown[0]!r}; there are {', '.join(PROTOCOLS)}")
    if path.suffix == ".toml":
        found, absent = _in_file(path), f"no table in {path.name}"
    elif path.is_dir():
        found, absent = dict(_in_folder(path)), ""
    else:
        raise DataError(f"{str(source)!r} is neither a folder nor a .toml file; give one of both")
    data = {name: found[name] for name in PROTOCOLS if name in found and (not only or name in only)}
    skipped = {
        name: "not asked for" if only and name not in only else absent or _needs(protocol)
        for name, protocol in PROTOCOLS.items()
        if name not in data
    }
    if not data:
        reasons = "; ".join(f"{name}: {why}" for name, why in skipped.items())
        raise DataError(f"{str(source)!r} holds data of no protocol that was asked for ({reasons})")
    return Plan(data=data, skipped=skipped)


def _in_folder(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, protocol in PROTOCOLS.items():
        if all((folder / part).exists() for part in protocol.needed):
            yield name, {key: folder / place for key, place in protocol.layout.items()}


def _in_file(path: Path) -> dict[str, dict[str, Any]]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read {str(path)!r}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{str(path)!r} is no TOML file: {error}") from error
    return {name: _arguments(path, name, table) for name, table in tables.items()}


def _arguments(path: Path, name: str, table: Any) -> dict[str, Any]:
    """Arguments of one protocol, with its paths made whole."""
    where = f"{str(path)!r}, [{name}]"
    if name not in PROTOCOLS or not isinstance(table, dict):
        raise DataError(f"{where}: expected a table of one of {', '.join(PROTOCOLS)}")
    types = PROTOCOLS[name].arguments
    if unknown := sorted(table.keys() - types.keys()):
        raise DataError(f"{where}: unknown key {unknown[0]!r}; there are {', '.join(types)}")
    arguments: dict[str, Any] = {}
    for key, value in table.items():
        kind = types[key]
        if not isinstance(value, str if kind is Path else kind) or isinstance(value, bool):
            wanted = "a path" if kind is Path else f"of type {kind.__name__}"
            raise DataError(f"{where}: {key} must be {wanted}, got {value!r}")
        arguments[key] = value
        if kind is Path:
            arguments[key] = path.parent / str(value)
            if not arguments[key].exists():
                raise DataError(f"{where}: {key} names {str(value)!r}, which does not exist")
    if missing := [key for key in PROTOCOLS[name].required if key not in arguments]:
        raise DataError(f"{where}: {missing[0]!r} is missing")
    return arguments


def _needs(protocol: Protocol) -> str:
    return f"it needs {' and '.join(f'{part}/' for part in protocol.needed)}"
