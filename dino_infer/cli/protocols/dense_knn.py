"""dino-eval dense-knn."""

import tyro

from dino_infer.cli.exit_codes import UsageError
from dino_infer.cli.options import ComputeOptions, LimitOptions, WeightOptions
from dino_infer.cli.protocols.mask_options import MaskOptions
from dino_infer.cli.protocols.shared import ReportOptions, load, open_report


def dense_knn(
    *,
    data: str,
    val: str | None = None,
    train_split: str | None = None,
    size: int = 512,
    k: int = 30,
    temperature: float = 0.02,
    memory_size: int = 102_400,
    subsets: tuple[int, ...] = (1,),
    truth: tyro.conf.OmitArgPrefixes[MaskOptions] = MaskOptions(),  # noqa: B008
    report: tyro.conf.OmitArgPrefixes[ReportOptions] = ReportOptions(),  # noqa: B008
    weights: tyro.conf.OmitArgPrefixes[WeightOptions] = WeightOptions(),  # noqa: B008
    compute: tyro.conf.OmitArgPrefixes[ComputeOptions] = ComputeOptions(),  # noqa: B008
    limits: tyro.conf.OmitArgPrefixes[LimitOptions] = LimitOptions(),  # noqa: B008
) -> int:
    """Classify pixels by the nearest patches of other images (HummingBird).

    Prints the mean Jaccard index in percent over classes, and that of a logistic regression on
    patches. With -o it also writes images.csv, classes.csv, and sheet.png with the best and worst
    images.

    Args:
        data: Folder with the folders images and masks, or in the layout of PASCAL VOC; with
            --masks, the images. Without --val and the lists of VOC it is parted in halves.
        val: Folder of images to segment, in the same layouts.
        train_split: List of the images to learn from in the layout of PASCAL VOC; by default
            train.
        size: Side in pixels of the square that images are squeezed into.
        k: Number of neighbours.
        temperature: Temperature of the attention over neighbours; lower gives the nearest more
            weight.
        memory_size: Largest number of patches to learn from.
        subsets: Shares of the images to learn from: 8 takes one of 8.
        truth: Reading of ground-truth masks.
        report: Report, floors and repeatability.
        weights: Weights of a Vision Transformer; by default timm:vit_small_patch16_224.dino.
        compute: Execution of the network, and device of the search.
        limits: Limits of images.
    """
    from dino_infer.evaluate.data.mask_sets import mask_sets
    from dino_infer.evaluate.dense_knn import DenseOptions, measure_dense_knn

    if val is not None and truth.masks is not None:
        raise UsageError("--masks is for one folder of images; with --val, put the masks beside")
    try:
        options = DenseOptions(
            size=size,
            k=k,
            temperature=temperature,
            memory_size=memory_size,
            subsets=subsets,
            seed=report.seed,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error

    with open_report(report) as answer:
        networks = load(weights, compute, limits, report, size=size)
        sets = mask_sets(
            data, val=val, train_split=train_split, seed=report.seed, **truth.keywords()
        )
        answer.result = measure_dense_knn(networks, sets, options=options)
    return answer.code
