"""Images a second and latency of one backbone in every format it can be exported to.

    python benchmarks/export_speed.py --arch vit_small --patch-size 16 --images photos/
    python benchmarks/export_speed.py --quick

Random weights, the feature alone, normalised images on the device. Every way runs in a process of
its own and they take turns, round by round, so that whatever else the machine does hits all of
them; the ratio to eager PyTorch is taken within each round, and its median is what to compare.
"""

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CPU_WAYS = ("eager", "compile", "torchscript", "onnx", "onnx fp16", "onnx int8", "aoti")
GPU_WAYS = ("eager", "compile", "torchscript", "onnx", "onnx fp16", "aoti")
CALIBRATED = "onnx int8 calibrated"  # where there are images
CALIBRATION_IMAGES = 48
ENDINGS = {"torchscript": ".ts", "onnx": ".onnx", "aoti": ".pt2"}
SECONDS_A_TURN = 1.0  # at least one batch, and as many more as fit


def main() -> None:
    """Export, measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--arch", default="vit_small")
    parser.add_argument("--patch-size", type=int, default=16)
    parser.add_argument("--side", type=int, default=224, help="pixels of the square images")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--ways", nargs="+", choices=sorted({*CPU_WAYS, *GPU_WAYS, CALIBRATED}))
    parser.add_argument("--images", type=Path, help=f"folder that calibrates {CALIBRATED!r}")
    parser.add_argument("--quick", action="store_true", help="three rounds, nothing compiled")
    options = parser.parse_args()
    options.ways = options.ways or default_ways(options)
    if CALIBRATED in options.ways and options.images is None:
        parser.error(f"{CALIBRATED!r} needs --images")
    if options.quick:
        options.rounds = 3
    with tempfile.TemporaryDirectory() as folder:
        workers = [Worker(way, folder, options) for way in options.ways]
        for worker in workers:  # one after the other: compilers and parity checks take all cores
            worker.get_ready()
        print(about(options))
        for batch in options.batches:
            seconds = [[worker.turn(batch) for worker in workers] for _ in range(options.rounds)]
            print_table(options.ways, batch, seconds)
        for worker in workers:
            worker.stop()


def default_ways(options: argparse.Namespace) -> tuple[str, ...]:
    """All that the device runs, less what takes minutes to compile if it is to be quick."""
    ways = CPU_WAYS if options.device == "cpu" else GPU_WAYS
    if options.images is not None and options.device == "cpu":
        ways += (CALIBRATED,)
    return tuple(way for way in ways if not options.quick or way not in ("compile", "aoti"))


class Worker:
    """One way of running the backbone, in its own process."""

    def __init__(self, way: str, folder: str, options: argparse.Namespace) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, way, folder, options))

    def get_ready(self) -> None:
        """Export and load."""
        self._process.start()
        self._pipe.recv()

    def turn(self, batch: int) -> float:
        """Median seconds for a batch."""
        self._pipe.send(batch)
        return float(self._pipe.recv())

    def stop(self) -> None:
        """End the process."""
        self._pipe.send(None)
        self._process.join()


def serve(pipe: Any, way: str, folder: str, options: argparse.Namespace) -> None:
    """What a worker's process does: prepare, then time a turn for every batch size it is sent."""
    import torch

    torch.set_num_threads(options.threads)
    run = prepared(way, Path(folder), options)
    warm: set[int] = set()
    pipe.send("ready")
    while (batch := pipe.recv()) is not None:
        images = torch.randn(batch, 3, options.side, options.side, device=options.device)
        if batch not in warm:
            run(images)
            warm.add(batch)
        seconds, end = [], time.perf_counter() + SECONDS_A_TURN
        while not seconds or time.perf_counter() < end:
            start = time.perf_counter()
            run(images)
            seconds.append(time.perf_counter() - start)
        pipe.send(statistics.median(seconds))


def prepared(way: str, folder: Path, options: argparse.Namespace) -> Callable[[Any], Any]:
    """A function from images to features on the host."""
    import torch

    from dino_export.exports import export
    from dino_export.parity import sample_photos
    from dino_export.runtimes import open_export
    from dino_export.settings import ExportSettings
    from dino_infer.networks.build import build_backbone
    from dino_infer.weights.info import CheckpointInfo

    torch.manual_seed(0)
    backbone = build_backbone(
        options.arch, patch_size=options.patch_size, image_size=options.side
    ).eval()
    device = torch.device(options.device)
    if way in ("eager", "compile"):
        network: Any = backbone.to(device)
        network = torch.compile(network, dynamic=False) if way == "compile" else network

        @torch.inference_mode()
        def run(images: Any) -> Any:
            return network(images).cpu()

        return run
    form, precision = (*way.split(), "fp32")[:2]
    settings = ExportSettings(
        format=form,  # type: ignore[arg-type]
        outputs=("cls",),
        dynamic_size=form != "torchscript",
        size=(options.side, options.side),
        precision=precision,  # type: ignore[arg-type]
    )
    info = CheckpointInfo(
        arch=options.arch, patch_size=backbone.patch_size, image_size=options.side
    )
    path = folder / f"{way.replace(' ', '_')}{ENDINGS[form]}"
    calibration = calibration_images(options.images) if way == CALIBRATED else []
    export(
        path,
        backbone,
        info,
        settings,
        photos=sample_photos(),
        calibration=calibration,
        device=device,
    )
    return open_export(path, device=device).run


def calibration_images(folder: Path) -> list[Any]:
    """Arrays, spread over the folder."""
    from dino_infer.images.read import read_image
    from dino_infer.sources.image_list import list_images

    listed = list_images([folder])
    step = max(1, len(listed) // CALIBRATION_IMAGES)
    return [
        read_image(listed.read(i), path=listed.location(i)) for i in range(0, len(listed), step)
    ]


def about(options: argparse.Namespace) -> str:
    """What was measured, for the report."""
    import onnxruntime
    import torch

    place = f"CPU, {options.threads} threads"
    if options.device != "cpu":
        place = torch.cuda.get_device_name(options.device)
    return (
        f"{options.arch}/{options.patch_size}, {options.side} px, {place}, {options.rounds} "
        f"rounds, torch {torch.__version__}, onnxruntime {onnxruntime.__version__}"
    )


def print_table(ways: tuple[str, ...], batch: int, seconds: list[list[float]]) -> None:
    """A row for each way: medians over the rounds."""
    print(f"\nbatch {batch:<15}{'images/s':>10}{'latency ms':>12}{'x eager':>9}   range")
    for i, way in enumerate(ways):
        own = statistics.median(row[i] for row in seconds)
        ratios = [row[0] / row[i] for row in seconds]
        print(
            f"{way:21}{batch / own:10.1f}{1000 * own:12.1f}{statistics.median(ratios):9.2f}   "
            f"{min(ratios):.2f}-{max(ratios):.2f}"
        )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
