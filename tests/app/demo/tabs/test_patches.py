import gradio as gr
import numpy as np
import pytest
from PIL import Image
from skimage import data

from dino_app.demo.tabs.patches import (
    SHOWN,
    Marks,
    Scene,
    _drawn,
    asked,
    enlarged,
    same_query,
    scene_of,
    similarities,
)
from dino_infer.attention.patches import patch_similarity
from dino_infer.attention.views import MAX_PATCHES
from dino_infer.errors import ImageError
from tests.app.demo.tiny import broken_file, noise, photo_file

EXACT = 1e-6  # of cosine similarities in float32
ORIENTATION = 0x0112  # the EXIF entry


@pytest.fixture
def scene(models):
    def make(*uploads, name=0, detail="normal"):
        first, second = (*uploads, None, None)[:2]
        return scene_of((first, second), name=models.names[name], detail=detail, models=models)

    return make


def shown_size(scene, which=0):
    return enlarged(scene.looks[which].picture).shape[:2]


SHAPES = {
    "landscape": (300, 451),
    "tall": (600, 170),
    "wide": (90, 350),
    "tiny": (9, 13),
    "huge": (3000, 4500),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_click_means_the_same_place_in_pictures_of_any_size(scene, tmp_path, shape):
    upload = photo_file(tmp_path / "photo.jpg", np.zeros((*shape, 3), np.uint8))
    looked = scene(upload)
    view, (height, width) = looked.looks[0].view, shown_size(looked)
    for row in range(view.rows):
        for column in range(view.columns):
            # The middle of a patch in the upload, and where that is in what the page shows.
            x, y = (column + 0.5) * view.patch_width, (row + 0.5) * view.patch_height
            assert view.patch_at(x, y) == (row, column)
            place = [
                round(x / (view.columns * view.patch_width) * width),
                round(y / (view.rows * view.patch_height) * height),
            ]
            assert asked(looked, which=0, place=place).query == (row, column)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photo_is_clicked_as_it_is_seen(scene, tmp_path, orientation):
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    photo = data.chelsea()[:200, :320]
    image = Image.fromarray(photo)
    stored = image.transpose(turns[orientation]) if orientation in turns else image
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored.save(tmp_path / "turned.png", exif=exif)
    looked = scene(str(tmp_path / "turned.png"), photo_file(tmp_path / "upright.png", photo))
    height, width = shown_size(looked)
    clicks = [asked(looked, which=which, place=[width - 20, 30]) for which in (0, 1)]
    assert clicks[0].query == clicks[1].query
    np.testing.assert_array_equal(looked.looks[0].picture, looked.looks[1].picture)
    assert (height < width) == (photo.shape[0] < photo.shape[1])


def test_the_clicked_patch_is_the_one_most_like_itself_in_both_directions(scene, tmp_path):
    uploads = [
        photo_file(tmp_path / "cat.png", data.chelsea()),
        photo_file(tmp_path / "coffee.png", data.coffee()),
    ]
    looked = scene(*uploads)
    for which in (0, 1):
        clicked = asked(looked, which=which, place=[100, 60])
        maps = similarities(clicked)
        own, other = maps[which], maps[1 - which]
        assert np.unravel_index(own.argmax(), own.shape) == clicked.query
        assert own.max() == pytest.approx(1, abs=EXACT)
        query = looked.looks[which].tokens[clicked.query]
        expected = patch_similarity(query, looked.looks[1 - which].tokens)
        np.testing.assert_allclose(other, expected, atol=EXACT)


def test_clicks_and_sliders_run_no_network(scene, models, tmp_path):
    looked = scene(photo_file(tmp_path / "cat.png", data.chelsea()))
    clicked = asked(looked, which=0, place=[100, 60])
    _drawn(clicked, Marks())
    passes = []
    backbone = models.model(models.names[0]).backbone
    handle = backbone.network.blocks[0].register_forward_hook(lambda *_: passes.append(1))
    first = _drawn(asked(clicked, which=0, place=[200, 100]), Marks())[0].value
    second = _drawn(asked(clicked, which=0, place=[200, 100]), Marks(opacity=1.0))[0].value
    handle.remove()
    assert not passes
    assert first != second  # names of cached files, made of their content


def test_a_second_photo_appears_only_when_there_is_one(scene, tmp_path):
    cat = photo_file(tmp_path / "cat.png", data.chelsea())
    first, second, text = _drawn(scene(cat), Marks())
    assert first.visible and not second.visible and "click" in text
    first, second, _ = _drawn(scene(cat, cat), Marks())
    assert first.visible and second.visible
    first, second, _ = _drawn(Scene(), Marks())
    assert first.visible and first.value is None


def test_a_click_lasts_until_its_photo_changes(scene, tmp_path):
    cat = photo_file(tmp_path / "cat.png", data.chelsea())
    coffee = photo_file(tmp_path / "coffee.png", data.coffee())
    clicked = asked(scene(cat), which=0, place=[310, 205])
    low = same_query(clicked, scene(cat, detail="low"))
    assert low.query == (clicked.query[0] // 2, clicked.query[1] // 2)
    assert same_query(clicked, scene(cat, name=1)).query == clicked.query
    assert same_query(clicked, scene(cat, coffee)).query == clicked.query
    other = same_query(clicked, scene(coffee))  # the middle, for nobody has clicked in it yet
    assert other.query == (other.looks[0].view.rows // 2, other.looks[0].view.columns // 2)
    assert not other.was_clicked
    assert same_query(clicked, scene(None, coffee)).query is None


def test_small_pictures_are_enlarged_to_whole_multiples():
    picture = noise(64, 96)
    large = enlarged(picture)
    assert large.shape == (448, 672, 3) and SHOWN == 640
    assert enlarged(noise(480, 720)).shape == (480, 720, 3)


def test_a_convnet_shows_nothing_and_says_nothing_wrong(scene, tmp_path):
    assert scene(photo_file(tmp_path / "cat.png", data.chelsea()), name=2) == Scene()


def test_a_broken_upload_is_a_message(scene, tmp_path):
    with pytest.raises(gr.Error, match="cannot be used here"):
        scene(broken_file(tmp_path / "broken.jpg"))


def test_elongated_pictures_are_seen_with_less_detail(scene, tmp_path):
    view = scene(photo_file(tmp_path / "strip.png", noise(4, 1000))).looks[0].view
    assert view.rows == 6 and MAX_PATCHES * 0.8 < view.rows * view.columns <= MAX_PATCHES
    with pytest.raises(ImageError, match="patches|pixels"):
        scene(photo_file(tmp_path / "line.png", noise(1, 20_000)))


def test_a_click_into_a_picture_that_is_gone_is_refused():
    with pytest.raises(ValueError, match="choose it again"):
        asked(Scene(), which=1, place=[0, 0])


def test_an_unknown_detail_is_refused(scene, tmp_path):
    photo = photo_file(tmp_path / "photo.png", noise(20, 20))
    with pytest.raises(ValueError, match=r"detail must be one of .*'normal'.*got 'extreme'"):
        scene(photo, detail="extreme")
