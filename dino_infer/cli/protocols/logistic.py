"""dino-eval logistic and few-shot."""

import tyro

from dino_infer.cli.exit_codes import UsageError
from dino_infer.cli.options import VectorName, check_positive
from dino_infer.cli.protocols.labelled import LabelledOptions, NetworkOptions, labelled_sides
from dino_infer.cli.protocols.shared import ReportOptions, open_report


def logistic(
    *,
    images: tyro.conf.OmitArgPrefixes[LabelledOptions],
    feature: VectorName = None,
    report: tyro.conf.OmitArgPrefixes[ReportOptions] = ReportOptions(),  # noqa: B008
    network: tyro.conf.OmitArgPrefixes[NetworkOptions] = NetworkOptions(),  # noqa: B008
) -> int:
    """Classify images by L2-regularised logistic regression on frozen features.

    The strength of the regularisation is chosen on a tenth of the training images; the regression
    is then solved with all of them. Prints top-1 and top-5 in percent. A report also holds the
    classifier, head.safetensors, which dino-serve and dino-demo take. Needs scikit-learn.

    Args:
        images: Images and their labels.
        feature: Feature that is classified; by default cls.
        report: Report, floors and repeatability.
        network: Network that embeds folders of images.
    """
    from dino_infer.evaluate.logistic import measure_logistic

    with open_report(report) as answer:
        sides = labelled_sides(
            images.train, images.val, labels=images, network=network, report=report,
            feature=feature,
        )  # fmt: skip
        answer.result = measure_logistic(sides, seed=report.seed)
    return answer.code


def few_shot(
    *,
    images: tyro.conf.OmitArgPrefixes[LabelledOptions],
    n_per_class: tuple[int, ...] = (1, 2, 5, 10),
    tries: int = 5,
    feature: VectorName = None,
    report: tyro.conf.OmitArgPrefixes[ReportOptions] = ReportOptions(),  # noqa: B008
    network: tyro.conf.OmitArgPrefixes[NetworkOptions] = NetworkOptions(),  # noqa: B008
) -> int:
    """Classify images with a few training images a class, drawn again and again.

    Prints top-1 in percent of logistic regression, of the nearest class mean and of the vote of the
    20 nearest images, with the standard deviation over the draws. Needs scikit-learn.

    Args:
        images: Images and their labels.
        n_per_class: Numbers of training images a class.
        tries: Number of random draws of those images.
        feature: Feature that is classified; by default cls.
        report: Report, floors and repeatability.
        network: Network that embeds folders of images.
    """
    if not n_per_class:
        raise UsageError("--n-per-class needs at least one number")
    for count in n_per_class:
        check_positive("--n-per-class", count)
    if tries < 2:
        raise UsageError(f"--tries must be at least 2 to tell a spread, got {tries}")
    from dino_infer.devices import resolved_device
    from dino_infer.evaluate.few_shot import measure_few_shot

    device = resolved_device(network.compute.device)

    with open_report(report) as answer:
        sides = labelled_sides(
            images.train, images.val, labels=images, network=network, report=report,
            feature=feature,
        )  # fmt: skip
        answer.result = measure_few_shot(
            sides, n_per_class=n_per_class, tries=tries, seed=report.seed, device=device
        )
    return answer.code
