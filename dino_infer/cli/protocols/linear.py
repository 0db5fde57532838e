"""dino-eval linear."""

import math

import tyro

from dino_infer.cli.exit_codes import UsageError, usage_errors
from dino_infer.cli.options import VectorName, check_positive
from dino_infer.cli.protocols.labelled import LabelledOptions, NetworkOptions, labelled_sides
from dino_infer.cli.protocols.shared import ReportOptions, load, open_report


def linear(
    *,
    images: tyro.conf.OmitArgPrefixes[LabelledOptions],
    feature: VectorName = None,
    lr: tuple[float, ...] = (),
    epochs: int = 100,
    tries: int | None = None,
    random_crops: tyro.conf.FlagCreatePairsOff[bool] = False,
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
        random_crops: Train as the original does, on random crops that are embedded anew in every
            epoch, with one learning rate (by default 0.001); this takes hours on a CPU.
        report: Report, floors and repeatability.
        network: Network that embeds folders of images.
    """
    for rate in lr:
        check_positive("--lr", rate)
        if math.isinf(rate):
            raise UsageError("--lr must be finite, got inf")
    check_positive("--epochs", epochs)
    check_positive("--tries", tries)
    if random_crops:
        return _on_random_crops(images, feature, lr, epochs, tries, report, network)
    from dino_infer.devices import resolved_device
    from dino_infer.evaluate.linear import LRS, TRIES, measure_linear

    device = resolved_device(network.compute.device)

    with open_report(report, tables=["learning_rates"]) as answer:
        sides = labelled_sides(
            images.train, images.val, labels=images, network=network, report=report,
            feature=feature, default=None,
        )  # fmt: skip
        answer.result = measure_linear(
            sides,
            lrs=lr or LRS,
            epochs=epochs,
            tries=tries or TRIES,
            seed=report.seed,
            device=device,
        )
    return answer.code


def _on_random_crops(
    images: LabelledOptions,
    feature: str | None,
    lr: tuple[float, ...],
    epochs: int,
    tries: int | None,
    report: ReportOptions,
    network: NetworkOptions,
) -> int:
    if len(lr) > 1 or tries is not None or network.view.crop is not None:
        raise UsageError("--random-crops takes one --lr, and neither --tries nor --crop")
    from dino_infer.evaluate.data.labelled import is_feature_file, labelled_images
    from dino_infer.evaluate.random_crops import LR, measure_random_crops

    if is_feature_file(images.train) or is_feature_file(images.val):
        raise UsageError("--random-crops needs images, not feature files")

    with open_report(report) as answer:
        networks = load(network.weights, network.compute, network.limits, report)
        train, val = (
            labelled_images(source, label_file=labels, image_column=network.tables.image_column)
            for source, labels in (
                (images.train, images.train_labels),
                (images.val, images.val_labels),
            )
        )
        with usage_errors():
            answer.result = measure_random_crops(
                networks, train, val, feature=feature, size=network.view.size,
                lr=lr[0] if lr else LR, epochs=epochs, seed=report.seed,
            )  # fmt: skip
    return answer.code
