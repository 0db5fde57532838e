"""Comparison of two scorecards: which differences are beyond the spread."""

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from dino_infer.evaluate.reports.result import LOWER_IS_BETTER

BEYOND = 2.0
"""A difference counts from this many standard deviations on: chance reaches it once in twenty."""

OF_THE_NETWORK = {"arch", "patch_size", "weights_sha256", "seed", "precision", "mean", "std"}
"""Settings that two networks may differ in."""

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
    """A line for each protocol that only one side has, or that was measured on other data."""
    otherwise: list[str]
    """A line for each protocol that was measured with other settings, which the figures may tell
    instead of the networks."""


def compare(a: Mapping[str, Mapping[str, Any]], b: Mapping[str, Mapping[str, Any]]) -> Comparison:
    """Compare the values of the model in two scorecards.

    Both spreads are taken as independent. Where the same images were measured twice this is
    cautious: a difference within the spread may still be real.

    Args:
        a: Results by protocol, see ``read_figures``.
        b: The same of the other scorecard.
    """
    differences, incomparable, otherwise = [], [], []
    for protocol in dict.fromkeys((*a, *b)):
        if protocol not in a or protocol not in b:
            incomparable.append(f"{protocol} is only in {'A' if protocol in a else 'B'}")
            continue
        one, other = a[protocol], b[protocol]
        if other_data := _data_differs(one, other):
            incomparable.append(f"{protocol} was measured on other data: {other_data}")
            continue
        if settings := _settings_differ(one["settings"], other["settings"]):
            otherwise.append(f"{protocol} was measured with other settings: {settings}")
        for name in one["values"]:
            if name in other["values"]:
                differences.append(_difference(protocol, name, one, other))
    return Comparison(differences, incomparable, otherwise)


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


def _settings_differ(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Settings with both values, but for those that belong to the network, or that were chosen."""
    a, b = ({**side, **side.get("preprocess", {})} for side in (one, other))
    return ", ".join(
        f"{key} is {a.get(key)} and {b.get(key)}"
        for key in dict.fromkeys((*a, *b))
        if key not in OF_THE_NETWORK and a.get(key) != b.get(key)
        if not isinstance(a.get(key, b.get(key)), Mapping)
    )


def _counts(value: Any) -> Any:
    """A value without the paths in it, which may differ between machines."""
    if isinstance(value, Mapping):
        return {key: _counts(part) for key, part in value.items() if key != "source"}
    return None if isinstance(value, str) else value
