"""dino-eval segmentation."""

import tyro

from dino_infer.cli.exit_codes import UsageError
from dino_infer.cli.options import ComputeOptions, LimitOptions, WeightOptions, check_positive
from dino_infer.cli.protocols.mask_options import MaskOptions
from dino_infer.cli.protocols.shared import ReportOptions, check_plain, load, open_report


def segmentation(
    *,
    data: str,
    size: int = 480,
    mass: float = 0.6,
    truth: tyro.conf.OmitArgPrefixes[MaskOptions] = MaskOptions(),  # noqa: B008
    report: tyro.conf.OmitArgPrefixes[ReportOptions] = ReportOptions(),  # noqa: B008
    weights: tyro.conf.OmitArgPrefixes[WeightOptions] = WeightOptions(),  # noqa: B008
    compute: tyro.conf.OmitArgPrefixes[ComputeOptions] = ComputeOptions(),  # noqa: B008
) -> int:
    """Compare masks of [CLS] attention with annotated objects.

    Prints the Jaccard index in percent of the best head of each object (an oracle), of the mean
    head, and of the head that is best on all other images. With -o it also writes images.csv,
    heads.csv, thresholds.csv, precision_recall.png, and sheet.png with the best and worst images.

    Args:
        data: Folder with the folders images and masks, or in the layout of PASCAL VOC; with
            --masks, the images.
        size: Shorter side in pixels that images are resized to; all of each image is shown.
        mass: Share of the attention that the masks keep, above 0 and up to 1.
        truth: Reading of ground-truth masks.
        report: Report, floors and repeatability.
        weights: Weights of a Vision Transformer; by default timm:vit_small_patch16_224.dino.
        compute: Execution of the network, which sees one image at a time, in fp32.
    """
    check_positive("--size", size)
    check_plain(compute)
    if not 0 < mass <= 1:
        raise UsageError(f"--mass must lie above 0 and be at most 1, got {mass}")
    from dino_infer.evaluate.data.masks import masked_images
    from dino_infer.evaluate.segmentation import measure_segmentation

    with open_report(report) as answer:
        networks = load(weights, compute, LimitOptions(), report, size=size)
        images = masked_images(data, **truth.keywords())
        answer.result = measure_segmentation(networks, images, size=size, mass=mass)
    return answer.code
