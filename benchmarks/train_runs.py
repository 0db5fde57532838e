"""Whole runs of dino-train, and of the original's script, in processes of their own."""

import argparse
import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 375, 500  # of a usual ImageNet photo
SMALL = (
    "tiny_cpu --model.arch vit_micro --crops.global-crops-size 64 --crops.local-crops-size 32 "
    "--crops.local-crops-number 4 --optim.warmup-epochs 0 --run.eval-epochs 1000 --no-tensorboard"
).split()
OFFLINE = "import torch; torch.hub.list = lambda *a, **k: []\n"
# What lets the script of the original start on a CPU; nothing of its arithmetic is touched.
WITHOUT_CUDA = """\
import torch.distributed as dist
torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *a, **k: self
torch.cuda.set_device = torch.cuda.synchronize = lambda *a, **k: None
make, tensor, parallel = dist.init_process_group, torch.tensor, torch.nn.parallel
dist.init_process_group = lambda backend, **k: make("gloo", **k)
torch.tensor = lambda *a, device=None, **k: tensor(*a, **k)
wrapped = parallel.DistributedDataParallel
parallel.DistributedDataParallel = lambda net, device_ids=None: wrapped(net)
"""
START = "import runpy, sys; sys.argv = sys.argv[1:]; sys.path.insert(0, '.')\n"
START += "runpy.run_path('main_dino.py', run_name='__main__')\n"


def print_runs(options: argparse.Namespace) -> None:
    """Images per second from JPEG files, of dino-train and of the original's script."""
    batches = options.batches or ([8] if options.device == "cpu" else [256])
    archs = options.archs or (["vit_tiny"] if options.device == "cpu" else ["vit_small"])
    print(f"{'':34}{'images/s':>10}{'waits':>8}{'peak GiB':>10}")
    for arch in archs:
        for batch in batches:
            with images(options.data, at_least=4 * batch) as (folder, count):
                epochs = max(1, round(options.steps * batch / count))
                shape = ["--model.arch", arch, "--optim.batch-size", str(batch)]
                shape += ["--optim.epochs", str(epochs), "--optim.warmup-epochs", "0"]
                shape += ["--head.out-dim", str(options.out_dim), "--run.eval-epochs", "1000"]
                shape += ["--workers", str(options.workers), "--device", options.device]
                shape += ["--no-tensorboard", *(["--compile"] if options.compile else [])]
                with tempfile.TemporaryDirectory() as run:
                    rows = trained(["imagenet_vits16", *shape], folder, Path(run) / "run")
                print_rates(f"dino-train {arch} {batch}", rows)
                if options.baseline:
                    rate = original_rate(options, folder, arch, batch, epochs)
                    print(f"{f'original {arch} {batch}':34}{rate:10.1f}", flush=True)


def print_processes(counts: Sequence[int], *, device: str, steps: int) -> None:
    """Images per second of one, two and more processes with equal parts each."""
    print(f"{'processes':34}{'images/s':>10}{'waits':>8}{'peak GiB':>10}")
    with images(None, at_least=16 * max(counts) * 4) as (folder, count):
        for processes in counts:
            batch = 16 * processes
            epochs = max(1, round(steps * batch / count))
            shape = ["--optim.batch-size", str(batch), "--optim.epochs", str(epochs)]
            shape += ["--device", device, "--workers", "1"]
            launcher = ["-m", "torch.distributed.run", "--standalone"]
            launcher += ["--nproc-per-node", str(processes)]
            with tempfile.TemporaryDirectory() as run:
                out = Path(run) / "run"
                rows = trained([*SMALL, *shape], folder, out, launcher=launcher, threads=1)
            print_rates(f"{processes}, {batch} images a step", rows)


def print_startup(counts: Sequence[int], *, device: str) -> None:
    """Seconds from the command to the row of the first step, over growing folders."""
    print(f"{'files':>10}{'first step s':>14}")
    for count in counts:
        with images(None, at_least=64) as (folder, made), tempfile.TemporaryDirectory() as temp:
            many, out = Path(temp) / "many", Path(temp) / "run"
            linked(sorted(folder.rglob("*.jpg"))[:made], many, count)
            shape = ["--optim.batch-size", "16", "--optim.epochs", "1", "--device", device]
            start = time.perf_counter()
            process = started([*SMALL, *shape, "--run.log-every", "1"], many, out)
            while not step_rows(out) and process.poll() is None:
                time.sleep(0.05)
            seconds = time.perf_counter() - start
            process.send_signal(signal.SIGTERM)
            errors = process.communicate()[1]
            if not step_rows(out):
                raise RuntimeError(errors)
            print(f"{count:10,}{seconds:14.1f}", flush=True)


def print_rates(name: str, rows: list[dict[str, float]]) -> None:
    """Medians of the rows after the first, which holds the start."""
    later = rows[1:] or rows
    rate, waits, memory = (
        statistics.median(row.get(key, 0.0) for row in later)
        for key in ("images_per_s", "data_wait_share", "peak_memory_mib")
    )
    print(f"{name:34}{rate:10.1f}{waits:8.0%}{memory / 1024:10.1f}", flush=True)


@contextlib.contextmanager
def images(given: str | None, *, at_least: int) -> Iterator[tuple[Path, int]]:
    """A folder of class folders with JPEGs and their number: those given, or made of noise."""
    if given is not None:
        yield Path(given), sum(1 for path in Path(given).rglob("*") if path.is_file())
        return
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as temp:
        for number in range(at_least):
            coarse = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8))
            picture = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), int)
            picture = picture + rng.integers(-12, 12, picture.shape)
            path = Path(temp) / f"class_{number % 4}" / f"{number:06d}.jpg"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(path, quality=90)
        yield Path(temp), at_least


def linked(sources: list[Path], folder: Path, count: int) -> None:
    """``count`` files that are links to a few, a thousand in each folder."""
    for number in range(count):
        inside = folder / f"{number // 1000:04d}"
        if number % 1000 == 0:
            inside.mkdir(parents=True)
        os.link(sources[number % len(sources)], inside / f"{number % 1000:03d}.jpg")


def started(
    flags: list[str],
    data: Path,
    out: Path,
    *,
    launcher: Sequence[str] = (),
    threads: int | None = None,
) -> "subprocess.Popen[str]":
    """dino-train in a process of its own."""
    command = [sys.executable, *launcher, "-m", "dino_train.cli", *flags]
    command += ["--data", str(data), "--out", str(out)]
    environment = dict(os.environ) | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment, text=True, **pipes)


def trained(flags: list[str], data: Path, out: Path, **options: Any) -> list[dict[str, float]]:
    """The rows of a whole run."""
    process = started([*flags, "--run.log-every", "5"], data, out, **options)
    errors = process.communicate()[1]
    if process.returncode:
        raise RuntimeError(errors)
    return step_rows(out)


def step_rows(out: Path) -> list[dict[str, float]]:
    """Rows about steps, as far as they are written."""
    path = out / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("}")]
    return [row for row in rows if "loss_nats" in row]


def original_rate(
    options: argparse.Namespace, data: Path, arch: str, batch: int, epochs: int
) -> float:
    """Images per second that the original's script reports on one device."""
    code = OFFLINE + (WITHOUT_CUDA if options.device == "cpu" else "") + START
    with tempfile.TemporaryDirectory() as out:
        flags = f"--arch {arch} --batch_size_per_gpu {batch} --epochs {epochs} --warmup_epochs 0"
        flags += f" --out_dim {options.out_dim} --num_workers {options.workers}"
        flags += f" --local_crops_number {options.local_crops} --data_path {data}"
        flags += f" --output_dir {out} --use_fp16 {str(options.device == 'cuda').lower()}"
        environment = dict(os.environ) | {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
        done = subprocess.run(
            [sys.executable, "-c", code, "main_dino.py", *flags.split()],
            cwd=options.baseline,
            env=environment,
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
    steps = re.findall(r"time: ([\d.]+)\s+data:", done.stdout)
    return batch / statistics.median(float(seconds) for seconds in steps[1:] or steps)
