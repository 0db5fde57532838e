"""Everything that only a GPU can show, in one command of at most eight minutes.

    python benchmarks/gpu_bundle.py imagenette/train imagenette/val -o bundle.zip
    PYTHONPATH=.:training python benchmarks/on_gpu.py --data bundle.zip --out results
    PYTHONPATH=.:training python benchmarks/on_gpu.py --data bundle.zip --out results --rehearse

Needs PyTorch, torchvision, timm, Triton, and what the training library imports; neither FAISS nor
tyro. The parts come in order of worth, each in a process of its own that is ended at its limit, so
one that fails or hangs costs no other its result:

- ``checks``: kernels against plain maths, as a run does before its first step, with the seconds;
- ``tests``: the tests marked ``gpu``;
- ``step``: stages, images/s and share of the measured peak, with and without ``torch.compile``;
- ``crops``: decoding and crops of the bundle's photographs;
- ``train``: DINO, then the coding rate, as long as time is left, with k-NN (k = 20) on ``val``.

``results.jsonl`` gets a row as soon as there is one, ``log.txt`` what the parts say. The weights of
the better run come in bfloat16, in pieces: ``cat NAME.safetensors.* > NAME.safetensors``.
``--rehearse`` does all of it on a CPU with tiny settings, whose figures say nothing.
"""

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).parents[1]
PIECE_BYTES = 16 << 20
SPARE_S = 15.0  # of a training part, to load, measure and save
PARTS = {
    "checks": 50.0,
    "tests": 60.0,
    "step vit_small": 40.0,
    "step vit_small compiled": 75.0,
    "crops": 30.0,
    "step vit_base": 40.0,
    "step vit_base compiled": 90.0,
    "train dino": 180.0,
    "train coding-rate": 180.0,
}
"""Names of the parts and their limits in seconds; training takes less where less is left."""
BATCHES = {"vit_small": 256, "vit_base": 128}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all parts, or inside a process of its own the one that is named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="bundle of gpu_bundle.py")
    parser.add_argument("--out", type=Path, default=os.environ.get("OUT", "on_gpu"))
    parser.add_argument("--minutes", type=float, default=7.7, help="for all parts together")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, with tiny settings")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.part:
        run_part(options)
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    end_s = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(options.data) as bundle:
            bundle.extractall(folder)
        mode = ["--rehearse"] if options.rehearse else []
        command = [sys.executable, __file__, "--data", folder, "--out", str(options.out), *mode]
        watch_parts(command, PARTS, out=options.out, end_s=end_s)
    return 0


def watch_parts(
    command: Sequence[str], limits: dict[str, float], *, out: Path, end_s: float
) -> None:
    """Run each part in turn and write how it ended; whatever it started ends with it.

    Args:
        command: Program that gets ``--part NAME --seconds LIMIT``.
        limits: Parts in order, with the seconds that each may take.
        out: Folder of the results.
        end_s: Time of ``time.monotonic`` at which all ends; parts that train share what is left.
    """
    names = list(limits)
    for number, name in enumerate(names):
        left_s, start_s = end_s - time.monotonic(), time.monotonic()
        sharing = len(names) - number if name.startswith("train") else 1
        limit_s = min(limits[name], left_s / sharing)
        if limit_s < 1:
            write(out, part=name, ended="not begun: no time was left")
            continue
        asked = [*command, "--part", name, "--seconds", f"{limit_s:.1f}"]
        with (out / "log.txt").open("a") as log:
            print(f"== {name}", file=log, flush=True)
            process = subprocess.Popen(asked, stdout=log, stderr=log, start_new_session=True)
        try:
            code = process.wait(limit_s)
            ended = "well" if code == 0 else f"failed: exit code {code}, see log.txt"
        except subprocess.TimeoutExpired:
            ended = f"stopped after {limit_s:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):  # where it left nothing running
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        write(out, part=name, ended=ended, seconds=round(time.monotonic() - start_s, 1))


def write(out: Path, **row: Any) -> None:
    """Append a row to the results, and print it."""
    line = json.dumps(row)
    with (out / "results.jsonl").open("a") as results:
        results.write(line + "\n")
    print(line, flush=True)


def run_part(options: argparse.Namespace) -> None:
    """Do one part in this process."""
    kind, *more = options.part.split()
    if options.rehearse:
        os.environ["TORCHDYNAMO_DISABLE"] = "1"  # the C++ compiler takes minutes
        os.environ["TRITON_INTERPRET"] = "1"
    import torch

    device = torch.device("cpu" if options.rehearse else "cuda")
    parts: dict[str, Callable[..., Iterator[dict[str, Any]]]] = {
        "checks": check_kernels,
        "tests": run_tests,
        "step": time_step,
        "crops": time_crops,
        "train": train_a_while,
    }
    for row in parts[kind](options, device, *more):
        write(options.out, part=options.part, **row)


def check_kernels(options: argparse.Namespace, device: Any) -> Iterator[dict[str, Any]]:
    """The choices that a run makes before its first step: compiling included, then once more."""
    import torch

    from dino_train import optim
    from dino_train.crops import on_device
    from dino_train.data import gpu_decoding

    name = torch.cuda.get_device_name() if device.type == "cuda" else "a CPU, rehearsing"
    yield {"device": name, "torch": torch.__version__, "cuda": torch.version.cuda}
    sizes = (8,) if options.rehearse else (224, 96)
    checks: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "crops": (on_device._kernels, (device, *sizes)),
        "decoder": (gpu_decoding._decoder, (device,)),
        "fused adamw": (optim._fused_works, ("adamw", device)),
        "fused sgd": (optim._fused_works, ("sgd", device)),
    }
    for check, (choose, given) in checks.items():
        seconds = []
        for _ in range(2):
            start_s = time.perf_counter()
            chosen = choose.__wrapped__(*given)
            seconds.append(round(time.perf_counter() - start_s, 3))
        shown = getattr(chosen, "__name__", str(chosen))
        yield {"check": check, "chosen": shown, "first_s": seconds[0], "again_s": seconds[1]}


def run_tests(options: argparse.Namespace, device: Any) -> Iterator[dict[str, Any]]:
    """Tests with the mark; plugins that a bare machine lacks are not asked for."""
    files = [
        str(path) for path in sorted((ROOT / "tests").rglob("test_*.py"))
        if "pytest.mark.gpu" in path.read_text()
    ]  # fmt: skip
    settings = ("addopts=--import-mode=importlib", "filterwarnings=default")
    given = [part for setting in settings for part in ("-o", setting)]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-rfEs", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *given, *files], cwd=ROOT, capture_output=True, text=True, check=False
    )
    print(done.stdout, done.stderr)
    told = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    yield {"exit_code": done.returncode, "said": done.stdout.splitlines()[-1:], "failed": told}


def time_step(
    options: argparse.Namespace, device: Any, arch: str, compiled: str = ""
) -> Iterator[dict[str, Any]]:
    """Whole steps without waiting in between, then the stages, each waited for."""
    import torch
    from stopwatch import timed
    from torch.utils.flop_counter import FlopCounterMode
    from train_speed import RATES, learner, matmul_rate, random_crops, stages

    tiny = options.rehearse
    shape = SimpleNamespace(
        device=device.type,
        out_dim=64 if tiny else 65_536,
        global_size=32 if tiny else 224,
        local_size=16 if tiny else 96,
        local_crops=2 if tiny else 8,
    )
    batch, rounds, steps = (2, 1, 1) if tiny else (BATCHES[arch], 5, 5)
    arch = "vit_micro" if tiny else arch
    peak = matmul_rate(device.type, torch.bfloat16)
    few = random_crops(shape, 2)
    counter = FlopCounterMode(display=False)
    with counter:
        learner(shape, arch, "bf16").step([few], rates=RATES)
    flops = counter.get_total_flops() / 2
    ours, crops = learner(shape, arch, "bf16", compiled=bool(compiled)), random_crops(shape, batch)

    def some_steps() -> None:
        for _ in range(steps):
            ours.step([crops], rates=RATES)

    first_s = timed(some_steps, device.type)
    middle = statistics.median(timed(some_steps, device.type) / steps for _ in range(rounds))
    row = {"arch": arch, "batch": batch, "step_ms": 1e3 * middle, "first_steps_s": first_s}
    row |= {"images_per_s": batch / middle, "gflop_per_image": flops / 1e9}
    row |= {"peak_tflops": peak / 1e12, "share_of_peak": flops * batch / middle / peak}
    if device.type == "cuda":
        row["peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
    yield row
    yield {"stages_ms": stages(ours, crops, "bf16", rounds)}


def time_crops(options: argparse.Namespace, device: Any) -> Iterator[dict[str, Any]]:
    """Photographs per second that the device decodes, and makes 2 + 8 crops of."""
    import numpy as np
    from stopwatch import timed

    from dino_infer.sources.image_list import list_images
    from dino_train.crops.on_device import make_device_crops
    from dino_train.crops.spec import CropSpec
    from dino_train.data.dataset import CropDataset

    images = list_images(options.data / "train")
    spec = CropSpec(global_crops_size=16, local_crops_size=8) if options.rehearse else CropSpec()
    rows = np.linspace(0, len(images) - 1, 4 if options.rehearse else 256).astype(int).tolist()
    keys = [(0, row) for row in rows]
    rounds = 1 if options.rehearse else 7
    coded = CropDataset(images, spec, executor="device", seed=0, decoder="gpu").__getitems__(keys)
    plain = CropDataset(images, spec, executor="device", seed=0).__getitems__(keys).to(device)
    ways = {
        "decoding": lambda: coded.to(device),
        "crops": lambda: make_device_crops(plain.payload, spec),
    }
    for name, way in ways.items():
        first_s = timed(way, device.type)
        middle = statistics.median(timed(way, device.type) for _ in range(rounds))
        yield {"what": name, "images_per_s": len(rows) / middle, "first_s": first_s}


def train_a_while(options: argparse.Namespace, device: Any, kind: str) -> Iterator[dict[str, Any]]:
    """As many epochs as the time allows, by an epoch that is trained and thrown away."""
    start_s = time.monotonic()
    from dino_infer.sources.image_list import list_images
    from dino_infer.weights.checkpoints import load_backbone
    from dino_train import recipes, train
    from dino_train.config import LossConfig, Machine
    from dino_train.records.metrics import read_rows

    images = list_images(options.data / "train")
    machine = Machine(device=device.type, workers=0 if options.rehearse else None)

    def trained(epochs: int, run: Path) -> Path:
        config = recipes.auto(num_images=len(images), image_side=128, epochs=epochs)
        if options.rehearse:
            config = recipes.tiny_cpu()
            head = replace(config.head, out_dim=32, hidden_dim=32)
            optim = replace(config.optim, batch_size=4, epochs=epochs, warmup_epochs=0)
            config = replace(config, head=head, optim=optim)
        whole = replace(config.run, snapshot_epochs=epochs, eval_epochs=epochs)
        config = replace(config, loss=LossConfig(kind=kind), run=whole)  # type: ignore[arg-type]
        train(config, data=[options.data / "train"], out=run, machine=machine, images=images,
              tensorboard=False)  # fmt: skip
        return run

    def speeds(run: Path) -> list[float]:
        rows = read_rows(run / "metrics.jsonl")
        return [row["images_per_s"] for row in rows if "images_per_s" in row]

    with tempfile.TemporaryDirectory() as folder:
        one = speeds(trained(1, Path(folder) / "one"))
        left_s = options.seconds - SPARE_S - 1.3 * (time.monotonic() - start_s)
        epochs = 2 if options.rehearse else max(2, int(left_s * one[-1] / len(images)))
        run = trained(epochs, Path(folder) / "whole")
        yield {
            "loss": kind,
            "images": len(images),
            "epochs": epochs,
            "seconds": time.monotonic() - start_s,
            "images_per_s": statistics.median(speeds(run)),
        }
        backbone, info = load_backbone(run)
        networks = {"untrained": load_untrained(info), "trained": backbone}
        accuracy = {
            name: knn_percent(network, options.data, device) for name, network in networks.items()
        }
        yield {"loss": kind, "knn_top1_percent": accuracy}
        if is_best(options.out, kind, accuracy["trained"]):
            yield {"loss": kind, "weights": keep_in_pieces(run, options.out, kind)}


def load_untrained(info: Any) -> Any:
    """A network as the run's was before its first step, but for the random numbers."""
    import torch

    from dino_infer.networks.build import build_backbone

    torch.manual_seed(0)
    return build_backbone(
        info.arch,
        patch_size=info.patch_size,
        image_size=info.image_size,
        small_stem=info.small_stem,
    )


def knn_percent(backbone: Any, data: Path, device: Any) -> float:
    """Top-1 accuracy of ``val`` by the 20 nearest of ``train``, weighed by exp(cosine / 0.07).

    Source: https://arxiv.org/abs/1805.01978, section 3.4, as in DINO.
    """
    import torch

    from dino_infer.embedding.embedder import Embedder
    from dino_infer.images.preprocess import Preprocess
    from dino_infer.sources.image_list import list_images

    embedder = Embedder(backbone, Preprocess(size=backbone.image_size), device=device)
    features, labels = [], []
    for part in ("train", "val"):
        images = list_images(data / part)
        named = images.labels()
        assert named is not None, "the bundle has class folders"
        found = torch.from_numpy(embedder.embed(images).features).float().to(device)
        features.append(torch.nn.functional.normalize(found, dim=1))
        labels.append(torch.as_tensor(named[0]).long().to(device))
    cosines, near = (features[1] @ features[0].T).topk(min(20, len(labels[0])))
    votes = torch.zeros(len(labels[1]), int(labels[0].max()) + 1, device=device)
    votes.scatter_add_(1, labels[0][near], (cosines / 0.07).exp())
    return 100 * float((votes.argmax(1) == labels[1]).float().mean())


def is_best(out: Path, kind: str, percent: float) -> bool:
    """Tell if no other run of these results has a higher accuracy."""
    rows = map(json.loads, (out / "results.jsonl").read_text().splitlines())
    others = [row["knn_top1_percent"]["trained"] for row in rows
              if "knn_top1_percent" in row and row["loss"] != kind]  # fmt: skip
    return all(percent >= other for other in others)


def keep_in_pieces(run: Path, out: Path, name: str) -> list[str]:
    """Write a run's weights in bfloat16 in place of any that are there."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save

    from dino_infer.weights.files import METADATA_KEY, tensors_sha256
    from dino_infer.weights.run_folders import CHECKPOINT

    with safe_open(run / CHECKPOINT, framework="pt") as file:
        metadata = json.loads(file.metadata()[METADATA_KEY])
        tensors = {key: file.get_tensor(key).to(torch.bfloat16) for key in file.keys()}  # noqa: SIM118
    metadata["weights_sha256"] = tensors_sha256(tensors)
    content = save(tensors, {METADATA_KEY: json.dumps(metadata)})
    for old in out.glob("*.safetensors.*"):
        old.unlink()
    names = []
    for number, start in enumerate(range(0, len(content), PIECE_BYTES)):
        piece = out / f"{name}.safetensors.{number:02}"
        piece.write_bytes(content[start : start + PIECE_BYTES])
        names.append(piece.name)
    return names


if __name__ == "__main__":
    sys.exit(main())
