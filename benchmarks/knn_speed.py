"""k-NN accuracies: one search with a vote for each k, against the way of the original DINO code.

    OMP_NUM_THREADS=2 python benchmarks/knn_speed.py

The original walks over a hundredth of the queries at a time: matrix product, top k, a one-hot
tensor of queries x k x classes times the weights, a full sort of the classes; and all of it again
for each k. It is written down here from that description. Every round times each way once, in
turn, so that other work on the machine hits all of them; a ratio is the median over the rounds.
"""

import argparse
import functools
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dino_infer.knn.classifier import Accuracy, accuracies, nearest
from dino_infer.knn.votes import TEMPERATURE

CASES = {"all k": (10, 20, 100, 200), "k = 20": (20,)}
TOLERANCE = 0.05  # percentage points: a query whose classes tie may fall either way


class Data(NamedTuple):
    """Features and class numbers."""

    train: np.ndarray
    train_labels: np.ndarray
    queries: np.ndarray
    query_labels: np.ndarray


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table, and return 1 if the two ways disagree."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--train", type=int, default=50_000, help="training rows")
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=3, help="after one that does not count")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a size that only shows that it runs")
    options = parser.parse_args(arguments)
    if options.quick:
        options.train, options.queries, options.classes, options.rounds = 3000, 2000, 300, 1
    data = clustered(
        options.train, options.queries, options.classes, options.dim, seed=options.seed
    )
    print(
        f"{options.train:,} x {options.dim} against {options.queries:,} queries, "
        f"{options.classes:,} classes, {options.rounds} rounds\n{versions(options.device)}"
    )
    ways: dict[str, Callable[[], dict[int, Accuracy]]] = {}
    for case in options.cases:
        for name, method in (("ours", ours), ("original", original)):
            ways[f"{name}, {case}"] = functools.partial(
                method, data, CASES[case], device=options.device
            )
    found = {name: way() for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(options.rounds):
        for name, way in ways.items():
            seconds[name].append(timed(way, options.device))
        taken = ", ".join(f"{name} {times[-1]:.3f} s" for name, times in seconds.items())
        print(f"round {number + 1}: {taken}", flush=True)
    report(seconds)
    case = options.cases[0]
    return compared(found[f"ours, {case}"], found[f"original, {case}"])


def clustered(train: int, queries: int, classes: int, dim: int, *, seed: int) -> Data:
    """Features around a centre for each class, so noisy that some queries go wrong."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(classes, dim)).astype(np.float32)
    sides: list[np.ndarray] = []
    for rows in (train, queries):
        labels = rng.integers(classes, size=rows)
        noise = rng.normal(scale=3.0, size=(rows, dim)).astype(np.float32)
        sides += [centers[labels] + noise, labels]
    return Data(*sides)


def ours(data: Data, ks: Sequence[int], device: str) -> dict[int, Accuracy]:
    """One search, one vote for each k."""
    found = nearest(data.train, data.queries, k=max(ks), device=device)
    return accuracies(found, data.train_labels, data.query_labels, ks=ks)


def original(data: Data, ks: Sequence[int], device: str) -> dict[int, Accuracy]:
    """The whole of the work for each k."""
    train = F.normalize(torch.from_numpy(data.train).to(device), dim=1)
    queries = F.normalize(torch.from_numpy(data.queries).to(device), dim=1)
    train_labels = torch.from_numpy(data.train_labels).to(device)
    query_labels = torch.from_numpy(data.query_labels).to(device)
    classes = int(data.train_labels.max()) + 1
    return {k: one_hot_vote(train, train_labels, queries, query_labels, k, classes) for k in ks}


def one_hot_vote(
    train: Tensor, train_labels: Tensor, queries: Tensor, query_labels: Tensor, k: int, classes: int
) -> Accuracy:
    """Top-1 and top-5 of one k, a hundredth of the queries at a time."""
    hits = [0, 0]
    chunk = len(queries) // 100
    for some, labels in zip(queries.split(chunk), query_labels.split(chunk), strict=True):
        similarities, rows = (some @ train.T).topk(k)
        neighbor_labels = train_labels.expand(len(some), -1).gather(1, rows)
        one_hot = torch.zeros(len(some) * k, classes, device=train.device)
        one_hot.scatter_(1, neighbor_labels.view(-1, 1), 1)
        weights = (similarities / TEMPERATURE).exp()
        scores = (one_hot.view(len(some), k, classes) * weights[..., None]).sum(dim=1)
        right = scores.sort(dim=1, descending=True).indices == labels[:, None]
        hits[0] += int(right[:, 0].sum())
        hits[1] += int(right[:, : min(5, k)].sum())
    return Accuracy(*(100 * count / len(queries) for count in hits))


def timed(way: Callable[[], object], device: str) -> float:
    """Seconds that ``way`` takes; both ways end with numbers on the host."""
    start = time.perf_counter()
    way()
    if device != "cpu":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def report(seconds: dict[str, list[float]]) -> None:
    """Print medians, ranges and ratios."""
    print(f"{'':18}{'median s':>10}{'min s':>10}{'max s':>10}{'ratio':>10}")
    for name, taken in seconds.items():
        ratio = ""
        if name.startswith("ours"):
            theirs = seconds[name.replace("ours", "original")]
            ratio = f"{statistics.median(b / a for a, b in zip(taken, theirs, strict=True)):.2f} x"
        middle = statistics.median(taken)
        print(f"{name:18}{middle:10.3f}{min(taken):10.3f}{max(taken):10.3f}{ratio:>10}")


def compared(mine: dict[int, Accuracy], theirs: dict[int, Accuracy]) -> int:
    """Print both accuracies; 1 where they differ."""
    for k in mine:
        print(
            f"k = {k:3}: top-1 {mine[k].top1_percent:.2f} {theirs[k].top1_percent:.2f}, "
            f"top-5 {mine[k].top5_percent:.2f} {theirs[k].top5_percent:.2f} (ours, original)"
        )
    largest = max(abs(a - b) for k in mine for a, b in zip(mine[k], theirs[k], strict=True))
    print(f"largest difference: {largest:.2f} points")
    return int(largest > TOLERANCE)


def versions(device: str) -> str:
    """What ran where, in a line."""
    import faiss

    where = torch.cuda.get_device_name(device) if device != "cpu" else platform.machine()
    return (
        f"{where}, {torch.get_num_threads()} threads, Python {platform.python_version()}, torch "
        f"{torch.__version__}, faiss {faiss.__version__} ({faiss.get_num_gpus()} GPUs)"
    )


if __name__ == "__main__":
    sys.exit(main())
