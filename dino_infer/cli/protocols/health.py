"""dino-eval health."""

import tyro

from dino_infer.cli.exit_codes import UsageError
from dino_infer.cli.options import (
    ComputeOptions,
    CropOptions,
    LimitOptions,
    TableOptions,
    WeightOptions,
)
from dino_infer.cli.protocols.shared import ReportOptions, load, open_report


def health(
    *,
    data: str,
    views: int = 10,
    view_images: int = 1000,
    report: tyro.conf.OmitArgPrefixes[ReportOptions] = ReportOptions(),  # noqa: B008
    weights: tyro.conf.OmitArgPrefixes[WeightOptions] = WeightOptions(),  # noqa: B008
    compute: tyro.conf.OmitArgPrefixes[ComputeOptions] = ComputeOptions(),  # noqa: B008
    tables: tyro.conf.OmitArgPrefixes[TableOptions] = TableOptions(),  # noqa: B008
    view: tyro.conf.OmitArgPrefixes[CropOptions] = CropOptions(),  # noqa: B008
    limits: tyro.conf.OmitArgPrefixes[LimitOptions] = LimitOptions(),  # noqa: B008
) -> int:
    """Tell without labels how many directions the features of images use.

    Prints RankMe, LiDAR, the spread of the features and, where the weights hold a projection head,
    the share of its prototypes that are no copies. With -o it also writes spectrum.csv and
    spectrum.png, the singular values of the features.

    Args:
        data: Images in any form that dino-embed takes.
        views: Number of random views of each image for LiDAR; 0 leaves it out.
        view_images: Number of images that views are made of, drawn by --seed.
        report: Report, floors and repeatability.
        weights: Weights of a network; by default timm:vit_small_patch16_224.dino.
        compute: Execution of the network.
        tables: Reading of image tables.
        view: Part and size of an image that the network sees.
        limits: Limits of images.
    """
    if views < 0 or views == 1:
        raise UsageError(f"--views must be 0 or at least 2, got {views}")
    if view_images < 2:
        raise UsageError(f"--view-images must be at least 2, got {view_images}")
    from dino_infer.evaluate.contestants import with_pixels
    from dino_infer.evaluate.health import measure_health, prototypes_of
    from dino_infer.sources.image_list import list_images

    with open_report(report) as answer:
        networks = load(weights, compute, limits, report)
        answer.result = measure_health(
            with_pixels(networks),
            list_images([data], image_column=tables.image_column),
            source=data,
            size=view.size,
            crop=view.crop or "center",
            views=views,
            view_images=view_images,
            seed=report.seed,
            prototypes=prototypes_of(networks[0]),
        )
    return answer.code
