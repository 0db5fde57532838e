"""dino-eval video."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from dino_infer.cli.exit_codes import UsageError
from dino_infer.cli.options import ComputeOptions, LimitOptions, WeightOptions, check_positive
from dino_infer.cli.protocols.shared import ReportOptions, load, open_report


@dataclass(frozen=True, kw_only=True)
class FollowingOptions:
    """Patches that a label may come from."""

    size: int = 480
    """Shorter side in pixels that frames are resized to."""
    last_frames: int = 7
    """Number of frames before the current one to look at, beside the first."""
    neighborhood: int = 12
    """Farthest row and column, in patches, that a label may come from."""
    top_k: int = 5
    """Number of patches whose labels are averaged."""

    def __post_init__(self) -> None:
        check_positive("--size", self.size)
        check_positive("--top-k", self.top_k)
        for flag, value in (
            ("--last-frames", self.last_frames),
            ("--neighborhood", self.neighborhood),
        ):
            if value < 0:
                raise UsageError(f"{flag} must not be negative, got {value}")

    def keywords(self) -> dict[str, Any]:
        """The fields of ``Following``."""
        return dict(vars(self))


def video(
    *,
    data: Path,
    list_file: Path | None = None,
    following: tyro.conf.OmitArgPrefixes[FollowingOptions] = FollowingOptions(),
    report: tyro.conf.OmitArgPrefixes[ReportOptions] = ReportOptions(),  # noqa: B008
    weights: tyro.conf.OmitArgPrefixes[WeightOptions] = WeightOptions(),  # noqa: B008
    compute: tyro.conf.OmitArgPrefixes[ComputeOptions] = ComputeOptions(),  # noqa: B008
    limits: tyro.conf.OmitArgPrefixes[LimitOptions] = LimitOptions(),  # noqa: B008
) -> int:
    """Follow objects of the first frame of videos, and score their masks as DAVIS 2017 does.

    Prints J and F in percent with their recalls and decays. With -o it also writes masks/ (a
    palette PNG for each frame), objects.csv, and masks.png with frames of the best and worst
    videos. Without masks of later frames it writes the masks alone.

    Args:
        data: Folder in the layout of DAVIS (JPEGImages and Annotations), or with the folders frames
            and masks of one video; a mask has the name of its frame.
        list_file: File with the names of the videos to use, one a line; by default
            ImageSets/2017/val.txt of the data, or all.
        following: Patches that a label may come from.
        report: Report, floors and repeatability.
        weights: Weights of a Vision Transformer; by default timm:vit_small_patch16_224.dino.
        compute: Execution of the network.
        limits: Limits of images.
    """
    from dino_infer.evaluate.data.frames import video_sequences
    from dino_infer.evaluate.following import Following
    from dino_infer.evaluate.video import measure_video

    with open_report(report, folders=["masks"]) as answer:
        networks = load(weights, compute, limits, report, size=following.size)
        videos = video_sequences(data, list_file=list_file)
        answer.result = measure_video(
            networks,
            videos,
            following=Following(**following.keywords()),
            masks=None if report.out is None else report.out / "masks",
        )
    return answer.code
