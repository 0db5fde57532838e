"""A config made concrete: networks, schedules, lengths in steps, and where the run stands."""

import logging
from collections.abc import Callable
from pathlib import Path

from dino_infer import __version__
from dino_infer.devices import resolved_precision
from dino_infer.errors import CheckpointError, DataError
from dino_infer.images.preprocess import IMAGENET_MEAN, IMAGENET_STD
from dino_infer.networks.build import build_backbone
from dino_infer.sources.image_list import ImageList
from dino_infer.weights.checkpoints import save_checkpoint, weights_sha256
from dino_infer.weights.files import read_weight_file
from dino_infer.weights.info import CheckpointInfo
from dino_infer.weights.run_folders import CHECKPOINT
from dino_train import distributed, optim, recipes, schedules
from dino_train.coding_rate import CodingRateLoss
from dino_train.config import LossConfig, SettingsError, TrainConfig, as_dict
from dino_train.data.shares import parts_of_share
from dino_train.distributed import Process
from dino_train.head import DINOHead, ProjectionHead
from dino_train.learner import Learner, Rates
from dino_train.loss import Center
from dino_train.records import snapshots
from dino_train.records.run_folder import check_state
from dino_train.student_teacher import MultiCropNetwork, teacher_of

logger = logging.getLogger(__name__)


class Run:
    """A config made concrete: networks, schedules and lengths in steps."""

    def __init__(
        self,
        config: TrainConfig,
        images: ImageList,
        out: Path,
        process: Process,
        *,
        data_fingerprint: str,
        begun_by: int | None = None,
        init_from: str | None = None,
        compiled: bool = False,
    ) -> None:
        self.config = config
        self.images = images
        self.out = out
        self.process = process
        self._data_fingerprint = data_fingerprint
        self._init_from = init_from
        c, o = config, config.optim
        self.steps_per_epoch = len(images) // o.batch_size
        self.total_steps = self.steps_per_epoch * o.epochs
        self.accumulation_steps = accumulation_steps(config, process.world_size, begun_by)
        self.part_size = o.batch_size // process.world_size // self.accumulation_steps
        self.snapshot_steps = max(1, round(c.run.snapshot_epochs * self.steps_per_epoch))
        self.eval_steps = c.run.eval_epochs * self.steps_per_epoch
        self.rates = _rates(config, self.steps_per_epoch)
        if process.is_main:
            for line in recipes.warnings_about(config, total_steps=self.total_steps):
                logger.warning("%s", line)
        self.step = 0
        self.skipped_before = 0
        """Steps of the run that were not finite, up to the snapshot it went on from."""
        self.learner = build_learner(config, process, compiled=compiled)

    @property
    def epoch(self) -> float:
        """Epochs done."""
        return self.step / self.steps_per_epoch

    def frozen(self, step: int) -> dict[str, bool]:
        """Parts of the student that a step leaves as they are, as ``Learner.step`` takes them."""
        epoch, o = step // self.steps_per_epoch, self.config.optim
        return {
            "freeze_last_layer": epoch < o.freeze_last_layer_epochs
            and self.config.loss.kind == "dino",
            "freeze_backbone": epoch < o.freeze_backbone_epochs,
        }

    def resume(self) -> bool:
        """Go on from the newest whole snapshot; False when there is none."""
        found = snapshots.latest_snapshot(self.out, accept=self._load)
        if found is None:
            return False
        logger.info("going on from %s, step %d of %d", found[1], self.step, self.total_steps)
        return True

    def _load(self, state: snapshots.State) -> None:
        """Take over a state, or raise what shows that it is not one of this run."""
        check_state(
            state,
            as_dict(self.config),
            defaults=as_dict(TrainConfig()),
            data_fingerprint=self._data_fingerprint,
            init_from=self._init_from,
        )
        if not 0 < state["step"] <= self.total_steps:
            raise ValueError(f"the run has {self.total_steps} steps")
        self.learner.load_state(state)
        self.skipped_before = int(state["skipped_steps"])
        self.step = state["step"]

    def start_from(self, weights: str | Path, checkpoint_key: str = "teacher") -> None:
        """Begin with given weights in student and teacher.

        Raises:
            CheckpointError: The weights do not fit the backbone.
        """
        parts = snapshots.training_weights(weights, checkpoint_key)
        came = self.learner.start_from(parts, source=str(weights))
        logger.info("starting from %s, %s", weights, came)

    def save(self) -> None:
        """Write the snapshot, then the checkpoint that people load."""
        if not self.process.is_main:
            return
        state = {
            **self.learner.state(),
            "step": self.step,
            "skipped_steps": self.skipped_before
            + int(self.learner.skipped.numbers()["skipped_steps"]),
            "config": as_dict(self.config),
            "init_from": self._init_from,
            "checkpoint_info": self.checkpoint_info().as_metadata(),
        }
        snapshots.save_snapshot(self.out, state, step=self.step)
        snapshots.prune_snapshots(
            self.out,
            step=self.step,
            keep=self.config.run.keep_snapshots,
            keep_every_steps=self.config.run.keep_every_epochs * self.steps_per_epoch,
        )
        self._save_checkpoint()

    def complete_checkpoint(self) -> None:
        """Write the checkpoint if it is not that of this step: the process may have been killed.

        Raises:
            CheckpointError: It cannot be written.
        """
        path = self.out / CHECKPOINT
        try:
            saved = read_weight_file(path).metadata or {}
        except CheckpointError:  # missing, cut short, or its weights are not those that were saved
            saved = {}
        weights = weights_sha256(self.learner.teacher.backbone)
        if (saved.get("step"), saved.get("weights_sha256")) != (self.step, weights):
            logger.warning("%s was not that of step %d: writing it again", path, self.step)
            self._save_checkpoint()

    def _save_checkpoint(self) -> None:
        backbone = self.learner.teacher.backbone
        save_checkpoint(self.out / CHECKPOINT, backbone, self.checkpoint_info())

    def checkpoint_info(self) -> CheckpointInfo:
        """Return the metadata that is saved with the weights."""
        backbone = self.learner.teacher.backbone
        return CheckpointInfo(
            arch=backbone.arch,
            patch_size=backbone.patch_size,
            image_size=backbone.image_size,
            small_stem=backbone.small_stem,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            recipe=self.config.recipe,
            step=self.step,
            epoch=self.epoch,
            data_fingerprint=self._data_fingerprint,
            code_version=__version__,
        )


def build_learner(config: TrainConfig, process: Process, *, compiled: bool = False) -> Learner:
    """Return fresh networks, loss and optimizer, drawn from the config's seed."""
    c, o = config, config.optim
    distributed.seed_everything(c.seed)
    student = _network(config, drop_path_rate=c.model.drop_path_rate)
    teacher = _network(config, drop_path_rate=0.0)
    student = distributed.sync_batch_norm(student, process).to(process.device)
    teacher = distributed.sync_batch_norm(teacher, process).to(process.device)
    teacher = teacher_of(student, teacher)
    center = coding_rate = None
    if c.loss.kind == "coding-rate":
        coding_rate = _coding_rate(c.loss)
    else:
        center = Center(c.head.out_dim, momentum=c.teacher.center_momentum).to(process.device)
    return Learner(
        student,
        teacher,
        center,
        optim.build_optimizer(o.optimizer, optim.parameter_groups(student)),
        process=process,
        coding_rate=coding_rate,
        teacher_sees=c.loss.targets != "student",
        precision=resolved_precision(o.precision, process.device),  # type: ignore[arg-type]
        student_temp=c.teacher.student_temp,
        clip_grad=o.clip_grad,
        compiled=compiled,
    )


def _coding_rate(loss: LossConfig) -> CodingRateLoss:
    given = {"alignment_weight": loss.alignment_weight, "epsilon": loss.epsilon}
    return CodingRateLoss(**{name: value for name, value in given.items() if value is not None})


def check_amounts(config: TrainConfig, images: int, world_size: int, begun_by: int) -> None:
    """Check that batch, images and processes fit each other.

    Raises:
        DataError: There are fewer images than one batch.
        SettingsError: The batch cannot be shared equally.
    """
    batch = config.optim.batch_size
    if images < batch:
        raise DataError(
            f"one batch needs {batch} images but the data has {images}; "
            f"pass `optim.batch_size={images}` or less, or more images"
        )
    accumulation_steps(config, world_size, begun_by)


def accumulation_steps(config: TrainConfig, world_size: int, begun_by: int | None = None) -> int:
    """Parts of a process's share of a batch; a coding rate is that of a part, so its parts stay.

    Raises:
        SettingsError: The batch cannot be shared equally.
    """
    o = config.optim
    before = (begun_by if config.loss.kind == "dino" else None) or world_size
    try:
        return parts_of_share(
            o.batch_size, processes=world_size, parts=o.accumulation_steps, begun_by=before
        )
    except ValueError as error:
        raise SettingsError(str(error)) from error


def _rates(config: TrainConfig, steps_per_epoch: int) -> Callable[[int], Rates]:
    """All schedules as one function of the step."""
    o, t = config.optim, config.teacher
    total_steps = o.epochs * steps_per_epoch
    lr = schedules.cosine_schedule(
        base=optim.peak_lr(o.lr, batch_size=o.batch_size),
        final=o.min_lr,
        total_steps=total_steps,
        warmup_steps=round(o.warmup_epochs * steps_per_epoch),
    )
    weight_decay = schedules.cosine_schedule(
        base=o.weight_decay, final=o.weight_decay_end, total_steps=total_steps
    )
    momentum = schedules.cosine_schedule(
        base=t.momentum, final=t.momentum_end, total_steps=total_steps
    )
    teacher_temp = schedules.teacher_temp_schedule(
        warmup_temp=t.warmup_teacher_temp,
        temp=t.teacher_temp,
        warmup_epochs=t.warmup_teacher_temp_epochs,
        steps_per_epoch=steps_per_epoch,
    )

    def rates(step: int) -> Rates:
        return Rates(
            lr=lr(step),
            weight_decay=weight_decay(step),
            momentum=momentum(step),
            teacher_temp=teacher_temp(step) if config.loss.kind == "dino" else None,
        )

    return rates


def _network(config: TrainConfig, *, drop_path_rate: float) -> MultiCropNetwork:
    m, h = config.model, config.head
    try:
        backbone = build_backbone(
            m.arch,
            patch_size=m.patch_size,
            image_size=m.image_size or config.crops.global_crops_size,
            drop_path_rate=drop_path_rate,
            small_stem=m.small_stem,
        )
    except ValueError as error:
        raise SettingsError(str(error)) from error
    sizes = {"hidden_dim": h.hidden_dim, "bottleneck_dim": h.bottleneck_dim}
    if config.loss.kind == "coding-rate":
        head = ProjectionHead(backbone.embed_dim, **sizes, use_bn=h.use_bn)
    else:
        head = DINOHead(
            backbone.embed_dim,
            h.out_dim,
            **sizes,
            use_bn=h.use_bn,
            norm_last_layer=h.norm_last_layer,
        )
    return MultiCropNetwork(backbone, head)
