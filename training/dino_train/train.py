"""The run, top to bottom: images in, a trained teacher out.

    from dino_train import recipes
    from dino_train.train import train

    train(recipes.tiny_cpu(), data=["photos/"], out="runs/photos")

Running the same call again goes on from the newest snapshot.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from dino_infer.cores import default_workers
from dino_infer.errors import TrainingError
from dino_infer.images.preprocess import Preprocess
from dino_infer.sources.image_list import ImageList, list_images
from dino_train import distributed
from dino_train.config import SettingsError, TrainConfig, as_dict
from dino_train.data.batches import Cache, batches_on_device
from dino_train.data.dataset import Decoder
from dino_train.data.loader import Batch, Executor, FailureLog, StepSampler, make_crops
from dino_train.evaluation import Evaluation, in_words, measured_at
from dino_train.records.metrics import METRICS, MetricsLog, check_wandb, read_rows
from dino_train.records.progress import Progress, StopRequest
from dino_train.records.report import Report
from dino_train.records.run_folder import config_record, enter_run_folder, hold_run_folder
from dino_train.run import Run, check_amounts
from dino_train.step_log import StepLog

logger = logging.getLogger(__name__)

SMALL_CROP = 64
"""Up to this size in pixels, one batched pass beats workers that crop image by image on a CPU."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """How a call to ``train`` ended."""

    steps: int
    total_steps: int
    numbers: dict[str, float]
    """The last measurement: ``rankme``, and ``knn_top1_percent`` where there are labels."""

    @property
    def finished(self) -> bool:
        """Whether the run reached its last step."""
        return self.steps == self.total_steps


def train(
    config: TrainConfig,
    *,
    data: Sequence[str | Path],
    out: str | Path,
    eval_data: str | Path | None = None,
    init_from: str | Path | None = None,
    checkpoint_key: str = "teacher",
    device: str = "auto",
    workers: int | None = None,
    crops: Literal["auto", "worker", "device"] = "auto",
    cache: Cache = "auto",
    decode: Decoder = "cpu",
    compile: bool = False,
    images: ImageList | None = None,
    extend: bool = False,
    tensorboard: bool = True,
    wandb_project: str | None = None,
) -> TrainResult:
    """Pretrain a backbone; begin, or go on where the run folder stands.

    Args:
        config: The settings; see ``dino_train.recipes``.
        data: Folders, list files or tars of images; no labels are used.
        out: The run folder; see docs/formats.md for what it holds.
        eval_data: Class folders for online k-NN, see ``Evaluation``.
        init_from: Weights to start from: a backbone, or a full training checkpoint with its head.
        checkpoint_key: Which network of such a checkpoint, see ``load_backbone``.
        device: Where to train; "auto" takes a GPU if there is one.
        workers: Processes that decode images, for each training process; None takes one a core,
            up to 8.
        crops: Where crops are made; "auto" makes them on the device when it is a GPU or when
            they are tiny, and in the workers otherwise.
        cache: Where decoded images are kept after they were first read, see ``batches_on_device``.
        decode: "gpu" decodes plain JPEGs there.
        compile: Compile the networks; the first step takes minutes, the others less.
        images: The listing of ``data``, where it has been made before.
        extend: Let ``optim.epochs`` of an existing run grow.
        tensorboard: Write ``tensorboard/``.
        wandb_project: Log to this Weights & Biases project.

    Raises:
        DinoError: Data, weights or run folder cannot be used, or training cannot go on.
        SettingsError: Settings do not fit each other, the data or the processes.
    """
    out = Path(out)
    workers = default_workers() if workers is None else workers
    process = distributed.start(device)
    try:
        with ExitStack() as opened:
            distributed.by_main(process, lambda: opened.enter_context(hold_run_folder(out)))
            if wandb_project:
                check_wandb()
            executor = _executor(crops, config, process.device)
            _check_decoder(decode, executor, cache, process.device)
            images = list_images(data) if images is None else images
            check_amounts(config, len(images), process.world_size)
            fingerprint = images.fingerprint()
            record = config_record(
                out,
                as_dict(config),
                data={
                    "sources": [str(source) for source in data],
                    "images": len(images),
                    "fingerprint": fingerprint,
                },
                init_from=_named(init_from, checkpoint_key) if init_from else None,
                extend=extend,
            )
            run = Run(config, images, out, process, data_fingerprint=fingerprint, compiled=compile)
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
                        wandb_project=wandb_project,
                    )
                )
            return _loop(
                run,
                evaluation=evaluation,
                metrics=metrics,
                stop=opened.enter_context(StopRequest()),
                batches=batches_on_device(
                    images,
                    config.crops,
                    sampler=_sampler(run),
                    device=process.device,
                    executor=executor,
                    workers=workers,
                    cache=cache,
                    decoder=decode,
                    processes=process.local_world_size,
                ),
            )
    finally:
        distributed.stop()


def _loop(
    run: Run,
    *,
    evaluation: Evaluation,
    metrics: MetricsLog | None,
    stop: StopRequest,
    batches: Iterator[Batch],
) -> TrainResult:
    """Steps from where the run stands to its end, or until somebody stops it."""
    c, process, device = run.config, run.process, run.process.device
    numbers: dict[str, float] = {}
    report = None
    if process.is_main:
        size = 2 * c.crops.global_crops_size
        report = Report.of_data(run.out, run.images, size=size, start_step=run.step)
    failures = FailureLog(
        run.out / "failures.jsonl",
        num_images=len(run.images),
        max_bad_share=c.run.max_bad_share,
    )
    due = run.step == run.total_steps or run.step % run.eval_steps == 0
    if metrics and due:  # the step before was measured, unless its row was lost
        numbers = measured_at(run.epoch, read_rows(run.out / METRICS))
        numbers = numbers or _measure(run, evaluation, metrics)
    if metrics and run.step:  # a run that was killed after its snapshot has not written these yet
        run.complete_checkpoint()
    if report:
        report.update(run.learner.teacher.backbone, step=run.step)
    progress = Progress(total_steps=run.total_steps, start_step=run.step, visible=process.is_main)
    log = StepLog(run, metrics, progress, late=device.type == "cuda")
    agreement = distributed.Agreement(device)
    while run.step < run.total_steps:
        step = run.step
        distributed.seed_everything(c.seed, step, process.rank)  # stochastic depth
        with log.waiting_for_data():
            loaded = [next(batches) for _ in range(c.optim.accumulation_steps)]
        for batch in loaded:
            failures.add(batch.failures)
        parts = [make_crops(batch, device).groups() for batch in loaded]
        epoch = step // run.steps_per_epoch
        outcome = run.learner.step(
            parts,
            rates=run.rates(step),
            freeze_last_layer=epoch < c.optim.freeze_last_layer_epochs,
            freeze_backbone=epoch < c.optim.freeze_backbone_epochs,
        )
        run.step += 1
        log.step_done(outcome)

        last = run.step == run.total_steps
        stopping = agreement.reached(stop.received)
        measuring = last or run.step % run.eval_steps == 0
        saving = last or stopping or run.step % run.snapshot_steps == 0
        if measuring or saving:
            log.settle()
        giving_up = log.skipped_in_a_row >= c.run.max_nonfinite_steps
        if measuring:
            if metrics:
                numbers = _measure(run, evaluation, metrics)
            distributed.barrier()
            log.restart_clock()
        if saving or giving_up:
            if metrics:
                metrics.sync()
            run.save()
            if report:
                report.update(run.learner.teacher.backbone, step=run.step)
            distributed.barrier()
            log.restart_clock()
        if giving_up:
            raise TrainingError(
                f"{log.skipped_in_a_row} steps in a row were not finite; the state before them is "
                f"saved in {str(run.out / 'snapshots')!r}; lower optim.lr, set optim.clip_grad "
                "to 0.3 or use optim.precision fp32"
            )
        if stopping:
            break
    progress.close()
    return TrainResult(steps=run.step, total_steps=run.total_steps, numbers=numbers)


def _measure(run: Run, evaluation: Evaluation, metrics: MetricsLog) -> dict[str, float]:
    """Measure the teacher and write a row."""
    numbers = evaluation.measure(run.learner.teacher.backbone)
    metrics.append({"step": max(run.step - 1, 0), "epoch": run.epoch, **numbers})
    logger.info("%s: %s", f"epoch {run.epoch:g}" if run.step else "untrained", in_words(numbers))
    return numbers


def _sampler(run: Run) -> StepSampler:
    """Parts of batches from the run's step on, in the order that the seed decides."""
    return StepSampler(
        len(run.images),
        batch_size_per_process=run.part_size,
        seed=run.config.seed,
        steps_per_epoch=run.steps_per_epoch,
        start_step=run.step,
        total_steps=run.total_steps,
        accumulation_steps=run.config.optim.accumulation_steps,
        order=run.config.data_order,
        rank=run.process.rank,
        world_size=run.process.world_size,
    )


def _check_decoder(decode: Decoder, executor: Executor, cache: Cache, device: torch.device) -> None:
    if decode == "gpu" and (device.type != "cuda" or executor != "device" or cache == "ram"):
        raise SettingsError(
            "decode 'gpu' needs a CUDA device that makes the crops, and no cache in memory; got "
            f"device {device.type!r}, crops {executor!r}, cache {cache!r}"
        )


def _named(weights: str | Path, checkpoint_key: str) -> str:
    """The weights as the run's record names them."""
    return str(weights) if checkpoint_key == "teacher" else f"{weights} ({checkpoint_key})"


def _executor(
    asked: Literal["auto", "worker", "device"], config: TrainConfig, device: torch.device
) -> Executor:
    if asked != "auto":
        return asked
    tiny = config.crops.global_crops_size <= SMALL_CROP
    return "device" if device.type == "cuda" or tiny else "worker"
