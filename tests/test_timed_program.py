"""How benchmarks time programs: ends by the clock, failures in words, speeds from steps."""

import resource
import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SOON_S = 30.0  # far below the sleep of the program that is stopped


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)


def python(code: str) -> list[str]:
    return [sys.executable, "-u", "-c", code]


def test_a_program_that_takes_too_long_is_stopped_and_its_lines_count(tmp_path: Path):
    from timed_program import run_to_end

    start = time.monotonic()
    code = "import time; print('step 1'); time.sleep(300)"
    ended = run_to_end(python(code), log=tmp_path / "log", limit_s=2.0)
    assert time.monotonic() - start < SOON_S
    assert [line for _, line in ended.lines] == ["step 1\n"]
    assert ended.complaint == ""


def test_a_program_that_fails_is_quoted(tmp_path: Path):
    from timed_program import run_to_end

    ended = run_to_end(
        python("print('hello'); raise ValueError('no such arch')"),
        log=tmp_path / "log",
        limit_s=SOON_S,
    )
    assert ended.complaint == "ValueError: no such arch (exit code 1)"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # counts for it, too
    assert 0.001 < ended.resident_gib < 1 + before


def original_lines(*steps: tuple[float, int]) -> list[tuple[float, str]]:
    form = "Epoch: [0/1]  [{:2d}/30]  eta: 0:00:00  loss: 8.9  time: 2.000000  data: 0.500000\n"
    return [(when, form.format(step)) for when, step in steps]


def test_what_the_workers_of_the_original_had_made_ahead_does_not_count():
    from original_run import _speed

    lines = original_lines((5.0, 0), (6.0, 10), (16.0, 20), (34.0, 29))
    speed = _speed(lines, 8, ahead=4, resident_gib=1.5)
    assert speed.images_per_s == pytest.approx(8 * 19 / 28)
    assert (speed.lowest, speed.highest) == pytest.approx((4.0, 8.0))
    assert (speed.wait_share, speed.peak_gib) == (0.25, 1.5)


def test_one_reported_step_is_no_speed():
    from original_run import _speed
    from timed_program import NotMeasuredError

    with pytest.raises(NotMeasuredError, match="fewer than two"):
        _speed(original_lines((5.0, 0)), 8, ahead=4, resident_gib=1.5)
