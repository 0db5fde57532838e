import json
from pathlib import Path

import pytest

from dino_infer.errors import MissingExtraError
from dino_train.metrics import MetricsLog, check_wandb, read_rows


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
