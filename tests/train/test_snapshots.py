import json
import resource
import signal
from pathlib import Path

import pytest
import torch

from dino_infer.errors import RunError
from dino_train import snapshots
from dino_train.config import OptimConfig, TrainConfig, as_dict
from dino_train.run_folder import config_record, enter_run_folder


def save(run: Path, step: int) -> Path:
    return snapshots.save_snapshot(run, {"step": step, "t": torch.full((64,), step)}, step=step)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    enter_run_folder(tmp_path / "run", None)
    return tmp_path / "run"


def test_a_run_without_snapshots_has_no_latest(run: Path):
    assert snapshots.latest_snapshot(run) is None


def test_the_newest_snapshot_is_the_latest(run: Path):
    for step in (5, 20, 100_000_00):
        save(run, step)
    state, path = snapshots.latest_snapshot(run)
    assert state["step"] == 100_000_00 and path.name == "step-10000000.pt"


@pytest.mark.parametrize("kept_bytes", [0, 1, 700])
def test_a_snapshot_cut_short_gives_way_to_the_one_before_and_says_so(
    run: Path, caplog, kept_bytes: int
):
    save(run, 5)
    newest = save(run, 9)
    newest.write_bytes(newest.read_bytes()[:kept_bytes])
    state, _ = snapshots.latest_snapshot(run)
    assert state["step"] == 5
    assert "step-00000009.pt is damaged" in caplog.text
    assert "falling back to the one before" in caplog.text


def test_a_run_whose_snapshots_are_all_damaged_is_refused(run: Path):
    save(run, 5).write_bytes(b"nonsense")
    with pytest.raises(RunError, match="none of the 1 snapshots in .* can be read"):
        snapshots.latest_snapshot(run)


def test_a_pickle_that_would_run_code_is_not_loaded(run: Path, tmp_path: Path):
    class Payload:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "pwned",))

    save(run, 1)
    torch.save({"step": Payload()}, run / "snapshots" / "step-00000002.pt")
    assert snapshots.latest_snapshot(run)[0]["step"] == 1
    assert not (tmp_path / "pwned").exists()


def test_pruning_keeps_the_newest_and_every_nth(run: Path):
    for step in range(10, 101, 10):
        save(run, step)
    snapshots.prune_snapshots(run, keep=2, keep_every_steps=40)
    kept = sorted(p.name for p in (run / "snapshots").iterdir())
    assert kept == [f"step-{step:08d}.pt" for step in (40, 80, 90, 100)]


def test_a_full_disk_leaves_the_last_good_snapshot(run: Path):
    good = save(run, 5)
    before = good.read_bytes()
    # A limit on the size of files fails in the middle of writing, as a full disk does.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(RunError, match="cannot write snapshot .*last good one is .*00000005"):
            snapshots.save_snapshot(run, {"step": 9, "t": torch.ones(1_000_000)}, step=9)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert [p.name for p in (run / "snapshots").iterdir()] == ["step-00000005.pt"]
    assert good.read_bytes() == before


def test_what_a_killed_process_left_half_written_is_swept(run: Path):
    save(run, 5)
    for leftover in (run / ".config.99.tmp.json", run / "snapshots" / ".step-00000009.99.tmp.pt"):
        leftover.write_bytes(b"half")
    enter_run_folder(run, None)
    assert not list(run.rglob(".*"))
    assert snapshots.latest_snapshot(run)[0]["step"] == 5


def test_out_that_is_a_file_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="--out must be a folder"):
        enter(tmp_path / "file")


DATA = {"sources": ["x"], "images": 3, "fingerprint": "abc"}


def enter(run: Path, *, epochs=5, lr=1.0, data=DATA, init_from=None, extend=False) -> None:
    config = TrainConfig(optim=OptimConfig(epochs=epochs, lr=lr, warmup_epochs=0))
    record = config_record(run, as_dict(config), data=data, init_from=init_from, extend=extend)
    enter_run_folder(run, record)


def test_the_same_run_may_enter_again(run: Path):
    enter(run)
    before = (run / "config.json").read_bytes()
    enter(run)
    assert (run / "config.json").read_bytes() == before
    assert json.loads(before)["config"]["optim"]["epochs"] == 5


def test_changed_settings_are_refused_with_the_difference(run: Path):
    enter(run)
    with pytest.raises(RunError, match=r"optim.epochs: 5 -> 7, optim.lr: 1.0 -> 2.0"):
        enter(run, epochs=7, lr=2.0)


def test_settings_that_are_newer_than_the_run_have_their_defaults(run: Path):
    enter(run)
    record = json.loads((run / "config.json").read_text())
    del record["config"]["data_order"]
    (run / "config.json").write_text(json.dumps(record))
    enter(run)
    with pytest.raises(RunError, match=r"\(optim.lr: 1.0 -> 2.0\)"):
        enter(run, lr=2.0)


def test_settings_of_a_later_version_are_refused_by_name(run: Path):
    enter(run)
    record = json.loads((run / "config.json").read_text())
    record["config"]["new"] = 1
    (run / "config.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match=r"\(new: 1 -> None\)"):
        enter(run)


def test_extend_lets_epochs_grow_and_nothing_else(run: Path):
    enter(run)
    enter(run, epochs=9, extend=True)
    enter(run, epochs=9)
    for wrong in ({"epochs": 4}, {"epochs": 12, "lr": 3.0}):
        with pytest.raises(RunError, match="other settings"):
            enter(run, extend=True, **wrong)


def test_changed_data_is_refused_with_both_counts(run: Path):
    enter(run)
    with pytest.raises(RunError, match="3 images when the run began, 4 now"):
        enter(run, data={"sources": ["x"], "images": 4, "fingerprint": "abd"})


def test_other_starting_weights_are_another_run(run: Path):
    enter(run)
    with pytest.raises(RunError, match=r"--init-from: None -> 'w.pth'"):
        enter(run, init_from="w.pth")


def test_a_foreign_config_json_is_refused(run: Path):
    (run / "config.json").write_text("[]")
    with pytest.raises(RunError, match="is not a config.json of dino-train"):
        enter(run)
