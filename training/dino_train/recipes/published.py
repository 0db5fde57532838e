"""Named settings as Python functions; ``derived.auto`` derives them from the data.

A recipe of your own is a script: take one of these, ``dataclasses.replace`` what differs and call
``dino_train.train``.
"""

import difflib
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
from dino_train.crops.spec import CropSpec
from dino_train.recipes.derived import auto


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
    """A small ViT on 32-px crops in minutes on two CPU cores: the quick start.

    What made it learn in hundreds of steps: batch norm in the head, a fast teacher, global crops
    alone, colours left nearly as they are; see benchmarks/reports/quick_start_2026-11.md.
    """
    return TrainConfig(
        recipe="tiny_cpu",
        model=ModelConfig(arch="vit_micro", patch_size=8, drop_path_rate=0.0),
        head=HeadConfig(out_dim=1024, hidden_dim=512, bottleneck_dim=64, use_bn=True),
        crops=CropSpec(
            global_crops_size=32,
            global_crops_scale=(0.25, 1.0),
            local_crops_number=0,
            local_crops_size=16,
            jitter_probability=0.5,
            hue=0.02,
            grayscale_probability=0.0,
            blur_probability_global1=0.0,
            blur_probability_global2=0.0,
            solarize_probability=0.0,
        ),
        teacher=TeacherConfig(momentum=0.97),
        optim=OptimConfig(
            epochs=12,
            batch_size=64,
            lr=4e-3,
            min_lr=1e-6,
            warmup_epochs=1,
            weight_decay_end=0.04,
            freeze_last_layer_epochs=0,
        ),
        run=RunConfig(snapshot_epochs=4.0, eval_epochs=4),
    )


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
    """Return the error message for an unknown recipe."""
    names = ["auto", *RECIPES]
    near = difflib.get_close_matches(name, names, n=2)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"no recipe named {name!r}; choose one of {', '.join(names)}{hint}"
