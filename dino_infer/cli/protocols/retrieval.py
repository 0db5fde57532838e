"""dino-eval retrieval."""

from pathlib import Path

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


def retrieval(
    *,
    data: str,
    queries: str | None = None,
    multiscale: tyro.conf.FlagCreatePairsOff[bool] = False,
    report: tyro.conf.OmitArgPrefixes[ReportOptions] = ReportOptions(),  # noqa: B008
    weights: tyro.conf.OmitArgPrefixes[WeightOptions] = WeightOptions(),  # noqa: B008
    compute: tyro.conf.OmitArgPrefixes[ComputeOptions] = ComputeOptions(),  # noqa: B008
    tables: tyro.conf.OmitArgPrefixes[TableOptions] = TableOptions(),  # noqa: B008
    view: tyro.conf.OmitArgPrefixes[CropOptions] = CropOptions(),  # noqa: B008
    limits: tyro.conf.OmitArgPrefixes[LimitOptions] = LimitOptions(),  # noqa: B008
) -> int:
    """Find images of the class, or of the landmark, of a query.

    Prints mAP and R@1, R@5 and R@10 of labelled images, or mAP and mP@1, 5 and 10 of the easy,
    medium and hard setup of revisited Oxford and Paris. With -o it also writes nearest.png.

    Args:
        data: Images in class folders, each looked up among the others; or a folder with
            gnd_NAME.pkl or gnd_NAME.json of revisited Oxford or Paris, and the photos in jpg/.
        queries: Images in class folders to look up in those of --data.
        multiscale: Average the features of each image at scales 1, 0.71 and 0.5.
        report: Report, floors and repeatability.
        weights: Weights of the network; by default timm:vit_small_patch16_224.dino.
        compute: Execution of the network.
        tables: Reading of image tables.
        view: Part and size of an image that the network sees; of landmarks all of it, with 224
            pixels of the longer side by default.
        limits: Limits of images.
    """
    from dino_infer.embedding.multiscale import SCALES
    from dino_infer.evaluate.contestants import with_pixels
    from dino_infer.evaluate.data.labelled import labelled_images
    from dino_infer.evaluate.data.revisited import ground_truth_in, read_revisited
    from dino_infer.evaluate.retrieval.classes import measure_retrieval
    from dino_infer.evaluate.retrieval.revisited import SIZE, measure_revisited

    scales = SCALES if multiscale else (1.0,)
    ground_truth = ground_truth_in(data) if Path(data).is_dir() else None
    if ground_truth is not None and (queries is not None or view.crop == "center"):
        raise UsageError(
            f"{ground_truth.name} names the queries, and its images are seen whole: leave "
            "--queries and --crop center away"
        )

    with open_report(report) as answer:
        if ground_truth is not None:
            landmarks = read_revisited(ground_truth)
            contestants = with_pixels(load(weights, compute, limits, report))
            answer.result = measure_revisited(
                contestants, landmarks, size=view.size or SIZE, scales=scales
            )
        else:
            sides = [
                labelled_images(source, image_column=tables.image_column)
                for source in (data, queries)
                if source is not None
            ]
            answer.result = measure_retrieval(
                with_pixels(load(weights, compute, limits, report)),
                *sides,
                size=view.size,
                crop=view.crop or "center",
                scales=scales,
            )
    return answer.code
