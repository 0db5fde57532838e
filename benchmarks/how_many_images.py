"""How many images one needs: k-NN and RankMe after equal CPU time on one core.

    OMP_NUM_THREADS=1 python benchmarks/how_many_images.py run --data imagenette/train > FILE
    python benchmarks/how_many_images.py draw FILE docs/pictures/how-many-images.webp

``--data`` holds class folders of training images. ``HELD_OUT`` of them are never trained on and
measure every network: each is classified by all the others (k = 20). Of the rest, ``--sizes`` are
drawn, smaller sets within larger ones, and learnt with what ``auto`` derives for so many images on
a CPU, by each loss. Time is that of ``loss_pairs.py``: steps and reading, not measuring.
"""

import argparse
import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from loss_pairs import train_for
from matplotlib import pyplot

from dino_infer import Embedder, Preprocess, accuracies, list_images
from dino_infer.evaluate.measures.health import rankme
from dino_infer.images.read import read_image
from dino_infer.knn.classifier import nearest_others
from dino_infer.networks.backbone import Backbone
from dino_infer.sources.image_list import ImageList
from dino_train import distributed, recipes
from dino_train.config import TrainConfig
from dino_train.run import build_learner

HELD_OUT = 1469
IMAGES_PER_S = 170  # of such a core, from which schedules in epochs are derived
CALIBRATION_BATCHES = 20


def main() -> None:
    """Measure, or draw what was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    verbs = parser.add_subparsers(required=True)
    run = verbs.add_parser("run", help="print a line for each network")
    run.add_argument("--data", type=Path, required=True)
    run.add_argument("--sizes", type=int, nargs="+", default=[300, 1000, 3000, 8000])
    run.add_argument("--losses", nargs="+", default=["dino", "coding-rate"])
    run.add_argument("--seconds", type=float, default=120.0)
    run.add_argument("--side", type=int, default=128, help="shorter side of the images")
    run.add_argument("--seeds", type=int, nargs="+", default=[0])
    run.set_defaults(verb=measure_all)
    draw = verbs.add_parser("draw", help="draw lines that were printed")
    draw.add_argument("results", type=Path)
    draw.add_argument("picture", type=Path)
    draw.set_defaults(verb=draw_all)
    options = parser.parse_args()
    options.verb(options)


def measure_all(options: argparse.Namespace) -> None:
    """Print the untrained bars, then k-NN and RankMe of each size, loss and seed."""
    torch.set_num_threads(1)
    process = distributed.start("cpu")
    everything = list_images([options.data])
    order = np.random.default_rng(0).permutation(len(everything))
    held_out, rest = (everything.select(np.sort(part)) for part in np.split(order, [HELD_OUT]))
    for seed in options.seeds:
        drawn = np.random.default_rng(seed + 1).permutation(len(rest))
        for number, (size, loss) in enumerate(product(options.sizes, options.losses)):
            images = rest.select(np.sort(drawn[:size]))
            config = settings(len(images), loss, seed, options)
            preprocess = Preprocess(size=config.crops.global_crops_size)
            if number == 0:
                untrained = build_learner(config, process).teacher.backbone
                _print(loss="untrained", seed=seed, **measure(untrained, held_out, preprocess))
                calibrate(untrained, images, preprocess)
                _print(loss="calibrated", seed=seed, **measure(untrained, held_out, preprocess))
            learner = build_learner(config, process)
            spent = train_for(options.seconds, learner, images, config)
            numbers = measure(learner.teacher.backbone, held_out, preprocess)
            _print(loss=loss, size=len(images), seed=seed, **spent, **numbers)


def settings(num_images: int, loss: str, seed: int, options: argparse.Namespace) -> TrainConfig:
    """Return what ``auto`` derives on a CPU, for about as many epochs as the time allows."""
    epochs = max(1, round(IMAGES_PER_S * options.seconds / num_images))
    config = recipes.auto(
        num_images=num_images, image_side=options.side, loss=loss, on_cpu=True, epochs=epochs
    )
    return replace(config, seed=seed)


def measure(backbone: Backbone, images: ImageList, preprocess: Preprocess) -> dict[str, float]:
    """k-NN top-1 in percent, leave-one-out, and RankMe."""
    was_training = backbone.training
    embedding = Embedder(backbone, preprocess, batch_size=128, workers=0).embed(images)
    backbone.train(was_training)
    labels = images.labels()
    assert labels is not None, "--data holds class folders"
    classes = labels[0][embedding.ok]
    found = nearest_others(embedding.features, k=20)
    top1 = accuracies(found, classes, classes, ks=[20])[20].top1_percent
    return {"knn": top1, "rankme": rankme(torch.from_numpy(embedding.features))}


def calibrate(backbone: Backbone, images: ImageList, preprocess: Preprocess) -> None:
    """Let batch norms take the mean of all batches, where ``untrained_knn.py`` lets it move."""
    norms = [m for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    backbone.train()
    drawn = np.random.default_rng(0).integers(len(images), size=(CALIBRATION_BATCHES, 64))
    with torch.no_grad():
        for batch in drawn:
            photos = [read_image(images.read(int(i)), path=images.name(int(i))) for i in batch]
            backbone(torch.stack([preprocess(photo) for photo in photos]))


def draw_all(options: argparse.Namespace) -> None:
    """Draw k-NN over the number of images: a line a loss, a point a seed, both bars."""
    rows = [json.loads(line) for line in options.results.read_text().splitlines()]
    figure, axes = pyplot.subplots(figsize=(6.4, 3.6), layout="constrained")
    for loss, colour in (("coding-rate", "#1b6ca8"), ("dino", "#c8553d")):
        points = sorted((row["size"], row["knn"]) for row in rows if row["loss"] == loss)
        sizes = sorted({size for size, _ in points})
        means = [np.mean([knn for size, knn in points if size == at]) for at in sizes]
        axes.plot(sizes, means, color=colour, label=loss)
        axes.plot(*zip(*points, strict=True), "o", color=colour)
    for loss, style in (("untrained", ":"), ("calibrated", "--")):
        bar = np.mean([row["knn"] for row in rows if row["loss"] == loss])
        label = loss if loss == "untrained" else "untrained, batch norm calibrated"
        axes.axhline(bar, color="0.4", linestyle=style, label=label)
    axes.set(xscale="log", xlabel="training images", ylabel="k-NN top-1 in %")
    sizes = sorted({row["size"] for row in rows if "size" in row})
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.legend(frameon=False)
    figure.savefig(options.picture, dpi=110)


def _print(**row: object) -> None:
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
