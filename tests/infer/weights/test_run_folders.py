"""Which file of a run folder has its newest weights."""

from pathlib import Path

import pytest
import torch

from dino_infer.networks.build import build_backbone
from dino_infer.weights.checkpoints import load_backbone, save_checkpoint, weights_sha256
from dino_infer.weights.info import CheckpointInfo
from dino_infer.weights.run_folders import newest_weights, snapshots_of


def network(seed: int):
    torch.manual_seed(seed)
    return build_backbone("vit_micro", patch_size=8, image_size=16)


def save(run: Path, step: int, *, checkpoint: bool = True) -> Path:
    """What training leaves after ``step`` updates, or when it is killed before the checkpoint."""
    backbone = network(step)
    info = CheckpointInfo(arch="vit_micro", patch_size=8, image_size=16, step=step)
    path = run / "snapshots" / f"step-{step:08d}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {f"backbone.network.{k}": v for k, v in backbone.network.state_dict().items()}
    torch.save({"teacher": weights, "checkpoint_info": info.as_metadata()}, path)
    if checkpoint:
        save_checkpoint(run / "checkpoint.safetensors", backbone, info)
    return path


def test_a_whole_run_gives_its_checkpoint_without_a_word(tmp_path: Path, caplog):
    save(tmp_path, 3)
    assert weights_sha256(load_backbone(tmp_path)[0]) == weights_sha256(network(3))
    assert "step" not in caplog.text


@pytest.mark.parametrize(("before", "said"), [(None, "is missing"), (3, "has weights of step 3")])
def test_a_run_killed_before_its_checkpoint_gives_the_newest_weights_and_says_so(
    tmp_path: Path, caplog, before: int | None, said: str
):
    if before:
        save(tmp_path, before)
    save(tmp_path, 7, checkpoint=False)
    backbone, info = load_backbone(tmp_path)
    assert info.step == 7 and weights_sha256(backbone) == weights_sha256(network(7))
    (line,) = [m for m in caplog.messages if said in m]
    assert "checkpoint.safetensors" in line and "step-00000007.pt" in line


def test_only_files_named_as_training_does_are_snapshots(tmp_path: Path):
    ours = [save(tmp_path, 5), save(tmp_path, 123_456_789, checkpoint=False)]
    (tmp_path / "snapshots" / "step-00000009.pt").mkdir()
    for stranger in ("step-best.pt", "step-7.pt", "step-000000007.pt", "step-00000008.pt.bak"):
        (tmp_path / "snapshots" / stranger).write_bytes(b"mine")
    assert snapshots_of(tmp_path) == {5: ours[0], 123_456_789: ours[1]}


@pytest.mark.parametrize("metadata", ["null", "[]", "{}", '{"step": "x"}', "[" * 9_999, "\\"])
def test_a_checkpoint_that_does_not_tell_its_step_is_taken(tmp_path: Path, metadata: str):
    from safetensors.torch import save_file

    save(tmp_path, 7, checkpoint=False)
    path = tmp_path / "checkpoint.safetensors"
    save_file({"a": torch.ones(1)}, path, metadata={"dino": metadata})
    assert newest_weights(tmp_path) == path
