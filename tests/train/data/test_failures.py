"""The list of unreadable images of a run."""

import json
from pathlib import Path

import pytest

from dino_infer.errors import TrainingError
from dino_infer.images.read import ImageFailure
from dino_train.data.failures import FailureLog, listed_failures


def failures(*names: str) -> list[ImageFailure]:
    return [ImageFailure(name, "corrupt", "damaged pixel data") for name in names]


def listed(path: Path) -> list[str]:
    return [json.loads(line)["path"] for line in path.read_text().splitlines()]


def test_each_bad_file_is_listed_once_with_its_reason(tmp_path):
    path = tmp_path / "failures.jsonl"
    log = FailureLog(path, num_images=100, max_bad_share=0.05)
    log.add([])
    assert not path.exists()
    log.add(failures("a.jpg", "b.jpg", "a.jpg"))
    log.add(failures("b.jpg", "\udcff.jpg"))
    assert (log.count, log.share) == (3, 0.03)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0] == {"path": "a.jpg", "kind": "corrupt", "reason": "damaged pixel data"}
    assert listed(path) == ["a.jpg", "b.jpg", "\udcff.jpg"]


def test_a_reopened_list_grows_without_doubles_and_counts_afresh(tmp_path):
    path = tmp_path / "failures.jsonl"
    FailureLog(path, num_images=10, max_bad_share=0.2).add(failures("a.jpg", "b.jpg"))
    again = FailureLog(path, num_images=10, max_bad_share=0.2)
    again.add(failures("b.jpg", "c.jpg"))
    assert again.count == 2
    assert listed(path) == ["a.jpg", "b.jpg", "c.jpg"]


def test_a_line_cut_off_by_a_crash_costs_only_itself(tmp_path):
    path = tmp_path / "failures.jsonl"
    FailureLog(path, num_images=10, max_bad_share=1.0).add(failures("a.jpg", "b.jpg"))
    path.write_bytes(path.read_bytes()[:-20])
    for _ in range(2):
        FailureLog(path, num_images=10, max_bad_share=1.0).add(failures("b.jpg", "a.jpg"))
    text = path.read_text()
    assert (text.count("a.jpg"), text.count("b.jpg")) == (1, 2)
    assert json.loads(text.splitlines()[-1])["path"] == "b.jpg"


@pytest.mark.parametrize(
    "damaged",
    [b"\xff", b"null", b'{"a": 1}', b'{"path": 3}', b'{"path": []}', b"[" * 100_000, b"{"],
)
def test_a_damaged_line_stays_and_is_counted_in_one_warning(tmp_path, caplog, damaged: bytes):
    path = tmp_path / "failures.jsonl"
    FailureLog(path, num_images=10, max_bad_share=1.0).add(failures("a.jpg", "b.jpg"))
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + damaged + b"\n" + second)
    log = FailureLog(path, num_images=10, max_bad_share=1.0)
    log.add(failures("b.jpg", "c.jpg"))
    assert path.read_bytes().startswith(first + damaged + b"\n" + second)
    assert listed_failures(path) == ["a.jpg", "b.jpg", "c.jpg"]
    assert [m.endswith("passed over: 1") for m in caplog.messages] == [True]


def test_processes_that_share_a_list_do_not_repeat_each_other(tmp_path):
    path = tmp_path / "failures.jsonl"
    one, other = (FailureLog(path, num_images=10, max_bad_share=1.0) for _ in range(2))
    one.add(failures("a.jpg"))
    other.add(failures("a.jpg", "b.jpg"))
    one.add(failures("b.jpg", "c.jpg"))
    assert listed(path) == ["a.jpg", "b.jpg", "c.jpg"]


def test_too_many_bad_files_stop_the_run_and_say_what_to_do(tmp_path):
    log = FailureLog(tmp_path / "failures.jsonl", num_images=20, max_bad_share=0.2)
    log.add(failures("a.jpg", "b.jpg", "c.jpg", "d.jpg"))
    with pytest.raises(TrainingError) as caught:
        log.add(failures("e.jpg"))
    message = str(caught.value)
    for part in ("5 of 20", "25.0%", "20.0%", "'a.jpg'", "'c.jpg'", "run.max_bad_share"):
        assert part in message
    assert "d.jpg" not in message
    assert listed(tmp_path / "failures.jsonl")[-1] == "e.jpg"


def test_a_share_out_of_range_is_refused(tmp_path):
    for share in (-0.1, 1.1):
        with pytest.raises(ValueError, match="max_bad_share"):
            FailureLog(tmp_path / "f.jsonl", num_images=3, max_bad_share=share)
