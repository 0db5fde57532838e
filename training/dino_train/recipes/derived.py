"""Settings that ``auto`` derives from the images, the device, the batch, the length and weights."""

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dino_train.config import (
    HeadConfig,
    LossConfig,
    LossKind,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TeacherConfig,
    TrainConfig,
)
from dino_train.crops.spec import CropSpec

if TYPE_CHECKING:
    from dino_infer.sources.image_list import ImageList

TINY_SIDE = 64  # up to this side in pixels, images are tiny; the small stem is for those below
FEW_IMAGES = 100_000  # below, images are few
CPU_ARCH = "resnet_micro"  # learnt most in minutes: benchmarks/reports/small_data_2026-11.md
CPU_SIDE = 64  # crops that taught more in the same minutes than larger ones, same report
CPU_IMAGES = 200_000  # seen with such crops in about half an hour of one core, same report
CPU_PAUSE_STEPS = 200  # between measurements, which on few images would take longer than steps
RATE_LOSS = LossConfig(kind="coding-rate", targets="student", alignment_weight=3.0)
RATE_LR = 0.016  # 4e-3 for 64 images, half of it for ViTs; DINO gains nothing: docs/tried.md
SHORT_EPOCHS = 4  # shorter runs have no epoch to spare in which a part stands still


def auto(
    *,
    num_images: int,
    image_side: int = 256,
    batch_size: int | None = None,
    epochs: int | None = None,
    arch: str | None = None,
    loss: LossKind | None = None,
    on_cpu: bool = False,
) -> TrainConfig:
    """Settings derived from the images; ``explained.explain_auto`` says why.

    The rules for tiny images and for convnets on few images were measured on CPUs, with CIFAR-10
    and Imagenette: benchmarks/reports/cifar10_cpu_2026-11.md and small_data_2026-11.md. Those for
    ViTs on larger images are what users and authors of the original report.

    Args:
        num_images: Images in the training data.
        image_side: Usual shorter side of them in pixels.
        batch_size: Images in one optimizer step; None derives it.
        epochs: Passes over the images; None derives them.
        arch: Backbone; None takes vit_small, and on a CPU resnet_micro.
        loss: Kind of the loss; None takes dino, and on a CPU, for few images, coding-rate.
        on_cpu: Derive settings with which a run ends within about an hour on a CPU.

    Raises:
        ValueError: ``batch_size`` or ``epochs`` is below 1.
    """
    arch = arch or (CPU_ARCH if on_cpu else "vit_small")
    tiny = image_side <= TINY_SIDE
    few = num_images < FEW_IMAGES
    is_vit = arch.startswith("vit_")
    lean = tiny or on_cpu or (few and not is_vit)
    by_rate = (loss or ("coding-rate" if on_cpu and few else "dino")) == "coding-rate"
    largest_crop = CPU_SIDE if on_cpu else CropSpec.global_crops_size
    side = min(image_side, largest_crop)
    if batch_size is None:
        few_batches = 2 ** int(math.log2(max(num_images // 4, 2)))
        batch_size = min(64 if lean else 256, few_batches)
    _check_at_least_1("batch_size", batch_size)
    steps_per_epoch = max(num_images // batch_size, 1)
    if epochs is None:
        epochs = _clamp(round(100_000 / steps_per_epoch), 50 if few else 100, 800)
        if on_cpu:
            seen = CPU_IMAGES * (CPU_SIDE / side) ** 2
            epochs = _clamp(round(seen / num_images), 1, epochs)
    _check_at_least_1("epochs", epochs)
    momentum = _momentum(
        epochs * steps_per_epoch,
        memories=80,
        longest_memory=250 if few or batch_size > 256 else 2000,
    )
    patch_size = _clamp(side // 8, 1, 16)
    pause_epochs = -(-CPU_PAUSE_STEPS // steps_per_epoch) if on_cpu else 1
    lr = 1e-3 if few else 5e-4
    if lean:  # for 64 images; with the square root of more, as suits AdamW
        lr = (RATE_LR / (1 + is_vit) if by_rate else 4e-3) * math.sqrt(64 / batch_size)
    return TrainConfig(
        recipe="auto",
        model=ModelConfig(
            arch=arch,
            patch_size=patch_size,
            drop_path_rate=0.1 if is_vit and not lean else 0.0,
            small_stem=image_side < TINY_SIDE and not is_vit and _takes_small_stem(arch),
        ),
        loss=RATE_LOSS if by_rate else LossConfig(),
        head=HeadConfig(
            out_dim=2 ** round(math.log2(_clamp(num_images // 10, 1024, 65536))),
            hidden_dim=(1024 if by_rate else 512) if lean else 2048,
            bottleneck_dim=64 if lean and not by_rate else 256,
            use_bn=few or on_cpu,
        ),
        crops=_auto_crops(image_side, patch_size, local_crops=not lean, largest=largest_crop),
        teacher=TeacherConfig(
            momentum=momentum,
            warmup_teacher_temp=0.02 if few and not lean else 0.04,
            teacher_temp=0.04 if few or lean else 0.07,
            warmup_teacher_temp_epochs=0 if lean else _temp_warmup(epochs),
        ),
        optim=OptimConfig(
            epochs=epochs,
            batch_size=batch_size,
            lr=round(lr, 5),
            min_lr=1e-5,
            warmup_epochs=min(10, epochs / 10),
            weight_decay_end=0.04 if lean else 0.4,
            freeze_last_layer_epochs=0 if lean or epochs < SHORT_EPOCHS else 1,
        ),
        run=RunConfig(snapshot_epochs=float(pause_epochs), eval_epochs=pause_epochs),
    )


def auto_for(
    images: "ImageList",
    *,
    batch_size: int | None = None,
    epochs: int | None = None,
    arch: str | None = None,
    loss: LossKind | None = None,
    init_from: str | Path | None = None,
    checkpoint_key: str = "teacher",
    device: str = "auto",
) -> TrainConfig:
    """Settings that dino-train derives from images: ``auto``, or ``continued`` from weights.

    Args:
        images: The training data.
        batch_size: Images in one optimizer step; None derives it.
        epochs: Passes over the images; None derives them.
        arch: Backbone; None takes that of the weights, or what suits the device.
        loss: Kind of the loss; None derives it.
        init_from: Weights to start from, as for ``train``.
        checkpoint_key: Network of such weights, see ``load_backbone``.
        device: Device to train on; "auto" takes a GPU if there is one.

    Raises:
        DinoError: The weights cannot be loaded.
        ValueError: ``batch_size`` or ``epochs`` is below 1.
    """
    from dino_infer.weights.checkpoints import load_backbone
    from dino_train.data.decode_sizes import usual_side

    weights = load_backbone(init_from, checkpoint_key=checkpoint_key)[1] if init_from else None
    config = auto(
        num_images=len(images),
        image_side=usual_side(images),
        batch_size=batch_size,
        epochs=epochs,
        arch=arch or (weights.arch if weights else None),
        loss=loss,
        on_cpu=weights is None and _is_cpu(device),
    )
    if weights is None:
        return config
    return continued(
        config,
        num_images=len(images),
        arch=weights.arch,
        patch_size=weights.patch_size,
        image_size=weights.image_size,
        small_stem=weights.small_stem,
        epochs=epochs,
    )


def _is_cpu(device: str) -> bool:
    """True for a CPU; whether there is such a GPU, training tells."""
    from dino_infer.devices import resolved_device

    return device in ("auto", "cpu") and resolved_device(device).type == "cpu"


def _takes_small_stem(arch: str) -> bool:
    from dino_infer.networks.build import takes_small_stem  # loads PyTorch, which --help must not

    return takes_small_stem(arch)


def _auto_crops(image_side: int, patch_size: int, *, local_crops: bool, largest: int) -> CropSpec:
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
    side = min(largest, image_side // patch_size * patch_size)
    by = side / crops.global_crops_size
    lowest, highest = crops.blur_sigma
    return replace(
        crops,
        global_crops_size=side,
        local_crops_size=round(crops.local_crops_size * by / patch_size) * patch_size,
        blur_sigma=(round(lowest * by, 3), round(highest * by, 3)),
    )


def continued(
    config: TrainConfig,
    *,
    num_images: int,
    arch: str,
    patch_size: int,
    image_size: int,
    small_stem: bool = False,
    epochs: int | None = None,
) -> TrainConfig:
    """Settings for going on from good weights rather than from nothing.

    A peak learning rate made for random weights, or a fast teacher, destroys what the weights
    know: a low rate, a slow teacher, and one epoch in which only the new head learns. As in
    ``auto``, the teacher's memory is bounded by the length of the run.

    Args:
        config: Settings of ``auto`` for the same images and ``arch``.
        num_images: Images in the training data.
        arch: Backbone of the weights.
        patch_size: Side of a patch of the weights in pixels.
        image_size: Side in pixels for which the weights have position embeddings.
        small_stem: The weights are of a ResNet with the stem for small images.
        epochs: Passes over the images; None takes a quarter of those of ``config``.
    """
    if epochs is None:
        epochs = max(SHORT_EPOCHS, config.optim.epochs // 4)
    steps = epochs * max(num_images // config.optim.batch_size, 1)
    teacher, optim = config.teacher, config.optim
    return replace(
        config,
        model=replace(
            config.model,
            arch=arch,
            patch_size=patch_size,
            image_size=image_size,
            small_stem=small_stem,
        ),
        teacher=replace(
            teacher,
            momentum=_momentum(steps, memories=20, longest_memory=2000),
            warmup_teacher_temp_epochs=min(
                teacher.warmup_teacher_temp_epochs, _temp_warmup(epochs)
            ),
        ),
        optim=replace(
            optim,
            lr=1e-4,
            epochs=epochs,
            warmup_epochs=min(max(1, epochs // 10), epochs / SHORT_EPOCHS),
            freeze_last_layer_epochs=min(optim.freeze_last_layer_epochs, epochs // SHORT_EPOCHS),
            freeze_backbone_epochs=min(1, epochs // SHORT_EPOCHS),
        ),
    )


def _momentum(steps: int, *, memories: int, longest_memory: int) -> float:
    """Momentum whose memory, 1 / (1 - momentum) steps, fits ``memories`` times into the run.

    It is never shorter than 33 steps: a faster teacher is no more stable than the student.
    """
    return round(1 - max(1 / longest_memory, min(memories / steps, 0.03)), 4)


def _temp_warmup(epochs: int) -> int:
    """Epochs until the teacher's temperature is reached, which must be early in the run."""
    return min(30, max(epochs // 5, min(1, epochs // 2)))


def _check_at_least_1(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def _clamp(value: int, low: int, high: int) -> int:
    return max(low, min(high, value))
