"""dino-eval objects."""

from pathlib import Path

import tyro

from dino_infer.cli.exit_codes import UsageError
from dino_infer.cli.options import ComputeOptions, LimitOptions, WeightOptions, check_positive
from dino_infer.cli.protocols.mask_options import MaskOptions
from dino_infer.cli.protocols.shared import ReportOptions, check_plain, load, open_report


def objects(
    *,
    data: str,
    boxes: Path | None = None,
    size: int = 480,
    truth: tyro.conf.OmitArgPrefixes[MaskOptions] = MaskOptions(),  # noqa: B008
    report: tyro.conf.OmitArgPrefixes[ReportOptions] = ReportOptions(),  # noqa: B008
    weights: tyro.conf.OmitArgPrefixes[WeightOptions] = WeightOptions(),  # noqa: B008
    compute: tyro.conf.OmitArgPrefixes[ComputeOptions] = ComputeOptions(),  # noqa: B008
) -> int:
    """Compare objects found without labels with annotated ones.

    Finds objects by TokenCut, LOST and MaskCut in the keys of the last block, and by [CLS]
    attention. Prints of each method, in percent, the intersection over union, F-measure and
    accuracy of its mask, and CorLoc of its box. With -o it also writes images.csv, and sheet.png
    with the best and worst images.

    Args:
        data: Folder with the folders images and masks, or in the layout of PASCAL VOC; with
            --masks or --boxes, the images.
        boxes: Folder of PASCAL VOC annotations (.xml), named as the images but for the suffix;
            CorLoc alone is measured. By default boxes are those around the objects of the masks.
        size: Shorter side in pixels that images are resized to; all of each image is shown.
        truth: Reading of ground-truth masks.
        report: Report, floors and repeatability.
        weights: Weights of a Vision Transformer; by default timm:vit_small_patch16_224.dino.
        compute: Execution of the network, which sees one image at a time, in fp32.
    """
    check_positive("--size", size)
    check_plain(compute)
    if boxes is not None and truth != MaskOptions():
        raise UsageError("--masks, --split and --levels are for masks; leave them out with --boxes")
    from dino_infer.evaluate.data.annotated import with_mask_boxes, with_voc_boxes
    from dino_infer.evaluate.data.masks import masked_images
    from dino_infer.evaluate.objects import measure_objects

    with open_report(report) as answer:
        networks = load(weights, compute, LimitOptions(), report, size=size)
        if boxes is not None:
            images = with_voc_boxes(data, boxes)
        else:
            images = with_mask_boxes(masked_images(data, **truth.keywords()))
        answer.result = measure_objects(networks, images, size=size)
    return answer.code
