"""Words about settings: why ``auto`` chose them, and which will not do what they promise."""

from dino_train.config import DINO_SETTINGS, TrainConfig
from dino_train.recipes.derived import CPU_ARCH


def explain_auto(config: TrainConfig, *, num_images: int) -> list[str]:
    """Explain the choices of ``auto``, one line a setting."""
    c, t, o = config.crops, config.teacher, config.optim
    steps = num_images // o.batch_size * o.epochs
    by_dino = config.loss.kind == "dino"
    loss = _dino_in_words(config, num_images) if by_dino else _rate_in_words(config)
    return [
        _network_in_words(config),
        f"crops 2 x {c.global_crops_size} px + {c.local_crops_number} local: from the usual size "
        "of the images, smaller on a CPU; without local crops where they cost more than they bring",
        f"epochs {o.epochs}: {steps:,} steps of {o.batch_size} images",
        *loss,
        f"batch norm in the head {config.head.use_bn}: on small data it starts learning sooner",
        f"momentum {t.momentum}: {_memory_in_words(t.momentum, steps)}",
        f"lr {o.lr:g} for a batch of 256, after {o.warmup_epochs:g} epochs of warm-up",
    ]


def _dino_in_words(config: TrainConfig, num_images: int) -> list[str]:
    t = config.teacher
    temperature = f"{t.teacher_temp}, from the start: a cool start learnt less"
    if t.warmup_teacher_temp != t.teacher_temp and not t.warmup_teacher_temp_epochs:
        temperature = f"{t.teacher_temp}, from the start: the run is too short for a cool one"
    elif t.warmup_teacher_temp != t.teacher_temp:
        temperature = (
            f"{t.warmup_teacher_temp} -> {t.teacher_temp} over {t.warmup_teacher_temp_epochs} "
            "epochs: a cool start keeps ViTs from the uniform collapse"
        )
    return [
        f"out_dim {config.head.out_dim}: about one prototype for ten of {num_images:,} images; "
        "many more stay unused on small data and the loss sticks at ln(out_dim)",
        f"teacher temperature {temperature}",
    ]


def _rate_in_words(config: TrainConfig) -> list[str]:
    if config.loss.targets != "student":
        return ["loss coding-rate: as given"]
    return [
        "loss coding-rate between the student's own crops: in minutes on a CPU it learns more than "
        "DINO; it is no self-distillation, which --loss.kind dino is"
    ]


def _network_in_words(config: TrainConfig) -> str:
    arch, patch_size = config.model.arch, config.model.patch_size
    if arch == CPU_ARCH:
        return (
            f"network {arch}: learns most in minutes on a CPU; it has no [CLS] attention, which "
            "vit_micro has"
        )
    if arch.startswith("vit_"):
        return f"network {arch}, patches of {patch_size} px: about an eighth of a global crop"
    return f"network {arch}: as given"


def _memory_in_words(momentum: float, steps: int) -> str:
    if momentum == 1:
        return "the teacher never moves"
    said = f"the teacher averages about {1 / (1 - momentum):,.0f} steps"
    if 1 / (1 - momentum) <= steps / 4:
        return f"{said}, which is short beside the {steps:,} of the run"
    return f"{said}, which is long beside the {steps:,} of the run; more epochs would help"


def warnings_about(config: TrainConfig, *, total_steps: int) -> list[str]:
    """Settings that will not do what their names promise, a line each."""
    lines = what_outlasts(config, total_steps=total_steps)
    parts = config.optim.accumulation_steps
    if config.loss.kind == "coding-rate" and parts > 1:
        images = config.optim.batch_size // parts
        lines.append(
            f"optim.accumulation_steps={parts}: each part has a coding rate of its own, so the "
            f"loss is that of batches of {images} images, whose gradients are averaged"
        )
    return lines


def what_outlasts(config: TrainConfig, *, total_steps: int) -> list[str]:
    """Settings that are meant for a part of a run and last all of this one, a line each."""
    o, t = config.optim, config.teacher
    parts = {
        "optim.freeze_last_layer_epochs": (o.freeze_last_layer_epochs, "the last layer learns"),
        "optim.freeze_backbone_epochs": (o.freeze_backbone_epochs, "the backbone learns"),
        "teacher.warmup_teacher_temp_epochs": (
            t.warmup_teacher_temp_epochs,
            "teacher.teacher_temp is reached",
        ),
    }
    unused = DINO_SETTINGS if config.loss.kind == "coding-rate" else ()
    lines = [
        f"{name}={epochs} outlasts optim.epochs={o.epochs}: training ends before {what}"
        for name, (epochs, what) in parts.items()
        if epochs >= o.epochs and name not in unused
    ]
    if t.momentum == 1 or 1 / (1 - t.momentum) > total_steps:
        lines.append(
            f"teacher.momentum={t.momentum} averages more steps than the {total_steps:,} of the "
            "run: the teacher will hardly move; lower it or train longer"
        )
    return lines
