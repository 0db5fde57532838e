"""Runs of a track, and whether they are a record.

    python benchmarks/records/record.py run cpu-10/2026-12-01_coding-rate --data imagenette
    python benchmarks/records/record.py compare cpu-10/2026-12-01_coding-rate cpu-10/2026-12-01_dino

``run`` trains each seed with the flags in ``flags.txt`` of the record's folder, measures k-NN on
the validation images once, and appends a line to ``results.jsonl``. The training log becomes
``seed_N.jsonl``. ``compare`` prints the p-value of the first being better, by Welch's t-test, and
ends with 1 if that is no record.
"""

import argparse
import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.stats import ttest_ind

from dino_infer.devices import resolved_precision
from dino_infer.weights.checkpoints import load_backbone

HERE = Path(__file__).parent
P_VALUE = 0.01


@dataclass(frozen=True, kw_only=True)
class Track:
    """Rules of a track; its data and its purpose are in README.md."""

    minutes: float
    """Time of ``dino-train`` from start to end, measuring included: of the processor where there is
    one thread, else of the clock."""
    threads: int
    """0 leaves them to the machine."""
    figure: str = "k20_top1_percent"


TRACKS = {
    "cpu-10": Track(minutes=10, threads=1),
    "cpu-vit": Track(minutes=20, threads=1),
    "cpu-30": Track(minutes=30, threads=2),
    "gpu-12": Track(minutes=12, threads=0),
}


def main(args: Sequence[str] | None = None) -> int:
    """Run seeds or compare two records."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    verbs = parser.add_subparsers(required=True)
    run = verbs.add_parser("run", help="train seeds, and measure them")
    run.add_argument("record", help="folder TRACK/DATE_NAME with flags.txt")
    run.add_argument("--data", type=Path, required=True, help="folder with train/ and val/")
    run.add_argument("--seeds", type=int, nargs="+", default=[0])
    run.add_argument("--keep", type=Path, help="folder for the run folders; else they are deleted")
    run.set_defaults(verb=run_seeds)
    compare = verbs.add_parser("compare", help="tell whether one beats the other")
    compare.add_argument("new")
    compare.add_argument("standing")
    compare.set_defaults(verb=compare_records)
    options = parser.parse_args(args)
    code: int = options.verb(options)
    return code


def run_seeds(options: argparse.Namespace) -> int:
    """Append a line to the results for each seed; 1 if one of them took too long."""
    folder = HERE / options.record
    track = TRACKS[folder.parent.name]
    flags = shlex.split((folder / "flags.txt").read_text(encoding="utf-8"), comments=True)
    late = 0
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as temporary:
            run = (options.keep or Path(temporary)) / f"{folder.parent.name}_{folder.name}_{seed}"
            times = trained(flags, options.data / "train", run, seed=seed, threads=track.threads)
            line = {
                "seed": seed,
                track.figure: measured(run, options.data, figure=track.figure),
                **times,
                "images": images_seen(run),
                "processor": processor(),
                "commit": commit(),
            }
            shutil.copy(run / "metrics.jsonl", folder / f"seed_{seed}.jsonl")
        with (folder / "results.jsonl").open("a", encoding="utf-8") as results:
            print(json.dumps(line), file=results)
        print(json.dumps(line), flush=True)
        clock = "cpu_s" if track.threads == 1 else "wall_s"
        late += line[clock] > 60 * track.minutes
    if late:
        print(f"{late} of {len(options.seeds)} took more than {track.minutes:g} min: no record")
    return 1 if late else 0


def trained(flags: Sequence[str], data: Path, run: Path, *, seed: int, threads: int) -> Any:
    """Seconds that dino-train took from start to end, by both clocks."""
    command = ["dino-train", *flags, "--data", data, "--out", run, "--seed", seed]
    command += ["--run.eval-epochs", "100000", "--no-tensorboard"]  # the end alone is measured
    threads_of = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    before, start_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([*map(str, command)], check=True, env=os.environ | threads_of)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"cpu_s": round(cpu_s, 1), "wall_s": round(time.monotonic() - start_s, 1)}


def measured(run: Path, data: Path, *, figure: str) -> float:
    """The figure of the track, on the validation images, at the size of the training crops."""
    size = json.loads((run / "config.json").read_text())["config"]["crops"]["global_crops_size"]
    report = run / "record"
    command = ["dino-eval", "knn", "--train", data / "train", "--val", data / "val", "--weights"]
    command += [run, "--size", size, "--no-floors", "-o", report]
    subprocess.run([*map(str, command)], check=True)
    figures = json.loads((report / "result.json").read_text())["figures"]
    return float(figures[0]["values"][figure])


def images_seen(run: Path) -> int:
    """Images that were trained on."""
    batch: int = json.loads((run / "config.json").read_text())["config"]["optim"]["batch_size"]
    return batch * (load_backbone(run)[1].step or 0)


def processor() -> str:
    """Name of the processor, and if it multiplies bfloat16."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()  # Linux
    name = next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), "?")
    return f"{name}, {resolved_precision('auto', torch.device('cpu'))}"


def commit() -> str:
    """Commit of the code that ran."""
    command = ["git", "-C", str(HERE), "describe", "--always", "--dirty"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def compare_records(options: argparse.Namespace) -> int:
    """Print means and the p-value; 0 if the first is a record against the second."""
    figure = TRACKS[Path(options.new).parent.name].figure
    new, standing = (figures_of(HERE / name, figure) for name in (options.new, options.standing))
    p = p_value(new, standing)
    for name, values in ((options.new, new), (options.standing, standing)):
        print(f"{name}: mean {sum(values) / len(values):.2f} of {values}")
    print(f"p = {p:.2g}: {'a record' if p < P_VALUE else 'no record'} (needs p < {P_VALUE})")
    return 0 if p < P_VALUE else 1


def figures_of(folder: Path, figure: str) -> list[float]:
    """The figure of every seed of a record."""
    lines = (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)[figure] for line in lines]


def p_value(new: Sequence[float], standing: Sequence[float]) -> float:
    """Probability of so large a lead of ``new`` if both had one mean: Welch's t-test, one-sided.

    Raises:
        ValueError: Fewer than two seeds on a side, which have no spread.
    """
    if min(len(new), len(standing)) < 2:
        raise ValueError(
            f"each side needs two seeds or more, got {len(new)} and {len(standing)}; run more"
        )
    return float(ttest_ind(new, standing, equal_var=False, alternative="greater").pvalue)


if __name__ == "__main__":
    sys.exit(main())
