import gradio as gr
import numpy as np
import pytest
from skimage import data

from dino_app.demo.models import Models
from dino_app.demo.tabs.pca import MOST_PHOTOS, _drawn, _looks, explained, pca_colours
from dino_infer.attention.patches import patch_pca
from dino_infer.drawing.overlays import pca_colors
from tests.app.demo.tiny import broken_file, noise, photo_file, weights_file

PHOTOS = {"cat": data.chelsea, "coffee": data.coffee}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    return Models([weights_file(folder), weights_file(folder, "resnet_micro")], "cpu")


@pytest.fixture
def paths(tmp_path):
    return [photo_file(tmp_path / f"{name}.png", photo()) for name, photo in PHOTOS.items()]


def looks_of(models, paths, *, name=0, detail="low"):
    return _looks(paths, name=models.names[name], detail=detail, models=models)


@pytest.fixture
def looks(models, paths):
    return [look for _, look in looks_of(models, paths)]


def test_colours_mean_the_same_in_all_photos(looks):
    colours = pca_colours(looks)
    basis = patch_pca([look.tokens for look in looks])
    for look, picture in zip(looks, colours.pictures, strict=True):
        height, width = look.picture.shape[:2]
        expected = pca_colors(
            basis.scores(look.tokens), basis.variances, height=height, width=width
        )
        np.testing.assert_array_equal(picture, expected)
    alone = pca_colours(looks[:1]).pictures[0]
    assert not np.array_equal(alone, colours.pictures[0])
    twice = pca_colours([looks[0], looks[0]]).pictures
    np.testing.assert_array_equal(twice[0], twice[1])


def test_signs_are_fixed_so_colours_come_out_the_same_each_time(looks):
    first, second = pca_colours(looks), pca_colours(looks)
    np.testing.assert_array_equal(first.pictures, second.pictures)
    strongest = abs(first.basis.components).argmax(axis=1)
    assert (np.take_along_axis(first.basis.components, strongest[:, None], axis=1) > 0).all()


def test_subject_and_background_are_the_whole_picture(looks):
    black = [
        [(picture == 0).all(axis=-1) for picture in pca_colours(looks, show=show, smooth=False)[0]]
        for show in ("everything", "subject", "background")
    ]
    for everything, without_background, without_subject in zip(*black, strict=True):
        assert not everything.any()
        assert (without_background != without_subject).all()
        assert 0 < without_background.mean() < 1


def test_the_subject_may_have_all_colours_to_itself(looks):
    shared = pca_colours(looks, show="subject")
    own = pca_colours(looks, show="subject", own=True)
    assert own.basis.variances.sum() < shared.basis.variances.sum()
    assert not np.array_equal(own.pictures, shared.pictures)
    everything = pca_colours(looks, own=True).pictures
    np.testing.assert_array_equal(everything, pca_colours(looks).pictures)


def test_the_sentence_gives_the_explained_variance(looks):
    basis = pca_colours(looks).basis
    text = explained(basis, photos=2)
    shares = [f"{100 * share:.0f} %" for share in basis.explained]
    assert f"red {shares[0]}, green {shares[1]}, blue {shares[2]}" in text
    assert f"**{100 * basis.explained.sum():.0f} %**" in text and "all 2 photos" in text
    assert "photos" not in explained(basis, photos=1)


def test_the_page_shows_each_photo_beside_its_colours(models, paths):
    items, text = _drawn(looks_of(models, paths), "everything", False, True)
    assert [caption for _, caption in items] == ["cat.png", "colours", "coffee.png", "colours"]
    assert [picture.shape for picture, _ in items[::2]] == [
        picture.shape for picture, _ in items[1::2]
    ]
    assert "%" in text


def test_an_unreadable_photo_is_left_out_and_named(models, paths, tmp_path):
    paths.insert(1, broken_file(tmp_path / "broken.jpg"))
    with pytest.warns(UserWarning, match=r"1 of 3 were left out.*broken\.jpg"):
        seen = looks_of(models, paths)
    assert [name for name, _ in seen] == ["cat.png", "coffee.png"]


def test_only_unreadable_photos_are_an_error(models, tmp_path):
    with pytest.raises(gr.Error, match=r"None of the photos.*broken\.jpg"):
        looks_of(models, [broken_file(tmp_path / "broken.jpg")])


def test_too_many_photos_are_refused_before_any_is_read(models):
    with pytest.raises(gr.Error, match=f"at most {MOST_PHOTOS} photos, got {MOST_PHOTOS + 1}"):
        looks_of(models, ["missing.png"] * (MOST_PHOTOS + 1))


def test_nothing_is_shown_without_photos_or_by_a_convnet(models, paths):
    assert looks_of(models, None) == []
    assert looks_of(models, paths, name=1) == []
    assert _drawn([], "everything", False, True)[0] == []


def test_too_few_patches_for_three_colours_are_refused(models, tmp_path):
    tiny = looks_of(models, [photo_file(tmp_path / "tiny.png", noise(9, 9))])
    with pytest.raises(ValueError, match="show must be one of"):
        pca_colours([tiny[0][1]], show="nothing")
