"""Every setting of a run, its meaning and its default; no paths or ranks.

The defaults are the published ones for ViT-S/16 on ImageNet (arXiv 2104.14294, appendix C, and the
flags of the authors' release). Durations are in epochs; the loop converts them to steps once.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from dino_infer.choices import Precision
from dino_train.crops.spec import CropSpec
from dino_train.data.choices import Cache, Decoder, Executor, Order
from dino_train.records.settings import built, plain


def _require(name: str, value: float, low: float, high: float, *, open_low: bool = False) -> None:
    if not (low < value <= high if open_low else low <= value <= high):
        bracket = "(" if open_low else "["
        raise ValueError(f"{name} must lie in {bracket}{low:g}, {high:g}], got {value!r}")


_INF = float("inf")


class SettingsError(ValueError):
    """Settings that do not fit each other, the data or the processes."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The backbone."""

    arch: str = "vit_small"
    """Architecture: vit_micro, vit_tiny, vit_small, vit_base, vit_large, resnet_micro, or any timm
    model name. auto takes vit_small, on a CPU resnet_micro."""
    patch_size: int = 16
    """Side of a patch in pixels (ViTs). Smaller sees more and costs the square."""
    image_size: int | None = None
    """Side in pixels for which a ViT learns position embeddings; other sizes are resampled. By
    default that of the global crops; set it to that of weights that training starts from."""
    drop_path_rate: float = 0.1
    """Stochastic depth of the student; the teacher has none."""
    small_stem: bool = False
    """Stem of ResNets for images below 64 px: 3x3 of stride 1, no max-pool."""

    def __post_init__(self) -> None:
        _require("model.patch_size", self.patch_size, 1, _INF)
        if self.image_size is not None:
            _require("model.image_size", self.image_size, 1, _INF)
        _require("model.drop_path_rate", self.drop_path_rate, 0, 0.99)


LossKind = Literal["dino", "coding-rate"]


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The loss; all but its kind are settings of the coding rate."""

    kind: LossKind = "dino"
    """Loss: dino is the paper's; coding-rate is SimDINO's, without prototypes, centre and
    temperatures, whose settings then do nothing."""
    targets: Literal["teacher", "student"] | None = None
    """Network that gives the targets, by default teacher. student trains without a teacher's pass,
    which is no self-distillation; the average is still what is measured and saved."""
    alignment_weight: float | None = None
    """Weight of the agreement of crops beside the coding rate, by default 1."""
    epsilon: float | None = None
    """Precision of the code, by default 0.05: smaller asks outputs to spread further."""

    def __post_init__(self) -> None:
        for name in ("alignment_weight", "epsilon"):
            if (value := getattr(self, name)) is not None:
                _require(f"loss.{name}", value, 0, _INF, open_low=True)
        given = [name for name in _RATE_SETTINGS if getattr(self, name) is not None]
        if self.kind == "dino" and given:
            raise ValueError(
                f"`loss.{given[0]}` belongs to `loss.kind=coding-rate`, got "
                f"{getattr(self, given[0])!r} with kind 'dino'; leave it out, or choose that kind"
            )


_RATE_SETTINGS = ("targets", "alignment_weight", "epsilon")
DINO_SETTINGS = (
    "head.out_dim",
    "head.norm_last_layer",
    "teacher.center_momentum",
    "teacher.student_temp",
    "teacher.warmup_teacher_temp",
    "teacher.teacher_temp",
    "teacher.warmup_teacher_temp_epochs",
    "optim.freeze_last_layer_epochs",
)
"""Settings that only ``loss.kind`` "dino" has a use for."""


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """The projection head."""

    out_dim: int = 65536
    """Prototypes, K in the paper. Small data wants fewer: 1,024 to 8,192."""
    hidden_dim: int = 2048
    """Width of the MLP."""
    bottleneck_dim: int = 256
    """Width that is L2-normalised before the last layer."""
    use_bn: bool = False
    """Batch norm in the MLP. Helps convnets on small data."""
    norm_last_layer: bool = True
    """Keep the last layer's row norms at 1. False learns faster on small ViTs, less stably."""

    def __post_init__(self) -> None:
        for name in ("out_dim", "hidden_dim", "bottleneck_dim"):
            _require(f"head.{name}", getattr(self, name), 2, _INF)


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """The moving average, the centre and the temperatures."""

    momentum: float = 0.996
    """Share of the old teacher kept in each step, at the start. 0.99 and lower for short runs,
    0.9995 for small batches on large data."""
    momentum_end: float = 1.0
    """Momentum approached at the end, by a cosine."""
    center_momentum: float = 0.9
    """Share of the old centre kept in each step."""
    student_temp: float = 0.1
    """Softmax temperature of the student."""
    warmup_teacher_temp: float = 0.04
    """Teacher temperature at the start. Lower it (0.02) when the loss does not fall."""
    teacher_temp: float = 0.04
    """Teacher temperature after the warm-up. Above 0.07 is unstable."""
    warmup_teacher_temp_epochs: int = 0
    """Epochs from the first temperature to the second."""

    def __post_init__(self) -> None:
        for name in ("momentum", "momentum_end", "center_momentum"):
            _require(f"teacher.{name}", getattr(self, name), 0, 1)
        for name in ("student_temp", "warmup_teacher_temp", "teacher_temp"):
            _require(f"teacher.{name}", getattr(self, name), 0, _INF, open_low=True)
        _require("teacher.warmup_teacher_temp_epochs", self.warmup_teacher_temp_epochs, 0, _INF)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimizer, batch, length and schedules."""

    epochs: int = 100
    """Passes over the images."""
    batch_size: int = 256
    """Images in one optimizer step, over all devices and accumulation steps."""
    accumulation_steps: int = 1
    """Parts in which a batch is computed, to save memory. Centre and teacher move once a batch."""
    optimizer: Literal["adamw", "sgd", "lars"] = "adamw"
    """Optimizer: AdamW for ViTs; SGD or LARS for convnets."""
    lr: float = 5e-4
    """Peak learning rate for a batch of 256; scaled linearly with the batch."""
    min_lr: float = 1e-6
    """Learning rate approached at the end."""
    warmup_epochs: float = 10
    """Epochs of linear warm-up of the learning rate."""
    weight_decay: float = 0.04
    """Weight decay at the start; biases and norms have none."""
    weight_decay_end: float = 0.4
    """Weight decay approached at the end, by a cosine."""
    clip_grad: float = 3.0
    """Bound on the L2 norm of each gradient tensor; 0 disables clipping."""
    freeze_last_layer_epochs: int = 1
    """Epochs at the start during which the head's last layer stands still."""
    freeze_backbone_epochs: int = 0
    """Epochs at the start during which only the head learns. For continued pretraining."""
    precision: Precision = "auto"
    """Arithmetic of the networks; sums, softmax and weights are always fp32. auto: bf16 where the
    device multiplies it natively, else fp32."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulation_steps"):
            _require(f"optim.{name}", getattr(self, name), 1, _INF)
        for name in (
            "lr",
            "min_lr",
            "warmup_epochs",
            "weight_decay",
            "weight_decay_end",
            "clip_grad",
            "freeze_last_layer_epochs",
            "freeze_backbone_epochs",
        ):
            _require(f"optim.{name}", getattr(self, name), 0, _INF)
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"optim.warmup_epochs must be below optim.epochs={self.epochs}, "
                f"got {self.warmup_epochs:g}; lower the warm-up or train longer"
            )


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Records of a run, and limits that stop it."""

    log_every: int = 10
    """Steps between rows of metrics.jsonl."""
    snapshot_epochs: float = 1.0
    """Epochs between snapshots; fractions snapshot within an epoch."""
    keep_snapshots: int = 2
    """Number of newest snapshots to keep."""
    keep_every_epochs: int = 0
    """Epochs between snapshots that are kept for good; 0 keeps none."""
    eval_epochs: int = 1
    """Epochs between measurements of RankMe and online k-NN; the last epoch is always measured."""
    max_bad_share: float = 0.05
    """Share of the listed images that may turn out unreadable before training fails."""
    max_nonfinite_steps: int = 20
    """Non-finite steps in a row that are skipped before training stops."""

    def __post_init__(self) -> None:
        for name in ("log_every", "keep_snapshots", "eval_epochs", "max_nonfinite_steps"):
            _require(f"run.{name}", getattr(self, name), 1, _INF)
        _require("run.snapshot_epochs", self.snapshot_epochs, 0, _INF, open_low=True)
        _require("run.keep_every_epochs", self.keep_every_epochs, 0, _INF)
        _require("run.max_bad_share", self.max_bad_share, 0, 1)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """All settings of a run."""

    recipe: str = "imagenet_vits16"
    """Name of the recipe that the settings started from; written into the weights."""
    seed: int = 0
    """Seed of weights, data order and augmentation."""
    data_order: Order = "random"
    """Order of the images; quasi-random reads tars in runs of 32 images, for data larger than
    memory on disks or networks that are slow at single images."""
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    crops: CropSpec = field(default_factory=CropSpec)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        _require("seed", self.seed, 0, 2**32 - 1)
        if self.model.arch.startswith("vit_") and "patch" not in self.model.arch:
            sizes = {"global_crops_size": self.crops.global_crops_size}
            if self.crops.local_crops_number:
                sizes["local_crops_size"] = self.crops.local_crops_size
            for name, size in sizes.items():
                if size < self.model.patch_size:
                    raise ValueError(
                        f"crops.{name} must hold at least one patch of "
                        f"{self.model.patch_size} px, got {size}"
                    )


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Device, processes and caches of a run; no part of its settings, for results are the same."""

    device: str = "auto"
    """Device: auto, cpu, cuda or cuda:N; auto takes a GPU if there is one."""
    workers: int | None = None
    """Processes that read and decode images, for each training process; by default one a core."""
    crops_on: Literal["auto", Executor] = "auto"
    """Place where crops are made: the workers, or one batched pass on the device; auto takes the
    device where it is a GPU or crops are tiny."""
    cache: Cache = "auto"
    """Place of decoded images after their first use; auto keeps them where they fit and crops stay
    exactly the same."""
    decode: Decoder = "cpu"
    """Decoder of plain JPEGs; gpu needs a CUDA device and keeps no cache in memory."""
    compile: bool = False
    """Compile the networks: the first step takes minutes, the others less on a GPU."""
    timeout_minutes: float = 30.0
    """Minutes that a process under torchrun waits for the others before it ends with a message;
    more than a measurement takes, which the first process makes alone."""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 0:
            raise ValueError(f"`workers` must be 0 or more, got {self.workers}")
        if not 0 < self.timeout_minutes < _INF:
            raise ValueError(f"`timeout_minutes` must be above 0, got {self.timeout_minutes:g}")


def as_dict(config: TrainConfig) -> dict[str, Any]:
    """The config as plain JSON types."""
    return plain(dataclasses.asdict(config))  # type: ignore[no-any-return]


def from_dict(values: dict[str, Any]) -> TrainConfig:
    """The config that ``as_dict`` wrote.

    Raises:
        ValueError: A name is unknown or a value is out of range.
    """
    return built(TrainConfig, values)  # type: ignore[no-any-return]
