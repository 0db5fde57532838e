"""dino-eval linear."""

from typing import TYPE_CHECKING

import tyro

from dino_infer.cli.options import VectorName, check_positive
from dino_infer.cli.protocols.labelled import LabelledOptions, NetworkOptions, labelled_sides
from dino_infer.cli.protocols.shared import ReportOptions, show

if TYPE_CHECKING:
    from dino_infer.evaluate.reports.result import Result


def linear(
    *,
    images: tyro.conf.OmitArgPrefixes[LabelledOptions],
    feature: VectorName = None,
    lr: tuple[float, ...] = (),
    epochs: int = 100,
    tries: int | None = None,
    report: tyro.conf.OmitArgPrefixes[ReportOptions] = ReportOptions(),  # noqa: B008
    network: tyro.conf.OmitArgPrefixes[NetworkOptions] = NetworkOptions(),  # noqa: B008
) -> int:
    """Train a linear classifier on frozen features, and classify images with it.

    Features are embedded once. A grid of learning rates is trained at once on nine tenths of the
    training images; the best on the rest trains on all. Prints top-1 and top-5 in percent. A report
    also holds the classifier, head.safetensors, which dino-serve and dino-demo take.

    Args:
        images: Images and their labels.
        feature: Feature that is classified; by default the [CLS] tokens of the last 4 blocks, from
            ViT-B on last1+mean, of a convnet its pooled features.
        lr: Learning rates for a batch of 256, to choose from; by default 12 from 1e-4 to 0.5.
        epochs: Passes over the training images.
        tries: Number of trainings from other initial weights, for the spread; by default 3.
        report: Report, floors and repeatability.
        network: Network that embeds folders of images.
    """
    for rate in lr:
        check_positive("--lr", rate)
    check_positive("--epochs", epochs)
    check_positive("--tries", tries)
    from dino_infer.devices import resolved_device
    from dino_infer.evaluate.linear import LRS, TRIES, measure_linear

    device = resolved_device(network.compute.device)

    def measure() -> "Result":
        sides = labelled_sides(
            images.train, images.val, labels=images, network=network, report=report,
            feature=feature, default=None,
        )  # fmt: skip
        return measure_linear(
            sides,
            lrs=lr or LRS,
            epochs=epochs,
            tries=tries or TRIES,
            seed=report.seed,
            device=device,
        )

    return show(measure, report, tables=["learning_rates"])
