"""Jaccard index of [CLS] attention: how well the masks of the heads lie on annotated objects.

Three masks of an image are compared with each of its objects: that of the best head, an oracle
because only the ground truth tells which head it is; that of the mean of all heads; and that of the
head that is best on all other images.

Source: https://arxiv.org/abs/2104.14294, section 4.2.2 and figure 4, which tells the best head.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64, Int32, Int64, UInt8

from dino_infer.attention.grids import check_patch_fits
from dino_infer.attention.maps import MASS, attention_maps, grid_masks
from dino_infer.attention.views import check_patches
from dino_infer.drawing.overlays import mask_overlay
from dino_infer.errors import DataError, ImageError
from dino_infer.evaluate.contestants import Network
from dino_infer.evaluate.data.masks import MaskedImages
from dino_infer.evaluate.measures.attention_masks import (
    MaskScores,
    heads_of_others,
    mask_scores,
    with_mean,
)
from dino_infer.evaluate.measures.overlaps import (
    ELLIPSE,
    centred_ellipse,
    counts,
    overlaps,
    patch_of_pixels,
)
from dino_infer.evaluate.reports.mask_pictures import (
    Curve,
    Panels,
    best_and_worst,
    mask_curves,
    mask_sheet,
)
from dino_infer.evaluate.reports.result import Result, Table, mean_figures
from dino_infer.progress import Progress

SIZE = 480
FRAME = "whole frame"
CHOSEN, MEAN, BEST = "iou_chosen_head_percent", "iou_mean_head_percent", "iou_best_head_percent"
MASSES = tuple(round(0.05 * i, 2) for i in range(1, 21))

logger = logging.getLogger(__name__)


@dataclass
class _Scores:
    """Scores of one network, filled image by image."""

    network: Network
    masses: Sequence[float]
    at: int
    """Position in ``masses`` of the one that figures are told for."""
    images: list[MaskScores] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """Names of the masks."""
        heads = len(self.images[0].iou[0]) - 1
        return [*(str(head) for head in range(heads)), "mean"]

    @property
    def iou(self) -> Float64[np.ndarray, "images masks"]:
        return np.stack([one.iou[self.at] for one in self.images])

    @property
    def chosen(self) -> Int64[np.ndarray, " images"]:
        """The head that was chosen on the other images; the mean head if there are none."""
        return heads_of_others(self.iou[:, : -1 if len(self.images) > 1 else None])

    def columns(self) -> dict[str, Float64[np.ndarray, " images"]]:
        """Jaccard index of each image in percent, by the name of the figure."""
        iou = self.iou
        return {
            CHOSEN: 100 * np.take_along_axis(iou, self.chosen[:, None], axis=1)[:, 0],
            MEAN: 100 * iou[:, -1],
            BEST: 100 * np.array([one.best[self.at] for one in self.images]),
        }

    def curve(self, label: str, masks: Int64[np.ndarray, " images"]) -> Curve:
        """Means over the images of one mask each, at every mass."""
        pairs = list(zip(self.images, masks.tolist(), strict=True))
        return Curve(
            label=f"{self.network.name}, {label}",
            masses=np.array(self.masses),
            precision=np.mean([one.precision[:, mask] for one, mask in pairs], axis=0),
            recall=np.mean([one.recall[:, mask] for one, mask in pairs], axis=0),
            iou=np.mean([one.iou[:, mask] for one, mask in pairs], axis=0),
            marked=self.at,
        )


def measure_segmentation(
    networks: Sequence[Network], data: MaskedImages, *, size: int = SIZE, mass: float = MASS
) -> Result:
    """Jaccard index of [CLS] attention masks with the annotated objects of images.

    Args:
        networks: Vision Transformers: the one to measure, and with floors its untrained twin.
        data: Images with masks of their objects.
        size: Shorter side in pixels that images are resized to; all of each image is shown.
        mass: Share of the attention that the masks keep, in (0, 1].

    Returns:
        Means over images of means over objects, with the standard error over images.

    Raises:
        CheckpointError: A network has no [CLS] attention.
        DataError: No image can be read.
        ValueError: ``size`` or ``mass`` is out of range.
    """
    check_patch_fits(networks[0].backbone, size)
    if not 0 < mass <= 1:
        raise ValueError(f"mass must lie in (0, 1], got {mass}")
    masses = sorted({*MASSES, mass})
    scores = [_Scores(network, masses, masses.index(mass)) for network in networks]
    frames: list[tuple[float, float]] = []
    kept: list[int] = []
    with Progress("segmentation", total=len(data)) as progress:
        for i in range(len(data)):
            progress.advance(1)
            try:
                picture, labels = data.picture(i), data.object_labels(i)
                check_patches(networks[0].whole_view(picture, size), path=data.images.location(i))
                found = [_scores(one, picture, labels, size, masses) for one in networks]
            except ImageError as error:
                logger.warning("%s", error)
                continue
            kept.append(i)
            frames.append(_frame_scores(labels))
            for score, one in zip(scores, found, strict=True):
                score.images.append(one)
    if not kept:
        raise DataError(f"no image of {data.source!r} could be read")
    return _result(scores, frames, data, kept, size=size, mass=mass)


def _scores(
    network: Network,
    picture: UInt8[np.ndarray, "height width 3"],
    labels: Int32[np.ndarray, "height width"],
    size: int,
    masses: Sequence[float],
) -> MaskScores:
    view = network.whole_view(picture, size)
    preprocess = network.preprocess(size=size, crop="none")
    maps = attention_maps(picture, backbone=network.backbone, preprocess=preprocess)
    parts = patch_of_pixels(view, *labels.shape)
    truth = counts(labels, parts, parts_number=view.rows * view.columns)
    return mask_scores(maps.heads, truth, masses=masses)


def _frame_scores(labels: Int32[np.ndarray, "height width"]) -> tuple[float, float]:
    """Jaccard index of the centred ellipse, and of the whole frame."""
    inside = centred_ellipse(*labels.shape).astype(np.int64)
    truth = counts(labels, inside, parts_number=2)
    ellipse, frame = overlaps(np.array([[False, True], [True, True]]), truth).iou.mean(axis=1)
    return float(ellipse), float(frame)


def _result(
    scores: Sequence[_Scores],
    frames: Sequence[tuple[float, float]],
    data: MaskedImages,
    kept: Sequence[int],
    *,
    size: int,
    mass: float,
) -> Result:
    model = scores[0]
    columns = model.columns()
    figures = [mean_figures(one.network.name, one.columns()) for one in scores]
    curves = [
        one.curve(label, masks)
        for one in scores
        for label, masks in (
            ("chosen head", one.chosen),
            ("mean head", np.full(len(kept), -1)),
        )
    ]
    floors: dict[str, float] = {}
    if len(scores) > 1:
        for name, column in zip((ELLIPSE, FRAME), np.array(frames).T, strict=True):
            # A mask without heads is the same by any choice of them.
            figures.append(mean_figures(name, dict.fromkeys(columns, 100 * column)))
            floors[name] = float(column.mean())
    return Result(
        protocol="segmentation",
        headline=CHOSEN,
        figures=figures,
        settings={
            "size": size,
            "mass": mass,
            "chosen_head": "leave-one-out",
            "best_head": "oracle, for each object",
            "spread": "standard error of the mean over images",
        },
        data={"source": data.source, "levels": data.levels, "images": len(kept)},
        images=data.requested,
        failed=data.failed + len(data) - len(kept),
        excluded=data.excluded,
        tables={
            "images": _image_table(data, kept, model, columns),
            "heads": _head_table(model),
            "thresholds": _threshold_table(curves),
        },
        pictures={
            "precision_recall": mask_curves(curves, floors),
            "sheet": mask_sheet(
                _panels(model, data, kept, columns[CHOSEN], size), titles=("ground truth", "mask")
            ),
        },
    )


def _image_table(
    data: MaskedImages,
    kept: Sequence[int],
    model: _Scores,
    columns: Mapping[str, Float64[np.ndarray, " images"]],
) -> Table:
    heads = [model.names[head] for head in model.chosen.tolist()]
    values = np.stack(list(columns.values()), axis=1).round(2).tolist()
    rows = [[data.name(i), head, *row] for i, head, row in zip(kept, heads, values, strict=True)]
    return Table(["image", "chosen_head", *columns], rows)


def _head_table(model: _Scores) -> Table:
    means = (100 * model.iou.mean(axis=0)).round(2).tolist()
    chosen = np.bincount(model.chosen, minlength=len(means)).tolist()
    rows = list(zip(model.names, means, chosen, strict=True))
    return Table(["head", "iou_percent", "images_chosen_for"], rows)


def _threshold_table(curves: Sequence[Curve]) -> Table:
    columns = ["mask", "mass_percent", "precision_percent", "recall_percent", "iou_percent"]
    rows = [
        [curve.label, *(round(100 * float(value), 2) for value in values)]
        for curve in curves
        for values in zip(curve.masses, curve.precision, curve.recall, curve.iou, strict=True)
    ]
    return Table(columns, rows)


def _panels(
    model: _Scores,
    data: MaskedImages,
    kept: Sequence[int],
    iou: Float64[np.ndarray, " images"],
    size: int,
) -> Iterator[Panels]:
    """The best images and the worst, each with the mask of its chosen head."""
    chosen = model.chosen
    for place in best_and_worst(iou):
        i = kept[place]
        picture = data.picture(i)
        network = model.network
        preprocess = network.preprocess(size=size, crop="none")
        mass = model.masses[model.at]
        maps = attention_maps(picture, backbone=network.backbone, preprocess=preprocess, mass=mass)
        parts = patch_of_pixels(network.whole_view(picture, size), *picture.shape[:2])
        mask = grid_masks(with_mean(maps.heads)[chosen[place]], mass).ravel()[parts]
        yield Panels(
            title=f"{data.name(i)}: {iou[place]:.0f} %",
            pictures=[
                picture,
                mask_overlay(picture, data.object_labels(i) > 0),
                mask_overlay(picture, mask),
            ],
        )
