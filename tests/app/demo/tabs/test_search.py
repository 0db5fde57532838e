import gradio as gr
import numpy as np
import pytest
from PIL import Image

from dino_app.demo.albums import IndexAlbum
from dino_app.demo.models import Models
from dino_app.demo.tabs.search import MOST_PHOTOS, Search, Session
from dino_app.demo.tiles import TILE, caption, empty_tile, photo_tile, plain, thumbnail_tile
from dino_app.demo.vectors import Vectors
from dino_infer.embedding.embedder import Embedder
from tests.app.demo.indexed import small_index, tiles
from tests.app.demo.tiny import broken_file, noise, photo_file, weights_file

SCORE = 1e-3  # of cosine similarities: an index may keep its vectors in fewer bits
ANY = {"k": 5, "wanted": None}


@pytest.fixture
def in_index(models, store):
    return Search(Vectors(models), IndexAlbum(store))


@pytest.fixture
def in_uploads(models):
    return Search(Vectors(models), None)


@pytest.fixture
def uploads(tmp_path):
    return [photo_file(tmp_path / name.replace(".jpg", ".png"), t) for name, t in tiles().items()]


@pytest.fixture
def name(models):
    return models.names[0]


def scores_of(answer):
    return [float(caption.split(" ")[0]) for _, caption in answer.tiles]


def test_uploads_are_found_in_the_order_of_their_similarity(in_uploads, models, uploads, name):
    session, about, _ = in_uploads.collect(uploads, name=name, session=Session())
    assert "12 photos" in about
    answer = in_uploads.with_upload(uploads[3], name=name, k=12, wanted=None, session=session)
    rows = Vectors(models).embedder(name)(uploads)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    expected = rows @ rows[3]
    assert answer[0].ids[0] == "3.png"
    np.testing.assert_allclose(scores_of(answer), np.sort(expected)[::-1], atol=0.00051)
    assert len(set(answer[0].ids)) == 12  # both classes have a 3.png
    assert "3.png (2)" in answer[0].ids


def test_an_index_is_searched_like_its_vectors_say(in_index, store, models, uploads, name):
    session, found, told, _ = in_index.with_upload(
        uploads[0], name=name, k=4, wanted=None, session=Session()
    )
    assert session.ids[0] == "cat/0.jpg" and len(session.ids) == len(found) == 4
    vector = Vectors(models).embedder(name)([uploads[0]])
    hits = store.search(vector, k=4).hits[0]
    assert session.ids == tuple(hit.id for hit in hits)
    assert hits[0].score == pytest.approx(1, abs=SCORE)
    assert "**4** photos" in told
    assert "12 photos" in in_index.summary()


@pytest.mark.parametrize("album", ["index", "uploads"])
def test_a_result_is_searched_with_and_not_found_again(in_index, in_uploads, uploads, name, album):
    search, session = in_index, Session()
    if album == "uploads":
        search = in_uploads
        session = search.collect(uploads, name=name, session=session)[0]
    first = search.with_upload(uploads[0], name=name, session=session, **ANY)[0]
    chosen = first.ids[2]
    again, _, told, _ = search.with_result(2, session=first, **ANY)
    assert chosen not in again.ids and len(again.ids) == 5
    assert again.question.id == chosen and plain(caption(chosen)) in told
    third = search.with_result(0, session=again, **ANY)[0]
    assert third.question.id == again.ids[0]


@pytest.mark.parametrize("place", [5, -1, None, "0", [0, 1], 1.5])
def test_a_result_that_is_not_there_is_a_message(in_index, uploads, name, place):
    session = in_index.with_upload(uploads[0], name=name, session=Session(), **ANY)[0]
    with pytest.raises(gr.Error, match="no longer there"):
        in_index.with_result(place, session=session, **ANY)


def test_choices_of_labels_limit_the_results(in_index, in_uploads, uploads, name):
    assert in_index.choices() == ["label: cat", "label: coffee"] and in_uploads.choices() == []
    session = in_index.with_upload(uploads[0], name=name, session=Session(), **ANY)[0]
    coffee, _, told, _ = in_index.answer(session, k=12, wanted=["label: coffee"])
    assert sorted(coffee.ids) == [f"coffee/{i}.jpg" for i in range(5)]  # the last has no label
    assert "that pass the filter" in told
    both = in_index.answer(session, k=12, wanted=["label: coffee", "label: cat"])[0]
    assert len(both.ids) == 11
    with pytest.raises(ValueError, match="expected one of .*got 'label: dog'"):
        in_index.answer(session, k=12, wanted=["label: dog"])


def test_another_network_than_that_of_the_index_is_said_in_words_with_the_one_to_switch_to(
    in_index, models, uploads
):
    other = models.names[1]
    answer = in_index.with_upload(uploads[0], name=other, session=Session(), **ANY)
    assert answer.switch_to == models.names[0] and answer.tiles == []
    assert f"another network than {other}" in answer.told
    assert "sha256" not in answer.told and "/" not in answer.told


def test_an_index_of_a_network_that_is_not_there_says_how_to_start(models, tmp_path, uploads):
    strange = Models([weights_file(tmp_path, seed=5)], "cpu")
    store = small_index(tmp_path / "strange.index", Vectors(strange).embedder(strange.names[0]))
    search = Search(Vectors(models), IndexAlbum(store))
    answer = search.with_upload(uploads[0], name=models.names[0], session=Session(), **ANY)
    assert answer.switch_to is None and "weights that made it" in answer.told
    store.close()


def test_photos_are_looked_at_as_the_index_did(models, tmp_path, uploads):
    name = models.names[0]
    model = models.model(name)
    preprocess = Vectors(models).embedder(name).preprocess
    wide = type(preprocess)(size=64, crop="none", patch_size=8)
    made = Embedder(model.backbone, wide, device="cpu", feature="mean", precision="fp32")
    store = small_index(tmp_path / "mean.index", made)
    search = Search(Vectors(models), IndexAlbum(store))
    picture = tiles()["coffee/2.jpg"]
    path = photo_file(tmp_path / "again.png", picture)
    answer = search.with_upload(path, name=name, session=Session(), **ANY)
    assert answer[0].ids[0] == "coffee/2.jpg" and scores_of(answer)[0] == pytest.approx(1, abs=0.01)
    store.close()


def test_an_embedder_that_is_given_is_used_whatever_is_picked(models, store, uploads):
    given = Vectors(models).embedder(models.names[0])
    search = Search(Vectors(models, given), IndexAlbum(store))
    session = search.with_upload(uploads[0], name=models.names[1], session=Session(), **ANY)[0]
    assert session.ids[0] == "cat/0.jpg"


def test_photos_without_a_thumbnail_have_a_tile(in_index, uploads, name):
    with_last = in_index.with_upload(uploads[11], name=name, session=Session(), **ANY)
    assert with_last[0].ids[0] == "coffee/5.jpg"
    assert thumbnail_tile(None) is empty_tile()
    assert thumbnail_tile(b"RIFF damaged WEBP") is empty_tile()
    assert photo_tile(noise(300, 900)).size == (TILE, 85)
    assert photo_tile(noise(10, 20)).size == (20, 10)


def test_bad_photos_are_left_out_and_the_album_goes_on(in_uploads, uploads, tmp_path, name):
    paths = [broken_file(tmp_path / "bad.jpg"), *uploads[:2]]
    with pytest.warns(UserWarning, match=r"1 of 3 were left out.*bad\.jpg"):
        _, about, _ = in_uploads.collect(paths, name=name, session=Session())
    assert "2 photos" in about
    with pytest.raises(gr.Error, match=f"at most {MOST_PHOTOS} photos"):
        in_uploads.collect(uploads * 20, name=name, session=Session())
    with pytest.raises(gr.Error, match="cannot be used here"):
        session = in_uploads.collect(uploads[:2], name=name, session=Session())[0]
        in_uploads.with_upload(paths[0], name=name, session=session, **ANY)


def test_steps_are_told_while_something_is_missing(in_uploads, in_index, uploads, name):
    empty = in_uploads.with_upload(uploads[0], name=name, session=Session(), **ANY)
    assert "Choose the photos" in empty[2] and empty[0].ids == ()
    session = in_uploads.collect(uploads[:2], name=name, session=Session())[0]
    assert "photo to search with" in in_uploads.answer(session, **ANY)[2]
    assert in_uploads.collect(None, name=name, session=session)[0].album is None
    assert "photo to search with" in in_index.answer(Session(), **ANY)[2]


def test_convnets_search_too(in_uploads, models, uploads):
    name = models.names[2]
    session = in_uploads.collect(uploads[:4], name=name, session=Session())[0]
    session = in_uploads.with_upload(uploads[1], name=name, session=session, **ANY)[0]
    assert session.ids[0] == "1.png"


def test_captions_keep_the_end_of_a_name_and_markdown_shows_it_as_text():
    assert caption("holiday/2024/beach.jpg", "0.93") == "0.93 · beach.jpg"
    long = caption("a" * 50 + "_0042.jpg")
    assert len(long) == 28 and long.endswith("_0042.jpg")
    hostile = plain("<img src=x onerror=alert(1)> **b** [l](http://e)")
    assert not set(hostile) & set("<>*[]()\"'`_")


def test_tiles_are_pictures_for_any_ground():
    tile = empty_tile()
    assert tile.size == (TILE, TILE) and isinstance(tile, Image.Image)
    assert len(tile.getcolors()) == 2
