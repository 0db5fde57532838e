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

TINY_SIDE = 64  # up to this side in pixels, images are tiny
FEW_IMAGES = 100_000


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


def auto(
    *,
    num_images: int,
    image_side: int = 256,
    batch_size: int | None = None,
    epochs: int | None = None,
    arch: str = "vit_small",
) -> TrainConfig:
    """Settings derived from the images; ``explain_auto`` says why.

    The rules for tiny images and for convnets on few images were measured on CPUs, with CIFAR-10
    and Imagenette: benchmarks/reports/cifar10_cpu_2026-11.md and small_data_2026-11.md. Those for
    ViTs on larger images are what users and authors of the original report.

    Args:
        num_images: Images in the training data.
        image_side: Their usual shorter side in pixels.
        batch_size: Images in one optimizer step, where that is given; lowered when there are too
            few images.
        epochs: Passes over the images, where that is given.
        arch: Backbone.
    """
    tiny = image_side <= TINY_SIDE
    few = num_images < FEW_IMAGES
    is_vit = arch.startswith("vit_")
    lean = tiny or (few and not is_vit)
    batch_size = min(
        batch_size or (64 if lean else 256), 2 ** int(math.log2(max(num_images // 4, 2)))
    )
    steps_per_epoch = max(num_images // batch_size, 1)
    epochs = epochs or _clamp(round(100_000 / steps_per_epoch), 50 if few else 100, 800)
    # The teacher's memory, 1 / (1 - momentum) steps, must be short beside the run.
    slowest = 0.004 if few or batch_size > 256 else 0.0005
    momentum = 1 - max(slowest, min(80 / (epochs * steps_per_epoch), 0.03))
    patch_size = _clamp(image_side // 8, 1, 16)
    lr = 1e-3 if few else 5e-4
    if lean:  # 1e-3 for 64 images, and with the square root of more, as suits AdamW
        lr = round(4e-3 * math.sqrt(64 / batch_size), 5)
    return TrainConfig(
        recipe="auto",
        model=ModelConfig(
            arch=arch,
            patch_size=patch_size,
            drop_path_rate=0.1 if is_vit and not tiny else 0.0,
            small_stem=tiny and arch.startswith("resnet"),
        ),
        head=HeadConfig(
            out_dim=2 ** round(math.log2(_clamp(num_images // 10, 1024, 65536))),
            hidden_dim=512 if lean else 2048,
            bottleneck_dim=64 if lean else 256,
            use_bn=few,
        ),
        crops=_auto_crops(image_side, patch_size, local_crops=not lean),
        teacher=TeacherConfig(
            momentum=round(momentum, 4),
            warmup_teacher_temp=0.02 if few and not lean else 0.04,
            teacher_temp=0.04 if few or tiny else 0.07,
            warmup_teacher_temp_epochs=0 if lean else min(30, max(1, epochs // 5)),
        ),
        optim=OptimConfig(
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            min_lr=1e-5,
            warmup_epochs=min(10, epochs / 10),
            weight_decay_end=0.04 if lean else 0.4,
            freeze_last_layer_epochs=0 if lean else 1,
        ),
    )


def _auto_crops(image_side: int, patch_size: int, *, local_crops: bool) -> CropSpec:
    """Crops no larger than the images; blur, which is measured in pixels, shrinks with them."""
    crops = CropSpec(global_crops_scale=(0.25, 1.0), local_crops_scale=(0.05, 0.25))
    if not local_crops:
        crops = replace(crops, local_crops_number=0)
    if image_side <= TINY_SIDE:
        return replace(
            crops,
            global_crops_size=image_side,
            local_crops_size=image_side,
            blur_probability_global1=0.0,
            blur_probability_global2=0.0,
            solarize_probability=0.0,
        )
    side = min(crops.global_crops_size, image_side // patch_size * patch_size)
    by = side / crops.global_crops_size
    lowest, highest = crops.blur_sigma
    return replace(
        crops,
        global_crops_size=side,
        local_crops_size=round(crops.local_crops_size * by / patch_size) * patch_size,
        blur_sigma=(round(lowest * by, 3), round(highest * by, 3)),
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
    c, t, o = config.crops, config.teacher, config.optim
    steps = num_images // o.batch_size * o.epochs
    memory = 1 / max(1 - t.momentum, 1e-9)
    temperature = f"{t.teacher_temp}, from the start: a cool start learnt less"
    if t.warmup_teacher_temp != t.teacher_temp:
        temperature = (
            f"{t.warmup_teacher_temp} -> {t.teacher_temp} over {t.warmup_teacher_temp_epochs} "
            "epochs: a cool start keeps ViTs from the uniform collapse"
        )
    return [
        f"crops 2 x {c.global_crops_size} px + {c.local_crops_number} local: from the usual size "
        "of the images; without local crops where they cost more time than they bring",
        f"epochs {o.epochs}: {steps:,} steps of {o.batch_size} images",
        f"out_dim {config.head.out_dim}: about one prototype for ten of {num_images:,} images; "
        "many more stay unused on small data and the loss sticks at ln(out_dim)",
        f"batch norm in the head {config.head.use_bn}: on small data it starts learning sooner",
        f"momentum {t.momentum}: the teacher averages about {memory:,.0f} steps, which must be "
        "short beside the run",
        f"teacher temperature {temperature}",
        f"lr {o.lr:g} for a batch of 256, after {o.warmup_epochs:g} epochs of warm-up",
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


def _clamp(value: int, low: int, high: int) -> int:
    return max(low, min(high, value))
