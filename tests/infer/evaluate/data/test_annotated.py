"""Boxes around masks, and the annotations of PASCAL VOC."""

import numpy as np
import pytest
from PIL import Image

from dino_infer.errors import DataError
from dino_infer.evaluate.data.annotated import (
    mask_boxes_of,
    voc_boxes,
    with_mask_boxes,
    with_voc_boxes,
)
from dino_infer.evaluate.data.mask_files import VOID
from dino_infer.evaluate.data.masks import masked_images


def labels_with(*rectangles, shape=(60, 80)):
    labels = np.zeros(shape, dtype=np.int32)
    for label, x0, y0, x1, y1 in rectangles:
        labels[y0:y1, x0:x1] = label
    return labels


def test_each_number_is_an_object_however_many_parts_it_has():
    labels = labels_with(
        (1, 2, 3, 10, 9), (1, 70, 50, 72, 52), (7, 20, 0, 30, 1), (VOID, 0, 0, 2, 2)
    )
    assert mask_boxes_of(labels, parts=False).tolist() == [[2, 3, 72, 52], [20, 0, 30, 1]]


def test_each_part_of_a_white_mask_is_an_object_but_for_specks():
    labels = labels_with((1, 2, 3, 10, 9), (1, 60, 40, 72, 52), (1, 30, 30, 32, 32))
    assert mask_boxes_of(labels, parts=True).tolist() == [[2, 3, 10, 9], [60, 40, 72, 52]]


def test_of_specks_alone_the_largest_is_the_object():
    labels = labels_with((1, 5, 5, 6, 6), (1, 30, 30, 32, 31))
    assert mask_boxes_of(labels, parts=True).tolist() == [[30, 30, 32, 31]]


def annotation(*boxes):
    objects = "".join(
        "<object><name>cat</name><bndbox>"
        + "".join(
            f"<{n}>{v}</{n}>" for n, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        )
        + "</bndbox></object>"
        for box in boxes
    )
    return f"<annotation><size><width>9</width></size>{objects}</annotation>"


def test_pixels_of_annotations_count_from_one_and_include_the_last(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(annotation((1, 1, 9, 5), ("2.0", 3, 3, 3)))
    assert voc_boxes(path).tolist() == [[0, 0, 9, 5], [1, 2, 3, 3]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation><object>", "a.xml: cannot be read: no element found"),
        ("", "a.xml: cannot be read"),
        (annotation(), "a.xml: no object is annotated"),
        (annotation((1, 1, "x", 5)), "a.xml: object 1 has no box of four numbers"),
        (
            annotation((1, 1, 2, 2), (5, 1, 3, 5)),
            "a.xml: object 2 has a box without a pixel, 5, 1, 3",
        ),
        (annotation((0, 1, 3, 5)), "a.xml: object 1 has a box without a pixel"),
        (annotation(("nan", 1, 3, 5)), "a.xml: object 1 has a box without a pixel"),
    ],
)
def test_annotations_that_say_nothing_are_refused(tmp_path, text, message):
    path = tmp_path / "a.xml"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        voc_boxes(path)


@pytest.fixture
def folders(tmp_path):
    for name in ("images", "masks", "xml"):
        (tmp_path / name).mkdir()
    for name in ("a", "b", "c"):
        Image.new("RGB", (80, 60)).save(tmp_path / "images" / f"{name}.png")
    Image.fromarray(labels_with((255, 2, 3, 10, 9)).astype(np.uint8)).save(tmp_path / "masks/a.png")
    (tmp_path / "xml/a.xml").write_text(annotation((1, 1, 9, 5)))
    (tmp_path / "xml/b.xml").write_text("damaged")
    (tmp_path / "xml/d.xml").write_text(annotation((1, 1, 9, 5)))
    return tmp_path


def test_images_without_a_usable_annotation_are_left_out_by_name(folders):
    found = with_voc_boxes(folders / "images", folders / "xml")
    assert [found.images.name(i) for i in range(len(found.images))] == ["a.png"]
    assert (found.requested, found.has_masks) == (3, False)
    truth = found.truth_of(0)
    assert truth.labels is None and truth.boxes.tolist() == [[0, 0, 9, 5]]
    missing, damaged, extra = sorted(found.excluded, key=lambda line: "cbd".index(line[0]))
    assert missing.startswith("c.png: no annotation") and damaged.startswith(
        "b.xml: cannot be read"
    )
    assert extra == "d.xml: annotation without an image"


def test_a_folder_without_a_usable_annotation_is_refused(folders):
    (folders / "xml/a.xml").unlink()
    with pytest.raises(
        DataError, match="no image of .* has an annotation that can be used; 4 were"
    ):
        with_voc_boxes(folders / "images", folders / "xml")
    with pytest.raises(DataError, match="expected a folder of annotations, got"):
        with_voc_boxes(folders / "images", folders / "none")


def test_masks_bring_their_boxes_and_what_was_left_out(folders):
    masked = masked_images(folders)
    found = with_mask_boxes(masked)
    truth = found.truth_of(0)
    assert truth.boxes.tolist() == [[2, 3, 10, 9]] and (truth.labels > 0).sum() == 48
    assert found.boxes_from == "connected parts of masks"
    assert found.excluded == masked.excluded and len(found.excluded) == 2
