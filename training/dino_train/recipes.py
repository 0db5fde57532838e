"""Named settings as Python functions; ``auto`` derives them from the data and the batch.

A recipe of your own is a script: take one of these, ``dataclasses.replace`` what differs and call
``dino_train.train.train``.
"""

import difflib
import math
from collections.abc import Callable
from dataclasses import replace

from dino_train.config import (
    HeadConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TeacherConfig,
    TrainConfig,
)
from dino_train.crops import CropSpec


def imagenet_vits16() -> TrainConfig:
    """ViT-S/16, 100 epochs of ImageNet-1k, 2x224 + 8x96 crops: the authors' default run.

    Published: 69.3 % k-NN, 74.0 % linear after 1.75 days on 8 V100 (batch 512). Not yet run by us.

        torchrun --nproc-per-node 8 -m dino_train.cli imagenet_vits16 --data TRAIN --out RUN
    """
    base = TrainConfig(recipe="imagenet_vits16")
    return replace(base, optim=replace(base.optim, batch_size=512))


def imagenet_vits16_800() -> TrainConfig:
    """ViT-S/16, 800 epochs, 10 local crops: the settings of the published weights.

    Published: 74.5 % k-NN, 77.0 % linear (batch 1,024 on 16 GPUs, in fp32). Not yet run by us.
    """
    return TrainConfig(
        recipe="imagenet_vits16_800",
        head=HeadConfig(norm_last_layer=False),
        crops=CropSpec(
            global_crops_scale=(0.25, 1.0),
            local_crops_number=10,
            local_crops_scale=(0.05, 0.25),
        ),
        teacher=TeacherConfig(teacher_temp=0.07, warmup_teacher_temp_epochs=30),
        optim=OptimConfig(epochs=800, batch_size=1024, min_lr=1e-5, clip_grad=0.0),
        run=RunConfig(keep_every_epochs=20),
    )


def imagenet_vitb16() -> TrainConfig:
    """ViT-B/16, 400 epochs, 10 local crops: the settings of the published weights.

    Published: 76.1 % k-NN, 78.2 % linear (batch 1,024 on 32 GPUs, in fp32). Not yet run by us.
    """
    base = imagenet_vits16_800()
    return replace(
        base,
        recipe="imagenet_vitb16",
        model=ModelConfig(arch="vit_base"),
        head=HeadConfig(norm_last_layer=True),
        teacher=replace(base.teacher, warmup_teacher_temp_epochs=50),
        optim=replace(
            base.optim,
            epochs=400,
            lr=7.5e-4,
            min_lr=2e-6,
            clip_grad=0.3,
            freeze_last_layer_epochs=3,
        ),
    )


def resnet50() -> TrainConfig:
    """ResNet-50, 100 epochs of ImageNet-1k with SGD: the authors' flags for convnets.

    Published after 800 epochs: 67.5 % k-NN, 75.3 % linear. Not yet run by us.
    """
    return TrainConfig(
        recipe="resnet50",
        model=ModelConfig(arch="resnet50", drop_path_rate=0.0),
        crops=CropSpec(global_crops_scale=(0.14, 1.0), local_crops_scale=(0.05, 0.14)),
        optim=OptimConfig(
            optimizer="sgd",
            lr=0.03,
            weight_decay=1e-4,
            weight_decay_end=1e-4,
            batch_size=512,
        ),
    )


def small() -> TrainConfig:
    """ViT-S/16 for some thousand to some ten thousand images on one GPU.

    What users of the original found to work where its defaults collapse: fewer prototypes, a
    faster teacher and a cooler start.
    """
    return replace(auto(num_images=10_000), recipe="small")


def tiny_cpu() -> TrainConfig:
    """A small ViT on 64-px images in minutes on two CPU cores: the quick start."""
    return TrainConfig(
        recipe="tiny_cpu",
        model=ModelConfig(arch="vit_micro", patch_size=8, drop_path_rate=0.0),
        head=HeadConfig(out_dim=1024, hidden_dim=512, bottleneck_dim=128),
        crops=CropSpec(
            global_crops_size=64,
            global_crops_scale=(0.3, 1.0),
            local_crops_number=4,
            local_crops_size=32,
            local_crops_scale=(0.05, 0.3),
        ),
        teacher=TeacherConfig(
            momentum=0.98, warmup_teacher_temp=0.03, teacher_temp=0.05, warmup_teacher_temp_epochs=5
        ),
        optim=OptimConfig(
            epochs=12, batch_size=64, lr=2e-3, min_lr=1e-5, warmup_epochs=1, weight_decay_end=0.1
        ),
        run=RunConfig(snapshot_epochs=2.0, eval_epochs=2),
    )


def auto(*, num_images: int, batch_size: int = 256, arch: str = "vit_small") -> TrainConfig:
    """Settings derived from the number of images and the batch; ``explain_auto`` says why.

    Args:
        num_images: Images in the training data.
        batch_size: Images in one optimizer step; lowered when there are fewer images.
        arch: Backbone; convnets get batch norm in the head.
    """
    batch_size = min(batch_size, 2 ** int(math.log2(max(num_images // 4, 2))))
    steps_per_epoch = max(num_images // batch_size, 1)
    epochs = _clamp(round(100_000 / steps_per_epoch), 100 if num_images >= 500_000 else 50, 800)
    out_dim = 2 ** round(math.log2(_clamp(num_images // 10, 1024, 65536)))
    total_steps = epochs * steps_per_epoch
    # The teacher's memory, 1 / (1 - momentum) steps, should be well below the run's length.
    momentum = 1 - _clamp(200 / total_steps, 0.0005 if batch_size <= 256 else 0.004, 0.02)
    if num_images < 500_000:
        momentum = min(momentum, 0.996)
    is_vit = arch.startswith("vit_")
    warmup_epochs = max(1, min(10, epochs // 10))
    return TrainConfig(
        recipe="auto",
        model=ModelConfig(arch=arch, drop_path_rate=0.1 if is_vit else 0.0),
        head=HeadConfig(out_dim=out_dim, use_bn=not is_vit),
        crops=CropSpec(global_crops_scale=(0.25, 1.0), local_crops_scale=(0.05, 0.25)),
        teacher=TeacherConfig(
            momentum=round(momentum, 4),
            warmup_teacher_temp=0.04 if num_images >= 100_000 else 0.02,
            teacher_temp=0.07 if num_images >= 100_000 else 0.04,
            warmup_teacher_temp_epochs=min(30, max(1, epochs // 5)),
        ),
        optim=OptimConfig(
            epochs=epochs,
            batch_size=batch_size,
            lr=5e-4 if num_images >= 500_000 else 1e-3,
            warmup_epochs=warmup_epochs,
        ),
    )


def continued(config: TrainConfig, *, arch: str, patch_size: int, image_size: int) -> TrainConfig:
    """Settings for going on from good weights rather than from nothing.

    A peak learning rate made for random weights, or a fast teacher, destroys what the weights
    know: a low rate, a slow teacher, and one epoch in which only the new head learns.
    """
    epochs = max(4, config.optim.epochs // 4)
    return replace(
        config,
        model=replace(config.model, arch=arch, patch_size=patch_size, image_size=image_size),
        teacher=replace(config.teacher, momentum=0.9995),
        optim=replace(
            config.optim,
            lr=1e-4,
            epochs=epochs,
            warmup_epochs=max(1, epochs // 10),
            freeze_backbone_epochs=1,
        ),
    )


def explain_auto(config: TrainConfig, *, num_images: int) -> list[str]:
    """What ``auto`` chose and why, one line a setting."""
    steps = num_images // config.optim.batch_size * config.optim.epochs
    memory = 1 / max(1 - config.teacher.momentum, 1e-9)
    return [
        f"epochs {config.optim.epochs}: about {steps:,} steps of {config.optim.batch_size} images",
        f"out_dim {config.head.out_dim}: about one prototype for ten of {num_images:,} images; "
        "many more stay unused on small data and the loss sticks at ln(out_dim)",
        f"momentum {config.teacher.momentum}: the teacher averages about {memory:,.0f} steps, "
        "which must be short beside the run",
        f"teacher temperature {config.teacher.warmup_teacher_temp} -> "
        f"{config.teacher.teacher_temp} over {config.teacher.warmup_teacher_temp_epochs} epochs: "
        "a cool start keeps small data from the uniform collapse",
        f"lr {config.optim.lr:g} for a batch of 256, after {config.optim.warmup_epochs:g} epochs "
        "of warm-up"
        + (", low because training continues from weights" if config.optim.lr <= 1e-4 else ""),
    ]


RECIPES: dict[str, Callable[[], TrainConfig]] = {
    recipe.__name__: recipe
    for recipe in (
        imagenet_vits16,
        imagenet_vits16_800,
        imagenet_vitb16,
        resnet50,
        small,
        tiny_cpu,
    )
}
"""Recipes that need nothing but their name; ``auto`` needs to see the data."""


def unknown_recipe(name: str) -> str:
    """What to say when there is no such recipe."""
    names = ["auto", *RECIPES]
    near = difflib.get_close_matches(name, names, n=2)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"no recipe named {name!r}; choose one of {', '.join(names)}{hint}"


def _clamp(value: float, low: float, high: float) -> float:
    return type(value)(max(low, min(high, value)))
