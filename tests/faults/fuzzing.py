"""Damage for fuzz tests: bytes and JSON of real files that were changed, and limits on the reader.

``DINO_FUZZ=20000 pytest tests/faults`` tries that many inputs a test instead of a few.
"""

import json
import os
import resource
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from typing import Any

from hypothesis import HealthCheck, given, settings, strategies as st

CPU_S = 20  # for one input, on any machine: what takes longer hangs
MEMORY = 1 << 30  # bytes beyond what the process has before
ODD_VALUES = [
    None, True, 0, -1, 2**31, 2**63, 10**400, 0.5, -0.0, float("nan"), float("inf"), 1e308, "", "x",
    "9", "\0", "\ud800", "../..", "x" * 5000, [], [[]], [0], ["x"], {}, {"x": 1}, [None] * 100,
]  # fmt: skip


def fuzz(check: Callable[[bytes], object], inputs: st.SearchStrategy[bytes], count: int) -> None:
    """Check so many inputs, or as many as ``DINO_FUZZ`` says."""

    @settings(
        max_examples=int(os.environ.get("DINO_FUZZ", count)),
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(data=inputs)
    def run(data: bytes) -> None:
        check(data)

    run()


@contextmanager
def limits() -> Iterator[None]:
    """Let what hangs or takes too much memory fail."""

    def hangs(*_: object) -> None:
        raise AssertionError(f"it takes more than {CPU_S} s of processor time")

    with open("/proc/self/statm") as sizes:
        pages = int(sizes.read().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGPROF, hangs)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, hard))
    signal.setitimer(signal.ITIMER_PROF, CPU_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGPROF, handler)


def damaged(originals: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """One of some files with a few changes: bits, runs, cuts, copies of a part elsewhere."""
    junk = st.binary(min_size=1, max_size=8) | st.sampled_from(
        [b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\n", b"[" * 3000, b"{", b'"']
    )
    share = st.floats(0, 1)
    changes = st.lists(
        st.tuples(st.sampled_from(sorted(CHANGES)), share, share, junk), min_size=1, max_size=4
    )
    return st.builds(
        lambda data, steps: reduce(lambda data, step: _changed(data, *step), steps, data),
        st.sampled_from(list(originals)),
        changes,
    )


def _changed(data: bytes, kind: str, place: float, other: float, junk: bytes) -> bytes:
    at, to = int(place * len(data)), int(other * len(data))
    return CHANGES[kind](data, at, to, junk)


CHANGES: dict[str, Callable[[bytes, int, int, bytes], bytes]] = {
    "flip": lambda data, at, to, junk: (
        data[:at] + bytes([data[at] ^ (1 << to % 8)]) + data[at + 1 :] if at < len(data) else data
    ),
    "replace": lambda data, at, to, junk: data[:at] + junk + data[at + len(junk) :],
    "insert": lambda data, at, to, junk: data[:at] + junk + data[at:],
    "cut": lambda data, at, to, junk: data[:at],
    "leave out": lambda data, at, to, junk: data[: min(at, to)] + data[max(at, to) :],
    "copy": lambda data, at, to, junk: data[:at] + data[to : to + 64] + data[at:],
}


def odd_json(original: Any) -> st.SearchStrategy[bytes]:
    """A JSON document in which a few values were replaced, taken out, or added."""
    places = list(_places(original))
    change = st.tuples(
        st.sampled_from(places),
        st.sampled_from(["replace", "take out", "add"]),
        st.sampled_from(ODD_VALUES),
    )
    return st.lists(change, min_size=1, max_size=3).map(
        lambda changes: json.dumps(reduce(_with_change, changes, original)).encode()
    )


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    inner = list(enumerate(value)) if isinstance(value, list) else []
    for key, part in value.items() if isinstance(value, dict) else inner:
        yield from _places(part, (*path, key))


def _with_change(value: Any, change: tuple[tuple[Any, ...], str, Any]) -> Any:
    path, kind, odd = change
    if not path:
        return {**value, "odd": odd} if kind == "add" and isinstance(value, dict) else odd
    key, rest = path[0], path[1:]
    copy = (
        dict(value) if isinstance(value, dict) else list(value) if isinstance(value, list) else None
    )
    try:
        if copy is None:
            return value  # an earlier change took the place away
        if rest:
            copy[key] = _with_change(copy[key], (rest, kind, odd))
        elif kind == "take out":
            del copy[key]
        else:
            copy[key] = odd
    except (LookupError, TypeError):  # an earlier change put something else there
        return value
    return copy
