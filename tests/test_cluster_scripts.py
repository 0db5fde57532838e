"""The scripts of ``examples/cluster``, run with stand-ins for the commands of a cluster."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser, parse_min_max_nnodes

from dino_infer.cli.embed import main as embed
from dino_infer.networks.build import build_backbone
from dino_infer.weights.checkpoints import save_checkpoint
from dino_infer.weights.info import CheckpointInfo

CLUSTER = Path(__file__).parents[1] / "examples" / "cluster"
OURS = ["imagenet_vits16", "--data", "/data/with a space", "--out", "/runs/s16"]
SAYS_ARGUMENTS = 'printf "%s\\0" "$@" > "$PLACE/$(basename "$0")"\n'
UNTIL_TERM = (
    'trap "touch $PLACE/told; exit 130" TERM; touch "$PLACE/ready"\nwhile :; do sleep 0.02; done'
)
SCONTROL = (
    'if [ "$1" = show ]; then printf "node7\\nnode8\\n"; else ' + SAYS_ARGUMENTS.strip() + "; fi"
)


@pytest.fixture
def cluster(tmp_path: Path):
    """A function that starts a script among stand-ins for commands, which are bash."""

    def start(script: str, *args: str, env: dict[str, str], **commands: str) -> subprocess.Popen:
        for name, text in commands.items():
            path = tmp_path / "bin" / name.replace("_", "-")
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"#!/bin/bash\n{text}\n")
            path.chmod(0o755)
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        env = {**os.environ, "PATH": path, "PLACE": str(tmp_path), **env}
        return subprocess.Popen(["bash", CLUSTER / script, *args], env=env)

    return start


def said(path: Path) -> list[str]:
    """Arguments that a stand-in was called with."""
    return path.read_text().split("\0")[:-1]


def check_torchrun(args: list[str], *, nodes: tuple[int, int], endpoint: str) -> None:
    """Let torchrun itself read its arguments."""
    parsed = get_args_parser().parse_args(args)
    assert parse_min_max_nnodes(parsed.nnodes) == nodes
    assert (parsed.rdzv_backend, parsed.rdzv_endpoint) == ("c10d", endpoint)
    assert parsed.nproc_per_node == "gpu" and parsed.max_restarts > 0
    assert (parsed.module, parsed.training_script) == (True, "dino_train.cli")
    assert parsed.training_script_args == OURS


SLURM = {"SLURM_JOB_ID": "4711", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "node[7-8]"}


def test_a_job_whose_time_is_over_saves_and_is_queued_again(cluster, tmp_path: Path):
    job = cluster("train.sbatch", *OURS, env=SLURM, srun=SAYS_ARGUMENTS + UNTIL_TERM,
                  scontrol=SCONTROL)  # fmt: skip
    while not (tmp_path / "ready").exists():
        assert job.poll() is None
        time.sleep(0.01)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(30) == 0
    assert (tmp_path / "told").exists() and said(tmp_path / "scontrol") == ["requeue", "4711"]
    program, *args = said(tmp_path / "srun")
    assert program == "torchrun"
    check_torchrun(args, nodes=(2, 2), endpoint="node7:29500")


@pytest.mark.parametrize("code", [0, 3])
def test_a_job_that_ends_by_itself_tells_how_and_is_not_queued_again(
    cluster, tmp_path: Path, code: int
):
    job = cluster("train.sbatch", *OURS, env=SLURM, srun=f"exit {code}", scontrol=SCONTROL)
    assert job.wait(30) == code
    assert not (tmp_path / "scontrol").exists()


def test_nodes_without_a_queue_are_told_where_to_meet(cluster, tmp_path: Path):
    env = {"HEAD": "node0", "NODES": "2:4"}
    assert cluster("train_node.sh", *OURS, env=env, torchrun=SAYS_ARGUMENTS).wait(30) == 0
    check_torchrun(said(tmp_path / "torchrun"), nodes=(2, 4), endpoint="node0:29500")
    (tmp_path / "torchrun").unlink()
    assert cluster("train_node.sh", *OURS, env={"NODES": "2:4"}, torchrun=SAYS_ARGUMENTS).wait(30)
    assert not (tmp_path / "torchrun").exists()


def test_an_array_of_jobs_embeds_a_folder(cluster, image_folder, tmp_path: Path, monkeypatch):
    weights = tmp_path / "w.safetensors"
    info = CheckpointInfo(arch="vit_micro", patch_size=8, image_size=32)
    save_checkpoint(weights, build_backbone("vit_micro", patch_size=8, image_size=32), info)
    out = str(tmp_path / "feats.npy")
    ours = [str(image_folder(count=5)), "-o", out, "--weights", str(weights), "--batch-size", "2"]
    assert cluster("embed.sbatch", *ours, env={}, dino_embed=SAYS_ARGUMENTS).wait(30) == 0
    args = said(tmp_path / "dino-embed")
    assert args[: len(ours)] == ours
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
    monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", "0")
    for task in ("0", "1", "1"):  # the last as if it had been queued again
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", task)
        assert embed([*args, "--device", "cpu"]) == 0
    assert embed(["--merge", "-o", out]) == 0
    assert Path(out).exists()
