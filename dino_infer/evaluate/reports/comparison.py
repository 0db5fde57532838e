"""Comparison of two scorecards: which differences are beyond the spread."""

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from dino_infer.evaluate.reports.result import LOWER_IS_BETTER

BEYOND = 2.0
"""A difference counts from this many standard deviations on: chance reaches it once in twenty."""

Verdict = Literal["better", "worse", "within the spread", "no spread known", "equal"]


class Difference(NamedTuple):
    """One value of both scorecards; B against A."""

    protocol: str
    value: str
    a: float
    b: float
    difference: float
    spread: float | None
    """Standard deviation of the difference; None where neither side has a spread."""
    verdict: Verdict


class Comparison(NamedTuple):
    """Values of both scorecards, and what cannot be compared."""

    differences: list[Difference]
    incomparable: list[str]
    """A line for each protocol that only one side has, or that was measured otherwise."""


def compare(a: Mapping[str, Mapping[str, Any]], b: Mapping[str, Mapping[str, Any]]) -> Comparison:
    """Compare the values of the model in two scorecards.

    Both spreads are taken as independent. Where the same images were measured twice this is
    cautious: a difference within the spread may still be real.

    Args:
        a: Results by protocol, see ``read_figures``.
        b: The same of the other scorecard.
    """
    differences, incomparable = [], []
    for protocol in dict.fromkeys((*a, *b)):
        if protocol not in a or protocol not in b:
            incomparable.append(f"{protocol} is only in {'A' if protocol in a else 'B'}")
            continue
        one, other = a[protocol], b[protocol]
        if other_data := _data_differs(one, other):
            incomparable.append(f"{protocol} was measured on other data: {other_data}")
            continue
        for name in one["values"]:
            if name in other["values"]:
                differences.append(_difference(protocol, name, one, other))
    return Comparison(differences, incomparable)


def _difference(
    protocol: str, name: str, one: Mapping[str, Any], other: Mapping[str, Any]
) -> Difference:
    first, second = float(one["values"][name]), float(other["values"][name])
    spreads = [side["spreads"][name] for side in (one, other) if name in side["spreads"]]
    spread = math.hypot(*spreads) if spreads else None
    return Difference(
        protocol,
        name,
        first,
        second,
        second - first,
        spread,
        _verdict(name, second - first, spread),
    )


def _verdict(name: str, difference: float, spread: float | None) -> Verdict:
    if difference == 0:
        return "equal"
    if spread is None:
        return "no spread known"
    if abs(difference) <= BEYOND * spread:
        return "within the spread"
    return "better" if (difference > 0) != (name in LOWER_IS_BETTER) else "worse"


def _data_differs(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """The first of the numbers of images, classes and the like that differs; "" without one."""
    for key in dict.fromkeys((*one["data"], *other["data"])):
        a, b = (_counts(side["data"].get(key)) for side in (one, other))
        if a != b:
            return f"{key} is {a} and {b}"
    return ""


def _counts(value: Any) -> Any:
    """A value without the paths in it, which may differ between machines."""
    if isinstance(value, Mapping):
        return {key: _counts(part) for key, part in value.items() if key != "source"}
    return None if isinstance(value, str) else value
