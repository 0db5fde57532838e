"""Measurements between steps: a collapse that was planted shows in log, rows and report."""

from pathlib import Path

import pytest
import torch

from dino_infer.weights.run_folders import snapshots_of
from dino_train.cli import main
from dino_train.records.metrics import read_rows
from tests.train.test_pretraining import arguments

SHORT = ("--workers", "0", "--optim.epochs", "1", "--optim.warmup-epochs", "0")


def shares(run: Path) -> list[float]:
    rows = read_rows(run / "metrics.jsonl")
    return [row["unique_prototypes_share"] for row in rows if "rankme" in row]


def test_planted_copies_of_prototypes_show_in_log_rows_and_report(image_folder, tmp_path, capsys):
    data, healthy, planted = image_folder(), tmp_path / "healthy", tmp_path / "planted"
    assert main(arguments(data, healthy, *SHORT)) == 0
    assert min(shares(healthy)) > 0.9
    assert "collapse" not in capsys.readouterr().err
    snapshot = next(iter(snapshots_of(healthy).values()))
    state = torch.load(snapshot, weights_only=True)
    for network in ("student", "teacher"):
        prototypes = state[network]["head.last_layer.weight_v"]
        prototypes[2:] = prototypes[0]  # of 64, two are left
    torch.save(state, tmp_path / "planted.pt")
    assert main(arguments(data, planted, *SHORT, "--init-from", str(tmp_path / "planted.pt"))) == 0
    assert shares(planted) == [pytest.approx(2 / 64)] * 2  # the last layer is frozen at first
    said = capsys.readouterr().err
    assert "unique prototypes 3%" in said
    assert said.count("partial prototype collapse") == 1 and "lower --head.out-dim" in said
    page = (planted / "report" / "index.html").read_text()
    assert "unique_prototypes_share" in page and "RankMe counts the directions" in page
