"""dino-eval copy-detection."""

import tyro

from dino_infer.cli.options import ComputeOptions, LimitOptions, WeightOptions, check_positive
from dino_infer.cli.protocols.shared import ReportOptions, load, open_report


def copy_detection(
    *,
    data: str,
    distractors: str | None = None,
    whiten_on: str | None = None,
    background: str | None = None,
    components: int | None = None,
    size: int = 320,
    report: tyro.conf.OmitArgPrefixes[ReportOptions] = ReportOptions(),  # noqa: B008
    weights: tyro.conf.OmitArgPrefixes[WeightOptions] = WeightOptions(),  # noqa: B008
    compute: tyro.conf.OmitArgPrefixes[ComputeOptions] = ComputeOptions(),  # noqa: B008
    limits: tyro.conf.OmitArgPrefixes[LimitOptions] = LimitOptions(),  # noqa: B008
) -> int:
    """Find the originals of altered copies.

    Prints mAP, μAP, accuracy@1 and recall at precision 90 of the features as they are and whitened,
    and a line for each transform. With -o it also writes transforms.csv and hardest.png.

    Args:
        data: Folder of original/ and query/ with copies.csv (query,original[,transform]), of
            original/ and a folder for each transform, or such a CSV file.
        distractors: More images of the database, copies of none.
        whiten_on: Images to fit the whitening on; by default those of --background, else of
            --distractors, else the originals.
        background: Images that are neither queries nor in the database, to normalise scores by; by
            default scores are not normalised.
        components: Most directions that whitening keeps; by default all that its images span.
        size: Side in pixels of the square that images are squeezed to.
        report: Report, floors and repeatability.
        weights: Weights of the network; by default timm:vit_small_patch16_224.dino.
        compute: Execution of the network.
        limits: Limits of images.
    """
    check_positive("--components", components)
    check_positive("--size", size)
    from dino_infer.evaluate.contestants import with_pixels
    from dino_infer.evaluate.copy_detection import measure_copy_detection
    from dino_infer.evaluate.data.copies import read_copies
    from dino_infer.sources.image_list import list_images

    with open_report(report, tables=["transforms"]) as answer:
        copies = read_copies(data)
        sources = {"distractors": distractors, "whiten_on": whiten_on, "background": background}
        more = {name: list_images([source]) for name, source in sources.items() if source}
        contestants = with_pixels(load(weights, compute, limits, report))
        answer.result = measure_copy_detection(
            contestants, copies, **more, components=components, size=size
        )
    return answer.code
