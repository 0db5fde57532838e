"""dino-eval knn."""

from dataclasses import dataclass

import tyro

from dino_infer.cli.exit_codes import UsageError
from dino_infer.cli.options import check_positive
from dino_infer.cli.protocols.labelled import LabelOptions, NetworkOptions, labelled_sides
from dino_infer.cli.protocols.shared import ReportOptions, open_report


@dataclass(frozen=True, kw_only=True)
class FewShotOptions:
    """Accuracy with few training images."""

    n_per_class: tuple[int, ...] = ()
    """Numbers of training images a class to classify with as well; by default none."""
    tries: int | None = None
    """Number of random draws of those images; by default 5."""

    def __post_init__(self) -> None:
        for count in self.n_per_class:
            check_positive("--n-per-class", count)
        if not self.n_per_class and self.tries is not None:
            raise UsageError("--tries is for the draws of --n-per-class; pass it too")
        if self.tries is not None and self.tries < 2:
            raise UsageError(f"--tries must be at least 2 to tell a spread, got {self.tries}")


def knn(
    *,
    train: str,
    val: str | None = None,
    k: tuple[int, ...] = (10, 20, 100, 200),
    temperature: float = 0.07,
    leave_one_out: tyro.conf.FlagCreatePairsOff[bool] = False,
    labels: tyro.conf.OmitArgPrefixes[LabelOptions] = LabelOptions(),  # noqa: B008
    few_shot: tyro.conf.OmitArgPrefixes[FewShotOptions] = FewShotOptions(),
    report: tyro.conf.OmitArgPrefixes[ReportOptions] = ReportOptions(),  # noqa: B008
    network: tyro.conf.OmitArgPrefixes[NetworkOptions] = NetworkOptions(),  # noqa: B008
) -> int:
    """Classify images by a weighted vote of their nearest neighbours.

    Prints top-1 and top-5 accuracy in percent for each k. With -o it also writes classes.csv
    (accuracy of each class, and what it is taken for) and confusion.png.

    Args:
        train: Labelled neighbours: a feature file of dino-embed, or images in class folders or with
            --train-labels.
        val: Labelled images to classify, in the same forms as --train.
        k: Numbers of neighbours that vote.
        temperature: Temperature of the vote; lower gives the nearest more weight.
        leave_one_out: Classify each training image by all the others, instead of --val.
        labels: Labels of the images.
        few_shot: Accuracy with few training images.
        report: Report, floors and repeatability.
        network: Network that embeds folders of images.
    """
    if leave_one_out == (val is not None):
        raise UsageError("pass either --val or --leave-one-out")
    if val is None and (labels.val_labels is not None or few_shot.n_per_class):
        raise UsageError("--val-labels and --n-per-class need --val")
    if not k or min(k) < 1:
        raise UsageError(f"--k must be at least 1, got {' '.join(map(str, k)) or 'nothing'}")
    check_positive("--temperature", temperature)
    from dino_infer.devices import resolved_device
    from dino_infer.evaluate.knn import measure_knn

    device = resolved_device(network.compute.device)

    with open_report(report, tables=["few_shot"]) as answer:
        sides = labelled_sides(train, val, labels=labels, network=network, report=report)
        answer.result = measure_knn(
            sides,
            ks=k,
            temperature=temperature,
            n_per_class=few_shot.n_per_class,
            tries=few_shot.tries or 5,
            seed=report.seed,
            device=device,
        )
    return answer.code
