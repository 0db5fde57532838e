import json
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from dino_infer.errors import RunError
from dino_train.config import OptimConfig, TrainConfig, as_dict
from dino_train.records import snapshots
from dino_train.records.run_folder import (
    check_state,
    config_record,
    enter_run_folder,
    processes_of,
    saved_settings,
)


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


def test_a_flipped_bit_is_passed_over_wherever_it_matters(run: Path, caplog):
    save(run, 5)
    newest = save(run, 9)
    whole = newest.read_bytes()
    passed_over = 0
    for position in np.random.default_rng(0).choice(len(whole), 200, replace=False):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(position) % 8
        newest.write_bytes(damaged)
        caplog.clear()
        state, _ = snapshots.latest_snapshot(run)
        assert (state["t"] == state["step"]).all() and set(state) == {"step", "t"}
        if state["step"] == 5:
            passed_over += 1
            assert len(caplog.messages) == 1 and "step-00000009.pt is damaged" in caplog.text
    assert passed_over > 50  # the rest is padding, dates and the like


@pytest.mark.parametrize("content", [[1, 2], None, 3.5, "text", {}, {"step": 5}, {"step": "9"}])
def test_a_file_that_is_no_state_of_its_step_is_passed_over(run: Path, caplog, content: object):
    save(run, 5)
    torch.save(content, run / "snapshots" / "step-00000009.pt")
    assert snapshots.latest_snapshot(run)[0]["step"] == 5
    assert "step-00000009.pt is damaged or of another run (it holds" in caplog.text


def test_a_state_that_the_run_does_not_accept_is_passed_over(run: Path, caplog):
    def accept(state: snapshots.State) -> None:
        if state["step"] > 5:
            raise KeyError("config")

    save(run, 5)
    save(run, 9)
    assert snapshots.latest_snapshot(run, accept)[0]["step"] == 5
    assert "step-00000009.pt is damaged or of another run ('config')" in caplog.text


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
    snapshots.prune_snapshots(run, step=100, keep=2, keep_every_steps=40)
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


def test_pruning_neither_deletes_nor_counts_what_this_run_did_not_write(run: Path):
    for step in (10, 20, 30, 999):
        save(run, step)
    others = [run / "snapshots" / name for name in ("step-5.pt", "step-best.pt", "notes.txt")]
    for path in others:
        path.write_text("mine")
    (run / "snapshots" / "step-00000005.pt").mkdir()
    snapshots.prune_snapshots(run, step=30, keep=1, keep_every_steps=0)
    kept = {p.name for p in (run / "snapshots").iterdir()} - {p.name for p in others}
    assert kept == {"step-00000005.pt", "step-00000030.pt", "step-00000999.pt"}
    assert all(path.read_text() == "mine" for path in others)


def test_what_a_killed_process_left_half_written_is_swept(run: Path):
    save(run, 5)
    for leftover in (
        ".config.99.dino-tmp.json",
        ".checkpoint.99.dino-tmp.safetensors",
        ".metrics.99.dino-tmp.jsonl",
        "snapshots/.step-00000009.99.dino-tmp.pt",
        "snapshots/.step-123456789.1.dino-tmp.pt",
    ):
        (run / leftover).write_bytes(b"half")
    enter_run_folder(run, None)
    assert not list(run.rglob(".*"))
    assert snapshots.latest_snapshot(run)[0]["step"] == 5


def test_hidden_files_and_folders_of_others_stay(run: Path):
    save(run, 5)
    files = [
        "keep/.env.tmpl", "other/.notes.tmp.txt", ".cache.tmp", ".notes.9.tmp.json",
        "snapshots/.step-00000009.pt", "snapshots/.step-x.9.dino-tmp.pt",
        "other/.config.9.dino-tmp.json", "snapshots/.step-7.9.dino-tmp.pt",
    ]  # fmt: skip
    folders = [".config.9.dino-tmp.json", "snapshots/.step-00000009.7.dino-tmp.pt", ".x.tmp"]
    for name in folders:
        (run / name).mkdir()
    for name in files:
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("mine")
    enter_run_folder(run, None)
    assert all((run / name).read_text() == "mine" for name in files)
    assert all((run / name).is_dir() for name in folders)


def test_out_that_is_a_file_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="`out` must be a folder"):
        enter(tmp_path / "file")


DEFAULTS = as_dict(TrainConfig())
DATA = {"sources": ["x"], "images": 3, "fingerprint": "abc"}


def enter(
    run: Path, *, epochs=5, lr=1.0, data=DATA, init_from=None, processes=1, extend=False
) -> None:
    config = TrainConfig(optim=OptimConfig(epochs=epochs, lr=lr, warmup_epochs=0))
    record = config_record(
        run, as_dict(config), defaults=DEFAULTS, data=data, init_from=init_from,
        processes=processes, extend=extend,
    )  # fmt: skip
    enter_run_folder(run, record)


def test_the_same_run_may_enter_again(run: Path):
    enter(run)
    before = (run / "config.json").read_bytes()
    enter(run)
    assert (run / "config.json").read_bytes() == before
    assert json.loads(before)["config"]["optim"]["epochs"] == 5


def test_a_run_remembers_how_many_processes_began_it(run: Path):
    assert processes_of(run) is None
    enter(run, processes=4)
    enter(run, processes=2)
    assert processes_of(run) == 4
    record = json.loads((run / "config.json").read_text())
    for wrong in (0, "4"):
        (run / "config.json").write_text(json.dumps({**record, "processes": wrong}))
        with pytest.raises(RunError, match="not a config.json of dino-train"):
            processes_of(run)


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
    with pytest.raises(RunError, match=r"`init_from`: None -> 'w.pth'"):
        enter(run, init_from="w.pth")


@pytest.mark.parametrize(
    "damaged",
    [
        b"", b"[]", b"null", b"3", b"{}", b"\xff\xfe", b"{", b"[" * 100_000, b'"text"',
        b'{"config": null, "data": {"fingerprint": "abc", "images": 3}, "init_from": null}',
        b'{"config": {}, "data": {"fingerprint": "abc", "images": 3}, "init_from": null}',
        b'{"config": {"optim": {}}, "data": null, "init_from": null}',
        b'{"config": {"optim": {}}, "data": [], "init_from": null}',
        b'{"config": {"optim": {}}, "data": {"fingerprint": 1, "images": 3}, "init_from": null}',
        b'{"config": {"optim": {}}, "data": {"fingerprint": "x", "images": "3"}, "init_from": 1}',
        b'{"config": {"optim": {}}, "data": {"fingerprint": "x"}, "init_from": null}',
        b'{"config": {"optim": {}}, "data": {"fingerprint": "x", "images": 3}, "init_from": []}',
    ],
)  # fmt: skip
def test_a_foreign_or_damaged_config_json_is_refused(run: Path, damaged: bytes):
    (run / "config.json").write_bytes(damaged)
    with pytest.raises(RunError, match="is not a config.json of dino-train"):
        enter(run)
    with pytest.raises(RunError, match="is not a config.json of dino-train"):
        saved_settings(run)


@pytest.mark.parametrize(
    "settings", [{"optim": {}}, {"optim": {"epochs": None}}, {"optim": {"lr": []}, "model": None},
                 {"optim": {"epochs": "5"}, "crops": []}]
)  # fmt: skip
def test_settings_of_odd_types_are_refused_with_the_difference(run: Path, settings: dict):
    enter(run)
    record = json.loads((run / "config.json").read_text()) | {"config": settings}
    (run / "config.json").write_text(json.dumps(record))
    for extend in (False, True):
        with pytest.raises(RunError, match="was begun with other settings"):
            enter(run, epochs=9, lr=2.0, extend=extend)


@pytest.mark.parametrize(
    "name", ["checkpoint.safetensors", "metrics.jsonl", "report", "snapshots", "failures.jsonl"]
)
def test_a_folder_with_files_that_would_be_replaced_is_no_new_run(run: Path, name: str):
    (run / name).mkdir()
    with pytest.raises(RunError, match=f"has {name} but no config.json; choose another"):
        enter(run)


def test_a_snapshot_of_other_settings_images_or_weights_is_none_of_this_run():
    def check(state: dict, *, fingerprint: str = "abc", init_from: str | None = "w.pth") -> None:
        check_state(
            state,
            DEFAULTS,
            defaults=DEFAULTS,
            data_fingerprint=fingerprint,
            init_from=init_from,
        )

    state = {
        "config": as_dict(TrainConfig()),
        "checkpoint_info": {"data_fingerprint": "abc"},
        "init_from": "w.pth",
    }
    check(state)
    with pytest.raises(ValueError, match="other images"):
        check(state, fingerprint="abd")
    for other in (None, "v.pth", "w.pth (student)"):
        with pytest.raises(ValueError, match="it started from 'w.pth', not"):
            check(state, init_from=other)
    del state["config"]["data_order"]
    check(state)  # the setting is newer than the run
    state["config"]["optim"]["epochs"] -= 1
    check(state)  # the run was extended
    state["config"]["optim"]["epochs"] += 2
    with pytest.raises(ValueError, match=r"other settings: optim.epochs: \d+ -> \d+"):
        check(state)
    state["config"]["seed"] = 9
    with pytest.raises(ValueError, match=r"seed: 9 -> 0"):
        check(state)
