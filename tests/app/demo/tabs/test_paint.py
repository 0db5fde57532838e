import io

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from dino_app.demo.tabs.brush import CANVAS, marks_of, to_paint_on
from dino_app.demo.tabs.paint import (
    MOST_PAINTED,
    Painting,
    _index,
    _masks_file,
    _tiles,
    painted_scores,
    with_strokes,
)
from dino_app.demo.tabs.track import painted_inside
from dino_infer.objects.painting import BACKGROUND, OBJECT, UNMARKED, fit_patch_model
from tests.app.demo.tiny import noise

ORANGE, BLUE = (255, 96, 16, 255), (32, 96, 255, 255)


def strokes(*painted, size=(80, 120)):
    """A layer as the page sends it: transparent, with rectangles of colour."""
    layer = np.zeros((*size, 4), dtype=np.uint8)
    for (top, left, bottom, right), color in painted:
        layer[top:bottom, left:right] = color
    file = io.BytesIO()
    Image.fromarray(layer).save(file, "PNG")
    return file.getvalue()


THING, GROUND = ((0, 0, 40, 60), ORANGE), ((60, 80, 80, 120), BLUE)


@pytest.fixture(scope="module")
def painting(models):
    """Three photos whose left half is of another kind than the right."""
    looks = []
    for seed in range(3):
        photo = noise(64, 96, seed=seed)
        photo[:, :48] //= 8
        looks.append(models.model(models.names[0]).look(photo, size=64))
    return Painting(("a.png", "b.png", "c.png"), tuple(looks))


def test_patches_under_a_stroke_are_marked():
    marks = marks_of(strokes(THING, GROUND), (8, 12))
    assert (marks[:4, :6] == OBJECT).all() and (marks[6:, 8:] == BACKGROUND).all()
    assert (marks == UNMARKED).sum() == 96 - 24 - 8
    alone = marks_of(strokes(THING), (8, 12))
    assert (alone == BACKGROUND).sum() == 96 - 24 and (alone == UNMARKED).sum() == 0
    assert (marks_of(None, (8, 12)) == UNMARKED).all()
    assert (marks_of(strokes(), (8, 12)) == UNMARKED).all()


def test_a_part_of_a_thing_marks_it_in_all_photos(painting):
    left = strokes(((0, 4, 80, 40), ORANGE), ((0, 80, 80, 110), BLUE))
    scores = painted_scores(with_strokes(painting, left))
    for one in scores:
        half = one.shape[1] // 2
        assert (one[:, :half] > 0).mean() > 0.9 and (one[:, half:] > 0).mean() < 0.1
    marks = marks_of(left, scores[0].shape)
    model = fit_patch_model([painting.looks[0].tokens], [marks])
    np.testing.assert_array_equal(scores[2], model.scores(painting.looks[2].tokens))
    inside = painted_inside(painting.looks[0].tokens, strokes=left)
    np.testing.assert_array_equal(inside, scores[0] > 0)


def test_before_and_after_a_stroke_the_photos_are_shown(painting, tmp_path):
    plain = _tiles(painting)
    assert [text for _, text in plain] == list(painting.names)
    painted = with_strokes(painting._replace(chosen=1), strokes(THING))
    assert [text for _, text in _tiles(painted)] == ["a.png", "✎ b.png", "c.png"]
    assert all((a != b).any() for (a, _), (b, _) in zip(plain, _tiles(painted), strict=True))
    assert _masks_file(tmp_path, painted).endswith("dino-masks.zip")
    wiped = with_strokes(painted, None)
    assert wiped.strokes == {} and painted_scores(wiped) == []
    with pytest.raises(gr.Error, match="There are no masks yet"):
        _masks_file(tmp_path, wiped)


def test_blue_alone_decides_nothing(painting):
    assert painted_scores(with_strokes(painting, strokes(GROUND))) == []


def test_limits_and_places_from_outside_are_checked(painting):
    many = painting._replace(strokes={i: b"" for i in range(1, MOST_PAINTED + 1)})
    with pytest.raises(gr.Error, match=f"at most {MOST_PAINTED} photos"):
        with_strokes(many, strokes(THING))
    for place in (3, -1, "0", None, [0]):
        with pytest.raises(gr.Error, match="no longer there"):
            _index(place, painting)
    with pytest.raises(gr.Error, match="in orange"):
        painted_inside(painting.looks[0].tokens, strokes=None)


def test_a_picture_to_paint_on_is_small_and_keeps_its_strokes():
    layer = strokes(THING)
    value = to_paint_on(noise(960, 1440), layer)
    assert value["background"].shape[:2] == (round(CANVAS * 2 / 3), CANVAS)
    assert np.asarray(value["layers"][0]).shape == (80, 120, 4)
