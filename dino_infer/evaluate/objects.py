"""Objects found without labels, against annotated masks and boxes."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, UInt8
from PIL import Image

from dino_infer.attention.boxes import Box, mask_boxes
from dino_infer.attention.grids import check_patch_fits
from dino_infer.attention.maps import MASS, attention_maps, grid_masks
from dino_infer.attention.views import View, check_patches
from dino_infer.choices import OBJECT_METHODS
from dino_infer.drawing.overlays import box_overlay, mask_overlay
from dino_infer.errors import DataError, ImageError
from dino_infer.evaluate.contestants import Network
from dino_infer.evaluate.data.annotated import AnnotatedImages, Truth
from dino_infer.evaluate.data.mask_files import VOID
from dino_infer.evaluate.measures.overlaps import ELLIPSE, centred_ellipse, patch_of_pixels
from dino_infer.evaluate.measures.regions import (
    box_overlaps,
    f_measures,
    intersection_over_union,
    is_located,
    located_share,
    pixel_accuracy,
)
from dino_infer.evaluate.reports.mask_pictures import Panels, best_and_worst, mask_sheet
from dino_infer.evaluate.reports.result import Result, Table, mean_figures
from dino_infer.objects.find import objects_in, patch_keys
from dino_infer.progress import Progress

SIZE = 480
ATTENTION = "attention"
METHODS = (ATTENTION, *OBJECT_METHODS)

logger = logging.getLogger(__name__)


class Answer(NamedTuple):
    """Objects of one image by one method, the most salient first."""

    mask: Bool[np.ndarray, "rows columns"]
    """The first object; empty where none was found."""
    boxes: list[Box]
    """The box of each object, in pixels of the image."""


class _Outcome(NamedTuple):
    """Answers and figures of one image."""

    place: int
    model: Mapping[str, Answer]
    """Answers of the network that is measured, by method."""
    rows: Mapping[str, Mapping[str, float]]
    """Figures by contestant and name."""
    order: float
    """Overlap of the model's TokenCut object with the ground truth, in percent."""


def measure_objects(
    networks: Sequence[Network], data: AnnotatedImages, *, size: int = SIZE
) -> Result:
    """Objects by TokenCut, LOST, MaskCut and [CLS] attention, against annotated ones.

    Of each method the first object's mask is compared with all annotated objects together:
    intersection over union, F-measure (beta squared 0.3; of masks the maximum over thresholds is
    the one value there is) and accuracy. Its box is located where it overlaps with an annotated one
    by half or more (CorLoc). For MaskCut it is told as well how many of the annotated objects its
    boxes are of.

    Args:
        networks: Vision Transformers: the one to measure, and with floors its untrained twin.
        data: Images with annotations; without masks there are boxes alone.
        size: Shorter side in pixels that images are resized to; all of each image is shown.

    Returns:
        Means over images, with the standard error over images.

    Raises:
        CheckpointError: A network has no [CLS] attention, or gives NaN.
        DataError: No image can be read.
        ValueError: ``size`` is below one patch.
    """
    check_patch_fits(networks[0].backbone, size)
    images: list[_Outcome] = []
    with Progress("objects", total=len(data.images)) as progress:
        for i in range(len(data.images)):
            progress.advance(1)
            try:
                images.append(_measured(networks, data, i, size))
            except ImageError as error:
                logger.warning("%s", error)
    if not images:
        raise DataError(f"no image of {data.source!r} could be read")
    return _result(networks, data, images, size)


def _measured(networks: Sequence[Network], data: AnnotatedImages, i: int, size: int) -> _Outcome:
    picture, truth = data.picture(i), data.truth_of(i)
    height, width = picture.shape[:2]
    view = networks[0].whole_view(picture, size)
    check_patches(view, path=data.images.location(i))
    patches = patch_of_pixels(view, height, width)
    rows, answers = {}, []
    for network in networks:
        found = answers_of(network, picture, view, size=size, path=data.images.location(i))
        answers.append(found)
        rows[network.name] = {
            name: value
            for method, one in found.items()
            for name, value in _scores(method, one.mask.ravel()[patches], one.boxes, truth)
        }
    if len(networks) > 1:
        rows[ELLIPSE] = _ellipse_scores(height, width, truth)
    first = rows[networks[0].name]
    overlaps = box_overlaps(_corners(answers[0]["tokencut"].boxes), truth.boxes)
    order = first.get("tokencut_iou_percent", 100 * float(overlaps.max(initial=0)))
    return _Outcome(i, answers[0], rows, order)


def answers_of(
    network: Network,
    picture: UInt8[np.ndarray, "height width 3"],
    view: View,
    *,
    size: int,
    path: str = "image",
) -> dict[str, Answer]:
    """The objects of an image by each of ``METHODS``.

    Args:
        network: A Vision Transformer.
        picture: The whole image.
        view: Patches of the image.
        size: Shorter side in pixels that it is resized to.
        path: Name of the image in errors.
    """
    preprocess = network.preprocess(size=size, crop="none")
    look: dict[str, Any] = {"backbone": network.backbone, "preprocess": preprocess, "path": path}
    keys = patch_keys(picture, **look).keys
    heads = attention_maps(picture, **look).heads.mean(axis=0)
    mask = grid_masks(heads, MASS)
    answers = {ATTENTION: Answer(mask, mask_boxes(heads, mask, view)[:1])}
    for method in OBJECT_METHODS:
        found = objects_in(keys, method)
        mask = found[0].mask if found else np.zeros_like(mask)
        answers[method] = Answer(mask, [one.box(view) for one in found])
    return answers


def _scores(
    method: str, mask: Bool[np.ndarray, "height width"], boxes: Sequence[Box], truth: Truth
) -> Iterator[tuple[str, float]]:
    """Figures of one answer in percent, by name."""
    corners = _corners(boxes)
    if truth.labels is not None:
        there, valid = truth.labels > 0, truth.labels != VOID
        iou = intersection_over_union(mask, there, valid=valid)
        yield f"{method}_iou_percent", 100 * iou
        yield f"{method}_max_f_percent", 100 * float(f_measures(mask, there, valid=valid).max())
        yield f"{method}_accuracy_percent", 100 * pixel_accuracy(mask, there, valid=valid)
    yield f"{method}_corloc_percent", 100.0 * is_located(corners[:1], truth.boxes)
    if method == "maskcut":
        yield f"{method}_located_percent", 100 * located_share(corners, truth.boxes)


def _ellipse_scores(height: int, width: int, truth: Truth) -> dict[str, float]:
    """Figures of an ellipse in the middle of the frame, under the names of every method."""
    mask = centred_ellipse(height, width)
    rows, columns = (np.flatnonzero(mask.any(axis=axis)).tolist() for axis in (1, 0))
    box = Box(columns[0], rows[0], columns[-1] + 1, rows[-1] + 1, mass=1.0)
    return {
        name: value for method in METHODS for name, value in _scores(method, mask, [box], truth)
    }


def _corners(boxes: Sequence[Box]) -> Float64[np.ndarray, "boxes 4"]:
    return np.array([box[:4] for box in boxes], dtype=np.float64).reshape(-1, 4)


def _result(
    networks: Sequence[Network], data: AnnotatedImages, images: Sequence[_Outcome], size: int
) -> Result:
    columns = {
        of: {name: np.array([one.rows[of][name] for one in images]) for name in row}
        for of, row in images[0].rows.items()
    }
    model = columns[networks[0].name]
    without = {
        method: sum(not one.model[method].boxes for one in images) for method in OBJECT_METHODS
    }
    return Result(
        protocol="objects",
        headline=f"tokencut_{'iou' if data.has_masks else 'corloc'}_percent",
        figures=[mean_figures(of, values) for of, values in columns.items()],
        settings={
            "size": size,
            "layer": -1,
            "attention": f"mean head, {100 * MASS:.0f} % of the mass",
            "spread": "standard error of the mean over images",
        },
        data={
            "source": data.source,
            "images": len(images),
            "boxes_from": data.boxes_from,
            "images_without_an_object": without,
        },
        images=data.requested,
        failed=data.failed + len(data.images) - len(images),
        excluded=data.excluded,
        tables={"images": _image_table(data, images, model)},
        pictures={"sheet": _sheet(networks[0], data, images, size)},
    )


def _image_table(
    data: AnnotatedImages,
    images: Sequence[_Outcome],
    model: Mapping[str, Float64[np.ndarray, " images"]],
) -> Table:
    values = np.stack(list(model.values()), axis=1).round(2).tolist()
    names = [data.images.name(one.place) for one in images]
    return Table(["image", *model], [[name, *row] for name, row in zip(names, values, strict=True)])


def _sheet(
    network: Network, data: AnnotatedImages, images: Sequence[_Outcome], size: int
) -> Image.Image:
    """The images where TokenCut's object is best and worst, with the answers of all methods."""
    shown = best_and_worst(np.array([one.order for one in images]))
    rows = (_panels(network, data, images[place], size) for place in shown)
    return mask_sheet(rows, titles=["ground truth", "[CLS] attention", *OBJECT_METHODS])


def _panels(network: Network, data: AnnotatedImages, one: _Outcome, size: int) -> Panels:
    picture, truth = data.picture(one.place), data.truth_of(one.place)
    patches = patch_of_pixels(network.whole_view(picture, size), *picture.shape[:2])
    shown = picture if truth.labels is None else mask_overlay(picture, truth.labels > 0)
    there = [
        Box(round(x0), round(y0), round(x1), round(y1), mass=1.0)
        for x0, y0, x1, y1 in truth.boxes.tolist()
    ]
    panels = [picture, box_overlay(shown, there)]
    for method in METHODS:
        answer = one.model[method]
        panels.append(
            box_overlay(mask_overlay(picture, answer.mask.ravel()[patches]), answer.boxes)
        )
    return Panels(f"{data.images.name(one.place)}: {one.order:.0f} %", panels)
