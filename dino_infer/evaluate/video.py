"""Objects of a video's first frame followed by the similarity of patches, as on DAVIS 2017."""

import dataclasses
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from dino_infer.attention.grids import check_has_attention
from dino_infer.errors import DataError, ImageError
from dino_infer.evaluate.contestants import MODEL, Network
from dino_infer.evaluate.data.frames import Video, Videos
from dino_infer.evaluate.following import PUBLISHED, Following, follow_objects
from dino_infer.evaluate.measures.video import boundary_accuracy, course, region_similarity
from dino_infer.evaluate.reports.mask_sheets import (
    label_sheet,
    labelled_picture,
    write_palette_mask,
)
from dino_infer.evaluate.reports.result import Figures, Result, Table
from dino_infer.images.read import load_image
from dino_infer.progress import Progress
from dino_infer.weights.checkpoints import weights_sha256

FIRST_COPIED, PREVIOUS_COPIED = "first mask copied", "previous mask copied"
FRAMES_SHOWN, VIDEOS_SHOWN = 6, 8
COLUMNS = tuple(
    f"{measure}{part}_percent" for measure in "jf" for part in ("", "_recall", "_decay")
)

Mask = UInt8[np.ndarray, "height width"]
Scores = Float[np.ndarray, "frames objects 2"]

logger = logging.getLogger(__name__)


def measure_video(
    networks: Sequence[Network],
    videos: Videos,
    *,
    following: Following = PUBLISHED,
    masks: Path | None = None,
) -> Result:
    """J and F of masks that follow the objects of the first frames.

    Args:
        networks: Vision Transformers: the model and, if floors are wanted, its untrained twin.
        videos: Videos as ``video_sequences`` reads them. Those with no mask but the first are
            followed and not scored.
        following: Settings of the protocol.
        masks: Folder for the model's masks: ``VIDEO/FRAME.png`` with a palette; None writes none.

    Returns:
        ``jf_percent``, the mean of ``j_percent`` and ``f_percent``, with recalls and decays, for
        each network, for the first mask kept in all frames, and for the true mask of the frame
        before; table ``objects`` and picture ``masks``. No figures where nothing is scored.

    Raises:
        DataError: No video can be followed to its end.
        CheckpointError: A network is no Vision Transformer.
        ValueError: A setting is out of range.

    Source: https://arxiv.org/abs/2104.14294, section 4.2.2 and table 5.
    """
    for network in networks:
        check_has_attention(network.backbone)
    runs, failures = [], []
    total = sum(
        len(video.frames) * (len(networks) if video.scored else 1) for video in videos.videos
    )
    with Progress("video", total=total) as progress:
        for video in videos.videos:
            try:
                runs.append(_run(networks, video, following, masks=masks, progress=progress))
            except ImageError as error:
                failures.append(f"video {video.name!r}: {error}")
                if masks is not None:
                    shutil.rmtree(masks / video.name, ignore_errors=True)
    if not runs:
        raise DataError(f"{videos.source!r} has no video that can be followed: {failures[0]}")
    names = list(dict.fromkeys(name for run in runs for name in run.scores))
    if not names:
        logger.info("nothing is scored: only the first frames have masks")
    figures = [_figures(name, runs) for name in names] or [Figures(of=MODEL, values={})]
    return Result(
        protocol="video",
        headline="jf_percent",
        figures=figures,
        settings={
            **dataclasses.asdict(following),
            "arch": networks[0].backbone.arch,
            "patch_size": networks[0].backbone.patch_size,
            "weights_sha256": weights_sha256(networks[0].backbone),
        },
        data={
            "source": videos.source,
            "videos": len(runs),
            "scored_videos": sum(bool(run.video.scored) for run in runs),
            "objects": sum(len(run.video.objects) for run in runs),
            "frames": sum(len(run.video.frames) for run in runs),
            "scored_frames": sum(len(run.video.scored) for run in runs),
        },
        images=videos.requested,
        failed=len(failures),
        excluded=(*videos.excluded, *failures),
        tables={"objects": _object_table(names, runs)},
        pictures={"masks": _sheet(runs)},
    )


@dataclass
class _Run:
    """Outcome of one video."""

    video: Video
    scores: dict[str, Scores] = field(default_factory=dict)
    """J and F of each scored frame and object by contestant."""
    shown: dict[int, Mask] = field(default_factory=dict)
    """Masks of the model in some frames, for the sheet."""

    @property
    def headline(self) -> float:
        """J&F of the model."""
        return float(self.scores[MODEL].mean()) if MODEL in self.scores else 0.0


def _run(
    networks: Sequence[Network],
    video: Video,
    following: Following,
    *,
    masks: Path | None,
    progress: Progress,
) -> _Run:
    run = _Run(video)
    shown = set(np.linspace(0, len(video.frames) - 1, FRAMES_SHOWN).round().astype(int).tolist())
    for network in networks if video.scored else networks[:1]:
        found: list[Float[np.ndarray, "objects 2"]] = []
        for i, mask in enumerate(_all_masks(network, video, following)):
            if network is networks[0]:
                if masks is not None:
                    write_palette_mask(masks / video.name / f"{video.frames[i].stem}.png", mask)
                if i in shown:
                    run.shown[i] = mask
            if i in video.scored and (truth := video.mask(i)) is not None:
                found.append(mask_scores(truth, mask, video.objects, void=video.void(truth)))
            progress.advance(1)
        if found:
            run.scores[network.name] = np.stack(found)
    if len(networks) > 1 and video.scored:
        run.scores |= _copied(video)
    return run


def _all_masks(network: Network, video: Video, following: Following) -> Iterator[Mask]:
    first = video.mask(0)
    if first is not None:
        yield first
    yield from follow_objects(network, video, following=following)


def _copied(video: Video) -> dict[str, Scores]:
    """Scores of the answers without a network."""
    copies: dict[str, Mask] = {}
    scores: dict[str, list[Float[np.ndarray, "objects 2"]]] = {}
    for i in range(len(video.frames)):
        truth = video.mask(i)
        if truth is None:
            continue
        for name, copy in copies.items() if i in video.scored else ():
            found = mask_scores(truth, copy, video.objects, void=video.void(truth))
            scores.setdefault(name, []).append(found)
        copies = {FIRST_COPIED: copies.get(FIRST_COPIED, truth), PREVIOUS_COPIED: truth}
    return {name: np.stack(frames) for name, frames in scores.items()}


def mask_scores(
    truth: Mask,
    found: Mask,
    objects: Sequence[int],
    *,
    void: Bool[np.ndarray, "height width"] | None = None,
) -> Float[np.ndarray, "objects 2"]:
    """J and F of each object in one frame, from 0 to 1.

    Args:
        truth: True label of each pixel.
        found: Label that was found.
        objects: Labels to measure.
        void: Pixels that do not count.
    """
    measures = (region_similarity, boundary_accuracy)
    return np.array(
        [
            [measure(truth == label, found == label, void=void) for measure in measures]
            for label in objects
        ]
    )


def object_figures(scores: Float[np.ndarray, "frames 2"]) -> dict[str, float]:
    """Mean, recall and decay of J and F of one object, in percent."""
    courses = (course(scores[:, 0].tolist()), course(scores[:, 1].tolist()))
    return dict(zip(COLUMNS, (100 * value for one in courses for value in one), strict=True))


def _figures(name: str, runs: Sequence[_Run]) -> Figures:
    """Means over all objects of all videos, each of the same weight."""
    rows = [figures for *_, figures in _objects_of(name, runs)]
    values = {key: float(np.mean([row[key] for row in rows])) for key in COLUMNS}
    both = (values["j_percent"] + values["f_percent"]) / 2
    return Figures(of=name, values={"jf_percent": both, **values})


def _objects_of(
    name: str, runs: Sequence[_Run]
) -> Iterator[tuple[Video, int, Mapping[str, float]]]:
    for run in runs:
        if name not in run.scores:
            continue
        for i, label in enumerate(run.video.objects):
            yield run.video, label, object_figures(run.scores[name][:, i])


def _object_table(names: Sequence[str], runs: Sequence[_Run]) -> Table:
    rows = [
        [name, video.name, label, len(video.scored), *figures.values()]
        for name in names
        for video, label, figures in _objects_of(name, runs)
    ]
    return Table(("of", "video", "object", "frames", *COLUMNS), rows)


def _sheet(runs: Sequence[_Run]) -> Image.Image:
    """Frames of the videos with the model's masks, and with the true ones below: best and worst."""
    ranked = sorted(runs, key=lambda run: -run.headline)
    if len(ranked) > VIDEOS_SHOWN:
        ranked = ranked[: VIDEOS_SHOWN // 2] + ranked[-VIDEOS_SHOWN // 2 :]
    rows = []
    for run in ranked:
        frames = {i: load_image(run.video.frames[i]) for i in sorted(run.shown)}
        titles = [run.video.frames[i].stem for i in frames]
        titles[0] = f"{run.video.name} {titles[0]}"
        rows.append((titles, [labelled_picture(frames[i], run.shown[i]) for i in frames]))
        true = {i: mask for i in frames if (mask := run.video.mask(i)) is not None}
        if run.video.scored:
            titles = ["true masks", *[""] * (len(true) - 1)]
            rows.append((titles, [labelled_picture(frames[i], true[i]) for i in true]))
    return label_sheet(rows)
