"""Measuring, saving and stopping, at the steps of a run where they are due."""

import logging

from dino_infer.errors import TrainingError
from dino_infer.evaluate.measures.health import unique_prototypes
from dino_train import distributed
from dino_train.health import CopiesMonitor
from dino_train.monitoring.evaluation import Evaluation, in_words, measured_at
from dino_train.monitoring.step_log import StepLog
from dino_train.records.metrics import METRICS, MetricsLog, read_rows
from dino_train.records.progress import StopRequest
from dino_train.records.report import Report
from dino_train.run import Run

logger = logging.getLogger(__name__)


class Occasions:
    """Work between steps, in all processes at the same steps."""

    def __init__(
        self,
        run: Run,
        evaluation: Evaluation,
        metrics: MetricsLog | None,
        log: StepLog,
        stop: StopRequest,
    ) -> None:
        self.numbers: dict[str, float] = {}
        """The last measurement, in the first process."""
        self._run = run
        self._evaluation = evaluation
        self._metrics = metrics
        self._log = log
        self._stop = stop
        self._agreement = distributed.Agreement(run.process.device)
        self._report: Report | None = None
        self._copies = CopiesMonitor()
        if metrics:
            size = 2 * run.config.crops.global_crops_size
            self._report = Report.of_data(run.out, run.images, size=size, start_step=run.step)

    def begin(self) -> None:
        """Measure the start, and complete what a killed process did not write of this step."""
        run = self._run
        if self._metrics and (run.step == run.total_steps or run.step % run.eval_steps == 0):
            rows = read_rows(run.out / METRICS)  # the step before was measured, or its row is lost
            self.numbers = measured_at(run.epoch, rows) or self._measured(self._metrics)
        if self._metrics and run.step:
            run.complete_checkpoint()
        if self._report:
            self._report.update(run.learner.teacher.backbone, step=run.step)
        self._log.restart_clock()

    def after_step(self) -> bool:
        """Do what is due; False when the run was asked to stop.

        Raises:
            TrainingError: Too many steps in a row were not finite; the state is saved.
        """
        run, log = self._run, self._log
        last = run.step == run.total_steps
        stopping = self._agreement.reached(self._stop.received)
        measuring = last or run.step % run.eval_steps == 0
        saving = last or stopping or run.step % run.snapshot_steps == 0
        if measuring or saving:
            log.settle()
        giving_up = log.skipped_in_a_row >= run.config.run.max_nonfinite_steps
        if measuring:
            if self._metrics:
                self.numbers = self._measured(self._metrics)
            distributed.barrier()
            log.restart_clock()
        if saving or giving_up:
            self._save()
        if giving_up:
            raise TrainingError(
                f"{log.skipped_in_a_row} steps in a row were not finite; the state before them is "
                f"saved in {str(run.out / 'snapshots')!r}; lower `optim.lr`, set "
                "`optim.clip_grad=0.3` or use `optim.precision=fp32`"
            )
        return not stopping

    def _measured(self, metrics: MetricsLog) -> dict[str, float]:
        """Numbers of the teacher, which get a row."""
        run = self._run
        numbers = self._evaluation.measure(run.learner.teacher.backbone)
        if (prototypes := run.learner.prototypes()) is not None:
            numbers["unique_prototypes_share"] = unique_prototypes(prototypes) / len(prototypes)
        metrics.append({"step": max(run.step - 1, 0), "epoch": run.epoch, **numbers})
        moment = f"epoch {run.epoch:g}" if run.step else "untrained"
        logger.info("%s: %s", moment, in_words(numbers))
        if warning := self._copies.warning(numbers):
            logger.warning("%s", warning)
        return numbers

    def _save(self) -> None:
        if self._metrics:
            self._metrics.sync()
        self._run.save()
        if self._report:
            self._report.update(self._run.learner.teacher.backbone, step=self._run.step)
        distributed.barrier()
        self._log.restart_clock()
