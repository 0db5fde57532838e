"""Whole runs of dino-train in processes of their own: caches, several processes, start-up."""

import argparse
import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from crop_speed import SMALL as PHOTO_SIZE, made_photos
from original_run import original_speed
from timed_program import GRACE_S, NotMeasuredError, Shares, Speed, run_to_end

from dino_infer.devices import resolved_precision
from dino_infer.sources.image_list import ImageList, list_images
from dino_train.records.metrics import read_rows

CACHES = {"cpu": ("none", "ram"), "cuda": ("none", "ram", "gpu")}
MOST_COPIES = 512  # files that are really there; the others are links to them
PART = 16  # images of a step for each of several processes
ONLY_STEPS = (
    "--run.eval-epochs 1000 --run.snapshot-epochs 1000 --optim.warmup-epochs 0 "
    "--optim.freeze-last-layer-epochs 0 --no-tensorboard"
).split()
SMALL = (
    "tiny_cpu --model.arch vit_micro --crops.global-crops-size 64 --crops.local-crops-size 32 "
    "--crops.local-crops-number 4"
).split()


def print_runs(options: argparse.Namespace) -> None:
    """Images per second from JPEG files: every cache of dino-train, and the original's script."""
    archs = options.archs or (["vit_tiny"] if options.device == "cpu" else ["vit_small"])
    batches = options.batches or ([8] if options.device == "cpu" else [256])
    caches, half = CACHES[options.device], max(2, options.steps // 2)
    pairs = list(itertools.product(archs, batches))
    shares = Shares(options.minutes, len(pairs) * (len(caches) + bool(options.baseline)))
    precision = resolved_precision("auto", torch.device(options.device))
    originals = "fp32, stand-ins for CUDA" if options.device == "cpu" else "fp16"
    print_heading(f"two epochs of {half} steps; the second counts")
    with photos(options.data) as images, tempfile.TemporaryDirectory() as temp:
        for arch, batch in pairs:
            data = linked_folder(images, Path(temp) / f"half_{batch}", half * batch)
            for cache in caches:
                flags = ["imagenet_vits16", "--model.arch", arch, *shape_flags(options)]
                print_speed(
                    f"dino-train {precision} {arch} {batch}, cache {cache}",
                    trained_speed,
                    [*flags, "--cache", cache, "--workers", str(options.workers)],
                    data,
                    batch=batch,
                    device=options.device,
                    limit_s=shares.take(),
                )
            if options.baseline:
                data = linked_folder(images, Path(temp) / f"whole_{batch}", 2 * half * batch)
                name = f"original {originals} {arch} {batch}"
                print_speed(name, original_speed, options, data, arch, batch, limit_s=shares.take())


def print_processes(options: argparse.Namespace) -> None:
    """Images per second of one, two and more processes with equal parts each."""
    half, shares = max(2, options.steps // 2), Shares(options.minutes, len(options.processes))
    print_heading(f"{PART} images, one worker and one thread a process")
    with photos(options.data) as images, tempfile.TemporaryDirectory() as temp:
        for count in options.processes:
            batch = PART * count
            print_speed(
                f"processes {count}, {batch} images a step",
                trained_speed,
                [*SMALL, "--cache", "none", "--workers", "1"],
                linked_folder(images, Path(temp) / f"{count}", half * batch),
                batch=batch,
                device=options.device,
                limit_s=shares.take(),
                processes=count,
            )


def print_startup(options: argparse.Namespace) -> None:
    """Seconds from the command to the row of the first step, over growing folders."""
    shares = Shares(options.minutes, len(options.startup))
    print(f"{'files':>10}{'first step s':>14}")
    with photos(options.data) as images:
        for count in options.startup:
            limit_s = shares.take()
            with tempfile.TemporaryDirectory() as temp:
                say(f"linking {count:,} files")
                data = linked_folder(images, Path(temp) / "many", count)
                say("starting on them")
                try:
                    seconds = startup_s(data, Path(temp), options.device, limit_s=limit_s)
                    print(f"{count:10,}{seconds:14.1f}", flush=True)
                except NotMeasuredError as error:
                    print(f"{count:10,} not measured: {error}", flush=True)
                say("removing the links")


def startup_s(data: Path, temp: Path, device: str, *, limit_s: float) -> float:
    """Seconds until a run has logged its first step; then it is stopped.

    Raises:
        NotMeasuredError: It failed, or took longer than ``limit_s``.
    """
    flags = [*SMALL, *ONLY_STEPS, "--optim.batch-size", "16", "--optim.epochs", "1"]
    flags += ["--run.log-every", "1", "--cache", "none", "--workers", "2", "--device", device]
    command = training_command(flags, data, temp / "run")
    start = time.perf_counter()
    with (temp / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        while not step_rows(temp / "run"):
            if process.poll() is not None:
                last = (temp / "log").read_text().strip().splitlines()[-1:]
                raise NotMeasuredError(f"the run ended with {' '.join(last)!r}")
            if time.perf_counter() - start > limit_s:
                raise NotMeasuredError(f"no step within {limit_s:.0f} s")
            time.sleep(0.02)
        return time.perf_counter() - start
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def trained_speed(
    flags: Sequence[str],
    data: Path,
    *,
    batch: int,
    device: str,
    limit_s: float,
    processes: int | None = None,
) -> Speed:
    """Speed of dino-train over two epochs of ``data``, from its own metrics of the second.

    Args:
        flags: Recipe and settings.
        data: Images, a multiple of a batch.
        batch: Images a step.
        device: "cpu" or "cuda".
        limit_s: When the run is stopped; the rows that it has written by then count.
        processes: Run so many under torchrun, with a thread each.

    Raises:
        NotMeasuredError: The run failed, or was stopped before it had written enough.
    """
    gpus = torch.cuda.device_count()
    if device == "cuda" and processes is not None and processes > gpus:
        raise NotMeasuredError(f"it needs {processes} GPUs and there are {gpus}")
    half = sum(1 for _ in data.rglob("*.*")) // batch
    every = max(1, half // 10)
    more = ["--optim.batch-size", str(batch), "--optim.epochs", "2", "--device", device]
    more += [*ONLY_STEPS, "--run.log-every", str(every)]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    with tempfile.TemporaryDirectory() as temp:
        run = Path(temp) / "run"
        ended = run_to_end(
            training_command([*flags, *more], data, run, launcher=launcher if processes else ()),
            log=Path(temp) / "errors.log",
            limit_s=limit_s,
            environment={"OMP_NUM_THREADS": "1"} if processes else {},
        )
        rows = step_rows(run)
    if ended.complaint:
        raise NotMeasuredError(ended.complaint)
    return _speed(rows, batch, half=half, resident_gib=ended.resident_gib)


def _speed(rows: list[dict[str, float]], batch: int, *, half: int, resident_gib: float) -> Speed:
    """Of the rows that are wholly about the second half, else of all but that of the first step."""
    spans = [(int(row["step"] - before["step"]), row) for before, row in itertools.pairwise(rows)]
    late = [(steps, row) for steps, row in spans if row["step"] - steps >= half - 1] or spans
    if not late:
        raise NotMeasuredError("it was stopped in its first steps; give more --minutes")
    seconds = [steps * row["step_time_s"] for steps, row in late]
    waits = [s * row["data_wait_share"] for s, (_, row) in zip(seconds, late, strict=True)]
    rates = [row["images_per_s"] for _, row in late]
    gpu_mib = rows[-1].get("peak_memory_mib")
    return Speed(
        images_per_s=batch * sum(steps for steps, _ in late) / sum(seconds),
        lowest=min(rates),
        highest=max(rates),
        wait_share=sum(waits) / sum(seconds),
        peak_gib=resident_gib if gpu_mib is None else gpu_mib / 1024,
    )


def print_heading(what: str) -> None:
    """Columns of the table that ``print_speed`` fills."""
    print(f"{what:52}{'images/s':>10}{'lowest':>9}{'highest':>9}{'waits':>8}{'peak GiB':>10}")


def print_speed(name: str, way: Callable[..., Speed], *arguments: Any, **settings: Any) -> None:
    """A row with what ``way`` measures, or with why it measured nothing."""
    say(f"running {name}, at most {settings['limit_s']:.0f} s")
    try:
        speed = way(*arguments, **settings)
    except NotMeasuredError as error:
        print(f"{name:52} not measured: {error}", flush=True)
        return
    print(
        f"{name:52}{speed.images_per_s:10.1f}{speed.lowest:9.1f}{speed.highest:9.1f}"
        f"{speed.wait_share:8.1%}{speed.peak_gib:10.1f}",
        flush=True,
    )


@contextlib.contextmanager
def photos(given: str | None) -> Iterator[ImageList]:
    """The images given, or JPEGs of 500x375 pixels made for the time of use."""
    with tempfile.TemporaryDirectory() as made:
        if given is None:
            say("making photos")
        yield list_images(given or made_photos(Path(made), PHOTO_SIZE))


def linked_folder(images: ImageList, folder: Path, count: int) -> Path:
    """``count`` links to copies of the first images, a thousand in each class folder."""
    if folder.exists():
        return folder
    copies = folder.with_name(f"{folder.name}_copies")
    copies.mkdir()
    sources = [Path(images.location(i)) for i in range(min(count, len(images), MOST_COPIES))]
    copied = [
        Path(shutil.copy(source, copies / f"{number}{source.suffix}"))
        for number, source in enumerate(sources)
    ]
    for number in range(count):
        inside = folder / f"{number // 1000:04d}"
        if number % 1000 == 0:
            inside.mkdir(parents=True)
        source = copied[number % len(copied)]
        os.link(source, inside / f"{number % 1000:03d}{source.suffix}")
    return folder


def shape_flags(options: argparse.Namespace) -> list[str]:
    """Settings of crops, head and compiler as asked for."""
    return [
        *("--crops.global-crops-size", str(options.global_size)),
        *("--crops.local-crops-size", str(options.local_size)),
        *("--crops.local-crops-number", str(options.local_crops)),
        *("--head.out-dim", str(options.out_dim)),
        *(["--compile"] if options.compile else []),
    ]


def training_command(
    flags: Sequence[str], data: Path, out: Path, *, launcher: Sequence[str] = ()
) -> list[str]:
    """dino-train, perhaps under a launcher."""
    where = ["--data", str(data), "--out", str(out)]
    return [sys.executable, *launcher, "-m", "dino_train.cli", *flags, *where]


def step_rows(run: Path) -> list[dict[str, float]]:
    """Rows about steps, as far as they are written."""
    return [row for row in read_rows(run / "metrics.jsonl") if "loss_nats" in row]


def say(what: str) -> None:
    """A word on what comes next, beside the table."""
    print(f"  {what}", file=sys.stderr, flush=True)
