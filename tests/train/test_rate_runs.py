"""Whole runs with the coding-rate loss: rows, resuming, several processes, wrong settings."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dino_infer.weights.checkpoints import load_backbone
from dino_train import recipes
from dino_train.cli import main
from dino_train.config import LossConfig
from dino_train.records.metrics import read_rows
from tests.train.test_pretraining import (
    arguments,
    assert_equal_states,
    finish,
    last_state,
    rows_without_timings,
    start,
)

# Flags of DINO alone, and their values, which have no place beside the coding rate.
DINO_FLAGS = ("--head.out-dim", "--optim.freeze-last-layer-epochs")
OWN = {"rate_loss", "alignment", "coding_rate_nats", "coding_rate_share"}
OF_DINO = {"loss_nats", "loss_over_ln_k", "teacher_entropy_nats", "center_norm", "teacher_temp"}


def rate_arguments(data: Path, out: Path, *more: str) -> list[str]:
    given = arguments(data, out, "--loss.kind", "coding-rate", *more)
    for flag in DINO_FLAGS:
        at = given.index(flag)
        del given[at : at + 2]
    return given


@pytest.mark.parametrize("targets", ["teacher", "student"])
def test_a_run_that_lost_its_last_snapshot_ends_with_the_same_weights(
    image_folder, tmp_path: Path, targets: str
):
    data, run, again = image_folder(count=14), tmp_path / "run", tmp_path / "again"
    more = ("--workers", "0", "--loss.targets", targets)
    assert main(rate_arguments(data, run, *more)) == 0
    assert main(rate_arguments(data, again, *more)) == 0
    snapshots = sorted((again / "snapshots").glob("*.pt"))
    assert len(snapshots) == 2
    snapshots[-1].unlink()
    assert main(rate_arguments(data, again, *more)) == 0
    assert_equal_states(last_state(run), last_state(again))
    assert rows_without_timings(run) == rows_without_timings(again)
    rows = [row for row in read_rows(run / "metrics.jsonl") if "rankme" not in row]
    assert all(row.keys() >= OWN and not row.keys() & OF_DINO for row in rows)
    assert load_backbone(run)[1].step == 18
    saved = json.loads((run / "config.json").read_text())["config"]["loss"]
    assert saved["kind"] == "coding-rate" and saved["targets"] == targets


def test_two_processes_equal_one_with_the_same_global_batch(image_folder, tmp_path: Path):
    data = image_folder(count=12)
    one, two = tmp_path / "one", tmp_path / "two"
    more = ["--model.drop-path-rate", "0", "--optim.epochs", "2", "--optim.warmup-epochs", "0.5",
            "--workers", "0", "--loss.targets", "student"]  # fmt: skip
    assert main(rate_arguments(data, one, *more)) == 0
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    finish(start(rate_arguments(data, two, *more), *torchrun))
    ours, theirs = last_state(one), last_state(two)
    for part in ("student", "teacher"):
        for name, value in ours[part].items():
            both = [value, theirs[part][name]]
            if name.endswith("qkv.bias"):  # the key third has gradient zero: Adam steps on noise
                both = [torch.cat([v[:128], v[256:]]) for v in both]
            torch.testing.assert_close(*both, rtol=0, atol=1e-5, msg=f"{part} {name}")
    losses = [
        [row["rate_loss"] for row in read_rows(run / "metrics.jsonl") if "rate_loss" in row]
        for run in (one, two)
    ]
    np.testing.assert_allclose(*losses, atol=1e-5)


def test_weights_of_such_a_run_start_another_with_their_head(image_folder, tmp_path: Path, capsys):
    data, first = image_folder(), tmp_path / "first"
    short = ("--workers", "0", "--optim.epochs", "2")
    assert main(rate_arguments(data, first, *short)) == 0
    again = (*short, "--init-from", str(first))
    assert main(rate_arguments(data, tmp_path / "second", *again)) == 0
    assert capsys.readouterr().err.count("with its head\n") == 1
    assert main(arguments(data, tmp_path / "dino", *again)) == 0
    assert "with a new head" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--loss.kind", "coding-rate", "--head.out-dim", "64"],
         "--head.out-dim belongs to --loss.kind dino and does nothing with coding-rate"),
        (["--loss.kind", "coding-rate", "--head.no-norm-last-layer"],
         "--head.norm-last-layer belongs to --loss.kind dino"),
        (["--loss.kind", "coding-rate", "--teacher.teacher_temp=0.04"],
         "--teacher.teacher-temp belongs to --loss.kind dino"),
        (["--loss.kind", "dino", "--loss.epsilon", "0.05"],
         "--loss.epsilon belongs to --loss.kind coding-rate, got 0.05"),
        (["--device", "cuda:99", "--loss.targets", "teacher"],  # whose default is dino
         "--loss.targets belongs to --loss.kind coding-rate"),
        (["--loss.kind", "coding-rate", "--loss.epsilon", "0"], "loss.epsilon must lie in (0"),
        (["--loss.kind", "sim"], "coding-rate"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("recipe", ["auto", "tiny_cpu"])
def test_settings_of_the_other_loss_are_refused_in_one_line(
    image_folder, tmp_path: Path, capsys, recipe: str, flags: list[str], message: str
):
    command = [recipe, "--data", str(image_folder()), "--out", str(tmp_path / "run"), *flags]
    assert main(command) == 2
    errors = capsys.readouterr().err
    assert message in " ".join(errors.replace("│", " ").split()) and "Traceback" not in errors
    assert not (tmp_path / "run").exists()


def test_python_callers_are_told_the_parameter():
    with pytest.raises(ValueError, match="`loss.alignment_weight` belongs to"):
        LossConfig(alignment_weight=1.0)


def test_no_published_recipe_takes_the_coding_rate():
    assert {recipe().loss.kind for recipe in recipes.RECIPES.values()} == {"dino"}


def test_accumulation_is_said_to_part_the_coding_rate(image_folder, tmp_path: Path, capsys):
    more = ("--workers", "0", "--optim.epochs", "2", "--optim.accumulation-steps", "2")
    assert main(rate_arguments(image_folder(), tmp_path / "run", *more)) == 0
    assert "each part has a coding rate of its own" in capsys.readouterr().err
