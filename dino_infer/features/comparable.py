"""Features that may be compared, judged by the descriptions of how they were made."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

MUST_AGREE = ("weights_sha256", "feature", "preprocess")


class Difference(NamedTuple):
    """A setting in which two sets of features differ, with both values as text."""

    name: str
    first: str
    second: str


def how_made(description: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a description that features share if they may be compared."""
    return {name: description.get(name) for name in MUST_AGREE}


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[Difference]:
    """What keeps features from being compared; of preprocessing the settings one by one."""
    # JSON gives lists back for tuples.
    one, other = (json.loads(json.dumps(how_made(each))) for each in (first, second))
    for made in (one, other):
        of = made.pop("preprocess") or {}
        made |= {f"preprocessing {name}": value for name, value in of.items()}
    for name in {**one, **other}:
        if one.get(name) != other.get(name):
            yield Difference(name, _shown(one.get(name)), _shown(other.get(name)))


def _shown(value: Any) -> str:
    """A value, of a hash only the beginning."""
    text = repr(value)
    return text if len(text) < 40 else f"{text[:13]}...'"
