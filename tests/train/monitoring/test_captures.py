"""The first step that is not finite is kept, and comes out with the same bits again."""

from pathlib import Path

import pytest
import torch

from dino_train.cli import main
from tests.train.test_pretraining import arguments
from tests.train.test_rate_runs import rate_arguments

EXPLODE = ("--optim.lr", "1e30", "--optim.warmup-epochs", "0", "--optim.clip-grad", "0",
           "--run.max-nonfinite-steps", "2", "--workers", "0")  # fmt: skip


@pytest.mark.parametrize("command", [arguments, rate_arguments])
def test_a_captured_step_is_replayed_to_the_same_bits(image_folder, tmp_path, capsys, command):
    run = tmp_path / "run"
    assert main(command(image_folder(), run, *EXPLODE)) == 1
    assert "2 steps in a row were not finite" in capsys.readouterr().err
    (kept,) = (run / "nonfinite").iterdir()
    assert main(["replay", str(run)]) == 0
    said = capsys.readouterr().out
    assert "4 images: " in said and ".png" in said and "the same bits as the first time" in said
    assert "grad_norm: nan" in said or "grad_norm: inf" in said
    content = torch.load(kept, weights_only=True)
    content["parts"][0][0][0, 0, 0, 0, 0] += 1.0
    content["gradients"] = ""
    torch.save(content, kept)
    assert main(["replay", str(run)]) == 1
    assert "other bits" in capsys.readouterr().out
    kept.write_bytes(kept.read_bytes()[:1000])
    assert main(["replay", str(run)]) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_a_run_without_such_a_step_says_so_in_one_line(tmp_path: Path, capsys):
    assert main(["replay", str(tmp_path)]) == 1
    assert "has no captured step" in capsys.readouterr().err
    assert main(["replay", str(tmp_path / "none")]) == 1
    assert "is not a run folder" in capsys.readouterr().err
