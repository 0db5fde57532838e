"""The run, top to bottom: images in, a trained teacher out.

::

    from dino_train import recipes, train

    train(recipes.tiny_cpu(), data=["photos/"], out="runs/photos")

Running the same call again goes on from the newest snapshot.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from dino_infer.cores import default_workers
from dino_infer.images.preprocess import Preprocess
from dino_infer.sources.image_list import ImageList, list_images
from dino_train import distributed
from dino_train.config import Machine, SettingsError, TrainConfig, as_dict
from dino_train.data.batches import batches_on_device
from dino_train.data.choices import Executor
from dino_train.data.dataset import Batch
from dino_train.data.failures import FailureLog
from dino_train.data.loader import make_crops
from dino_train.data.sampler import StepSampler
from dino_train.monitoring.captures import Captures
from dino_train.monitoring.evaluation import Evaluation
from dino_train.monitoring.occasions import Occasions
from dino_train.monitoring.step_log import StepLog
from dino_train.records.metrics import MetricsLog, check_wandb
from dino_train.records.progress import Progress, StopRequest
from dino_train.records.run_folder import (
    config_record,
    enter_run_folder,
    hold_run_folder,
    processes_of,
)
from dino_train.run import Run, check_amounts

logger = logging.getLogger(__name__)

SMALL_CROP = 64
"""Largest size in pixels at which one batched pass beats cropping image by image on a CPU."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """Result of a call to ``train``."""

    steps: int
    total_steps: int
    numbers: dict[str, float]
    """The last measurement: ``rankme``, ``knn_top1_percent`` where there are labels, and
    ``unique_prototypes_share`` with DINO's loss."""

    @property
    def finished(self) -> bool:
        """True if the run reached its last step."""
        return self.steps == self.total_steps


def train(
    config: TrainConfig,
    *,
    data: Sequence[str | Path],
    out: str | Path,
    eval_data: str | Path | None = None,
    init_from: str | Path | None = None,
    checkpoint_key: str = "teacher",
    machine: Machine = Machine(),  # noqa: B008 - frozen
    images: ImageList | None = None,
    extend: bool = False,
    tensorboard: bool = True,
    wandb: str | None = None,
) -> TrainResult:
    """Pretrain a backbone; begin, or go on where the run folder stands.

    Args:
        config: The settings; see ``dino_train.recipes``.
        data: Folders, list files or tars of images; no labels are used.
        out: The run folder; see docs/formats.md for what it holds.
        eval_data: Class folders for online k-NN, see ``Evaluation``.
        init_from: Weights to start from: a backbone, or a full training checkpoint with its head.
        checkpoint_key: Network of such a checkpoint, see ``load_backbone``.
        machine: Device, processes and caches.
        images: The listing of ``data``, where it has been made before.
        extend: Let ``optim.epochs`` of an existing run grow.
        tensorboard: Write ``tensorboard/``.
        wandb: Log to this Weights & Biases project.

    Raises:
        DinoError: Data, weights or run folder cannot be used, or training cannot go on.
        SettingsError: Settings do not fit each other, the data or the processes.
    """
    out = Path(out)
    workers = default_workers() if machine.workers is None else machine.workers
    process = distributed.start(machine.device, timeout_minutes=machine.timeout_minutes)
    try:
        with ExitStack() as opened, distributed.noticing_lost_processes():
            distributed.by_main(process, lambda: opened.enter_context(hold_run_folder(out)))
            if wandb:
                check_wandb()
            executor = _executor(machine, config, process.device)
            _check_decoder(machine, executor, process.device)
            images = list_images(data) if images is None else images
            begun_by = processes_of(out) or process.world_size
            distributed.by_main(
                process,
                lambda: check_amounts(config, len(images), process.world_size, begun_by),
            )
            fingerprint = images.fingerprint()
            started_from = _named(init_from, checkpoint_key) if init_from else None
            record = config_record(
                out,
                as_dict(config),
                defaults=as_dict(TrainConfig()),
                data={
                    "sources": [str(source) for source in data],
                    "images": len(images),
                    "fingerprint": fingerprint,
                },
                init_from=started_from,
                processes=begun_by,
                extend=extend,
            )
            run = Run(
                config,
                images,
                out,
                process,
                data_fingerprint=fingerprint,
                begun_by=begun_by,
                init_from=started_from,
                compiled=machine.compile,
            )
            if process.is_main and process.world_size != begun_by:
                logger.info(
                    "%d processes go on with what %d began: each takes %d x %d images a step",
                    process.world_size,
                    begun_by,
                    run.accumulation_steps,
                    run.part_size,
                )
            evaluation = Evaluation(
                images,
                eval_data=Path(eval_data) if eval_data else None,
                preprocess=Preprocess(size=config.crops.global_crops_size),
                batch_size=max(1, min(256, run.part_size)),
                workers=workers,
                device=process.device,
            )
            if not run.resume() and init_from:
                run.start_from(init_from, checkpoint_key)
            distributed.barrier()  # every process has read the folder before one changes it
            distributed.by_main(process, lambda: enter_run_folder(out, record))
            metrics = None
            if process.is_main:
                metrics = opened.enter_context(
                    MetricsLog(
                        out,
                        start_step=run.step,
                        tensorboard=tensorboard,
                        wandb_project=wandb,
                    )
                )
            progress = Progress(
                total_steps=run.total_steps, start_step=run.step, visible=process.is_main
            )
            log = StepLog(run, metrics, progress, late=process.device.type == "cuda")
            stop = opened.enter_context(StopRequest())
            occasions = Occasions(run, evaluation, metrics, log, stop)
            batches = batches_on_device(
                images,
                config.crops,
                sampler=_sampler(run),
                device=process.device,
                executor=executor,
                workers=workers,
                cache=machine.cache,
                decoder=machine.decode,
                processes=process.local_world_size,
            )
            _loop(run, batches=batches, log=log, occasions=occasions)
            progress.close()
            return TrainResult(
                steps=run.step, total_steps=run.total_steps, numbers=occasions.numbers
            )
    finally:
        distributed.stop()


def _loop(run: Run, *, batches: Iterator[Batch], log: StepLog, occasions: Occasions) -> None:
    """Train from where the run stands to its end, or until it is asked to stop."""
    process = run.process
    failures = FailureLog(
        run.out / "failures.jsonl",
        num_images=len(run.images),
        max_bad_share=run.config.run.max_bad_share,
    )
    captures = Captures(run)
    occasions.begin()
    going_on = True
    while going_on and run.step < run.total_steps:
        distributed.seed_everything(run.config.seed, run.step, process.rank)  # stochastic depth
        with log.waiting_for_data():
            loaded = [next(batches) for _ in range(run.accumulation_steps)]
        for batch in loaded:
            failures.add(batch.failures)
        parts = [make_crops(batch, process.device).groups() for batch in loaded]
        outcome = run.learner.step(parts, rates=run.rates(run.step), **run.frozen(run.step))
        captures.look(outcome, parts, loaded, skipped=log.skipped)
        run.step += 1
        log.step_done(outcome)
        going_on = occasions.after_step()


def _sampler(run: Run) -> StepSampler:
    """Parts of batches from the run's step on, in the order that the seed decides."""
    return StepSampler(
        len(run.images),
        batch_size_per_process=run.part_size,
        seed=run.config.seed,
        steps_per_epoch=run.steps_per_epoch,
        start_step=run.step,
        total_steps=run.total_steps,
        accumulation_steps=run.accumulation_steps,
        order=run.config.data_order,
        rank=run.process.rank,
        world_size=run.process.world_size,
    )


def _check_decoder(machine: Machine, executor: Executor, device: torch.device) -> None:
    cached = machine.cache == "ram"
    if machine.decode == "gpu" and (device.type != "cuda" or executor != "device" or cached):
        raise SettingsError(
            "`decode=gpu` needs a CUDA device that makes the crops, and no cache in memory; got "
            f"device {device.type!r}, crops on {executor!r}, cache {machine.cache!r}"
        )


def _named(weights: str | Path, checkpoint_key: str) -> str:
    """The weights as the run's record names them."""
    return str(weights) if checkpoint_key == "teacher" else f"{weights} ({checkpoint_key})"


def _executor(machine: Machine, config: TrainConfig, device: torch.device) -> Executor:
    if machine.crops_on != "auto":
        return machine.crops_on
    tiny = config.crops.global_crops_size <= SMALL_CROP
    return "device" if device.type == "cuda" or tiny else "worker"
