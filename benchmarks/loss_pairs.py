"""Losses after equal CPU time on one core: DINO, and the coding rate with and without a teacher.

    OMP_NUM_THREADS=1 python benchmarks/loss_pairs.py --data imagenette/train --seconds 120

``--data`` holds class folders of training images. ``--images`` of them, drawn by the seed, are
trained on; k-NN is leave-one-out over all of them, so no validation image decides anything. Time is
CPU time of this process: reading (once, then from memory), crops and steps count, measuring does
not. The schedules of ``auto`` run over the share of the time that is used. ``--set`` changes
settings of every arm, such as ``optim.lr=0.016 head.bottleneck_dim=256``.
"""

import argparse
import json
import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from dino_infer import Preprocess, list_images
from dino_infer.sources.image_list import ImageList
from dino_train import distributed, recipes
from dino_train.config import LossConfig, TrainConfig, as_dict, from_dict
from dino_train.data.batches import batches_on_device
from dino_train.data.loader import make_crops
from dino_train.data.sampler import StepSampler
from dino_train.learner import Learner, Rates
from dino_train.monitoring.evaluation import Evaluation
from dino_train.recipes.derived import RATE_LOSS
from dino_train.run import build_learner

ARMS = {
    "dino": LossConfig(),
    "rate": RATE_LOSS,
    "rate-teacher": LossConfig(kind="coding-rate", targets="teacher", alignment_weight=4.0),
}
WARMUP = 0.1  # share of the time


def main() -> None:
    """Print a line a loss: steps, images, k-NN and RankMe."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=["dino", "rate"])
    parser.add_argument("--arch", default="resnet_micro")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--images", type=int, default=8000)
    parser.add_argument("--set", nargs="+", default=[], metavar="GROUP.NAME=VALUE", dest="changes")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    torch.set_num_threads(1)
    for seed in options.seeds:
        for arm in options.arms:
            print(
                json.dumps({"arm": arm, "seed": seed, **_trained(arm, seed, options)}), flush=True
            )


def settings(arm: str, seed: int, options: argparse.Namespace) -> TrainConfig:
    """Return what ``auto`` derives for these images, with crops of another size."""
    config = recipes.auto(num_images=options.images, image_side=128, arch=options.arch, epochs=2)
    crops, by = config.crops, options.size / 224
    config = replace(
        config,
        seed=seed,
        loss=ARMS[arm],
        crops=replace(crops, global_crops_size=options.size, blur_sigma=(0.1 * by, 2.0 * by)),
    )
    values = as_dict(config)
    for change in options.changes:
        name, _, value = change.partition("=")
        group, _, setting = name.partition(".")
        values[group][setting] = json.loads(value)
    return from_dict(values)


def _trained(arm: str, seed: int, options: argparse.Namespace) -> dict[str, float]:
    config = settings(arm, seed, options)
    everything = list_images([options.data])
    chosen = np.random.default_rng(seed).permutation(len(everything))[: options.images]
    images = everything.select(np.sort(chosen))
    learner = build_learner(config, distributed.start("cpu"))
    evaluation = Evaluation(
        images,
        eval_data=options.data,
        preprocess=Preprocess(size=options.size),
        batch_size=128,
        workers=0,
        device=torch.device("cpu"),
    )
    numbers = {f"untrained_{k}": v for k, v in evaluation.measure(learner.teacher.backbone).items()}
    spent = train_for(options.seconds, learner, images, config)
    return {**spent, **numbers, **evaluation.measure(learner.teacher.backbone)}


def train_for(
    seconds: float, learner: Learner, images: ImageList, config: TrainConfig
) -> dict[str, float]:
    """Train for so much CPU time of this process; return steps, images and time."""
    device = torch.device("cpu")
    sampler = StepSampler(
        len(images),
        batch_size_per_process=config.optim.batch_size,
        seed=config.seed,
        steps_per_epoch=len(images) // config.optim.batch_size,
        start_step=0,
        total_steps=10**6,
    )
    batches = batches_on_device(
        images, config.crops, sampler=sampler, device=device, executor="device",
        workers=0, cache="ram",
    )  # fmt: skip
    used_s, steps, start_s = 0.0, 0, time.perf_counter()
    while used_s < seconds:
        began_s = time.process_time()
        crops = make_crops(next(batches), device).groups()
        learner.step([crops], rates=_rates(config, used_s / seconds))
        used_s += time.process_time() - began_s
        steps += 1
    wall_s = time.perf_counter() - start_s
    seen = steps * config.optim.batch_size
    return {"steps": steps, "images": seen, "cpu_s": used_s, "wall_s": wall_s}


def _rates(config: TrainConfig, share: float) -> Rates:
    o, t = config.optim, config.teacher
    peak = o.lr * o.batch_size / 256
    falling = 0.5 * (1 + math.cos(math.pi * max(0.0, share - WARMUP) / (1 - WARMUP)))
    lr = peak * share / WARMUP if share < WARMUP else o.min_lr + (peak - o.min_lr) * falling
    momentum = t.momentum_end + 0.5 * (t.momentum - t.momentum_end) * (
        1 + math.cos(math.pi * share)
    )
    temp = t.teacher_temp if config.loss.kind == "dino" else None
    return Rates(lr=lr, weight_decay=o.weight_decay, momentum=momentum, teacher_temp=temp)


if __name__ == "__main__":
    main()
