import json
from pathlib import Path

import pytest

from dino_infer.errors import MissingExtraError
from dino_train.records.metrics import MetricsLog, check_wandb, read_rows


def test_rows_that_training_repeats_are_dropped(tmp_path: Path):
    log = MetricsLog(tmp_path, start_step=0, tensorboard=False)
    for step in range(5):
        log.append({"step": step, "loss_nats": 1.5})
    log.close()
    MetricsLog(tmp_path, start_step=3, tensorboard=False).close()
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [0, 1, 2]


def test_a_line_cut_off_by_a_crash_is_left_out(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 0}) + "\n" + '{"step": 1, "loss')
    assert read_rows(path) == [{"step": 0}]
    log = MetricsLog(tmp_path, start_step=1, tensorboard=False)
    log.append({"step": 1})
    log.close()
    assert read_rows(path) == [{"step": 0}, {"step": 1}]


DAMAGED = [
    b"\xff", b"null", b'{"a":1}', b"{", b"[]", b"3", b'""', b'{"step": "3"}', b"[]",
    b'{"step": -1}', b'{"step": true}', b'{"step": 1.5}', b'{"step": 1' + b"0" * 30 + b"}",
    b"1" * 5_000,
    b'{"step": 1, "loss_nats": null}', b'{"step": 1, "lr": {}}', b"[" * 100_000,
    b'{"step": 1, "lr": 1' + b"0" * 400 + b"}", b"\x00" * 40,
]  # fmt: skip


@pytest.mark.parametrize("damaged", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_line_costs_only_itself_and_stays(tmp_path: Path, caplog, damaged: bytes):
    path = tmp_path / "metrics.jsonl"
    rows = [json.dumps({"step": step, "loss_nats": 1.5}).encode() for step in range(4)]
    path.write_bytes(b"\n".join([rows[0], damaged, *rows[1:], damaged]))
    assert [row["step"] for row in read_rows(path)] == [0, 1, 2, 3]
    with MetricsLog(tmp_path, start_step=3, tensorboard=False) as log:
        log.append({"step": 3, "loss_nats": 9.0})
    assert path.read_bytes().split(b"\n")[:-2] == [rows[0], damaged, *rows[1:3], damaged]
    assert [row["step"] for row in read_rows(path)] == [0, 1, 2, 3]
    (line,) = caplog.messages
    assert "metrics.jsonl" in line and line.endswith("passed over: 2")


def test_whole_rows_are_opened_without_a_word_or_a_write(tmp_path: Path, caplog):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0, "loss_nats": NaN}\n\n{"step": 1}\n')
    before = path.stat().st_ino
    MetricsLog(tmp_path, start_step=2, tensorboard=False).close()
    assert path.stat().st_ino == before and not caplog.messages


# TensorBoard's reader uses names that its own dependencies have deprecated.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_the_same_numbers(tmp_path: Path):
    log = MetricsLog(tmp_path, start_step=0)
    for step in (0, 10):
        log.append({"step": step, "epoch": step / 10, "loss_nats": 5.0 - step / 10})
    log.close()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["loss_nats"]
    assert [(e.step, e.value) for e in events.Scalars("loss_nats")] == [(0, 5.0), (10, 4.0)]


def test_wandb_that_is_not_installed_names_its_extra():
    with pytest.raises(MissingExtraError, match=r"pip install 'dino-toolkit\[wandb\]'"):
        check_wandb()
