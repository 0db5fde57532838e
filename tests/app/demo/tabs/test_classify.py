import dataclasses

import numpy as np
import pytest
from PIL import Image

from dino_app.demo.tabs import classify_by_head
from dino_app.demo.tabs.classify import MOST_K, _answer, _examples, _shown
from dino_app.demo.tiles import empty_tile
from dino_app.demo.vectors import OtherNetwork, Vectors
from dino_app.demo.voters import FileExamples, IndexExamples
from dino_infer.errors import DataError
from dino_infer.heads import LinearHead
from dino_infer.knn.classifier import KNNClassifier
from dino_infer.knn.votes import vote
from tests.app.demo.indexed import CLASSES, TILES, small_features, tiles

SHARE = 1e-5  # of votes: similarities are float32
INDEX_SHARE = 1e-2  # an index may keep its vectors in fewer bits


@pytest.fixture(scope="module")
def features(models):
    return small_features(Vectors(models).embedder(models.names[0]))


@pytest.fixture(scope="module")
def vector(models, features):
    picture = tiles()["cat/2.jpg"][10:110, :100]
    return Vectors(models).vector(picture, name=models.names[0], made=features.manifest)


def voted(voters, temperature):
    similarities, labels = [v.similarity for v in voters], [v.label for v in voters]
    return vote(similarities, labels, temperature=temperature)


@pytest.mark.parametrize("temperature", [0.01, 0.07, 1.0])
@pytest.mark.parametrize("k", [1, 5, 12])
def test_the_vote_is_that_of_the_classifier(features, vector, k, temperature):
    voters = FileExamples(features).nearest(vector, k=MOST_K)
    classes, shares = voted(voters[:k], temperature)
    judge = KNNClassifier(k=k, temperature=temperature).fit(features.matrix, features.labels)
    probs = dict(zip(judge.classes_, judge.predict_proba(vector[None])[0], strict=True))
    assert dict(classes) == pytest.approx({name: p for name, p in probs.items() if p}, abs=SHARE)
    assert classes[0][0] == judge.predict(vector[None])[0]
    assert sum(shares) == pytest.approx(1) and shares == sorted(shares, reverse=True)


def test_all_examples_vote_where_there_are_fewer_than_k(features, vector):
    assert len(FileExamples(features).nearest(vector, k=MOST_K)) == len(CLASSES) * TILES


def test_of_equally_near_classes_that_of_the_first_row_wins(features, vector):
    labels = np.array(["zebra", "ant"], dtype=object)
    twins = dataclasses.replace(
        features, matrix=np.stack([vector, vector]), paths=("0.jpg", "1.jpg"), labels=labels
    )
    examples = FileExamples(twins)
    for k in (1, 2):
        classes, *_, told = _shown(examples.nearest(vector, k=MOST_K), examples, k, 0.07)
        assert next(iter(classes)) == "zebra" and "**zebra**" in told
    judge = KNNClassifier(k=2).fit(twins.matrix, labels.astype(str))
    assert judge.predict(vector[None]) == ["zebra"]


def test_an_index_votes_like_the_file_that_it_was_made_of(features, store, vector):
    from_file = FileExamples(features).nearest(vector, k=MOST_K)
    from_index = IndexExamples(store).nearest(vector, k=MOST_K)
    unlabelled = "coffee/5.jpg"
    assert [v.name for v in from_index] == [v.name for v in from_file if v.name != unlabelled]
    assert "11 labelled photos" in IndexExamples(store).summary()
    some = [dict(voted(voters[:3], 0.07).classes) for voters in (from_file, from_index)]
    assert some[0] == pytest.approx(some[1], abs=INDEX_SHARE)


def test_other_k_and_temperature_need_no_network(features, store, vector):
    for examples in (FileExamples(features), IndexExamples(store)):
        voters = examples.nearest(vector, k=MOST_K)
        one, tiles_of_one, rows, told = _shown(voters, examples, 1, 0.07)
        assert one == {voters[0].label: 1.0} and len(rows) == 1
        assert rows[0][:2] == [voters[0].name, voters[0].label] and rows[0][3] == "100.0 %"
        assert f"**{voters[0].label}** has 100 % of the votes of 1 photos" in told
        assert len(tiles_of_one) == examples.has_tiles
        many = _shown(voters, examples, 11, 0.01)
        assert len(many[2]) == 11 and many[0] != _shown(voters, examples, 11, 1)[0]


def test_rows_without_a_feature_or_a_label_do_not_vote(features, vector):
    matrix, labels = features.matrix.copy(), features.labels.copy()
    matrix[0], labels[1] = np.nan, None
    examples = FileExamples(dataclasses.replace(features, matrix=matrix, labels=labels))
    names = {voter.name for voter in examples.nearest(vector, k=MOST_K)}
    assert names == set(features.paths[2:])
    assert "10 labelled photos of 2 classes" in examples.summary()


@pytest.mark.parametrize("wrong", ["no labels", "patches", "nothing left"])
def test_features_that_cannot_classify_are_refused(features, wrong):
    matrix = features.matrix
    changes = {
        "no labels": {"labels": None},
        "patches": {"matrix": np.stack([matrix, matrix], axis=1)},
        "nothing left": {"matrix": np.full_like(matrix, np.nan)},
    }
    with pytest.raises(DataError, match="labelled|label"):
        FileExamples(dataclasses.replace(features, **changes[wrong]))


def test_another_network_than_that_of_the_features_is_refused(models, features):
    with pytest.raises(
        OtherNetwork, match="This (index|file) was made with another network.*Choose"
    ):
        Vectors(models).vector(tiles()["cat/0.jpg"], name=models.names[1], made=features.manifest)


@pytest.mark.parametrize("source", ["index", "features file", "head"])
def test_another_network_is_told_with_a_switch_to_the_right_one(
    models, features, store, tmp_path, source
):
    photo, vectors = str(tmp_path / "photo.png"), Vectors(models)
    Image.fromarray(tiles()["cat/0.jpg"]).save(photo)
    head = LinearHead(
        weight=np.eye(2, features.matrix.shape[1], dtype=np.float32), bias=np.zeros(2, np.float32),
        classes=("cat", "coffee"), made_by=features.manifest,
    )  # fmt: skip

    def answer(network):
        if source == "head":
            return classify_by_head._answer(photo, network, head=head, vectors=vectors)
        examples = IndexExamples(store) if source == "index" else FileExamples(features)
        return _answer(photo, network, 5, 0.07, examples=examples, vectors=vectors)

    *_, told, fitting = answer(models.names[2])
    assert f"This {source} was made with another network" in told
    assert fitting == models.names[0]
    *_, told, fitting = answer(fitting)
    assert "**" in told and fitting is None


def test_a_convnet_that_lacks_the_feature_of_a_vit_is_another_network(models, features):
    made = features.manifest | {"feature": "mean"}
    with pytest.raises(OtherNetwork) as told:
        Vectors(models).vector(tiles()["cat/0.jpg"], name=models.names[2], made=made)
    assert told.value.switch_to == models.names[0]


def test_photos_of_a_features_file_are_shown_where_they_are_found(features, vector, tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for name, picture in tiles().items():
        path = folders[0] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path, quality=100, subsampling=0)
    (folders[1] / "cat").mkdir(parents=True)
    (folders[0] / "cat" / "1.jpg").unlink()
    (folders[0] / "cat" / "2.jpg").write_bytes(b"no picture")
    (folders[1] / "cat" / "3.jpg").write_bytes(b"of the same name")
    sources = [*map(str, folders), str(tmp_path / "gone"), "photos.tar"]
    made = {**features.manifest, "sources": sources}
    examples = FileExamples(dataclasses.replace(features, manifest=made))
    assert examples.has_tiles and not FileExamples(features).has_tiles
    tile = np.asarray(examples.tile("cat/0.jpg"), dtype=int)
    assert abs(tile - tiles()["cat/0.jpg"]).mean() < 2  # levels, of a JPEG
    for name in ("cat/1.jpg", "cat/2.jpg", "cat/3.jpg"):
        assert examples.tile(name) is empty_tile()
    _, shown, *_ = _shown(examples.nearest(vector, k=MOST_K), examples, 5, 0.07)
    assert len(shown) == 5


def test_features_go_before_the_index(features, store):
    assert isinstance(_examples(features, store), FileExamples)
    assert isinstance(_examples(None, store), IndexExamples)
    assert _examples(None, None) is None


def test_nothing_is_shown_before_there_is_a_photo(features):
    assert _shown([], FileExamples(features), 20, 0.07) == (
        None,
        [],
        [],
        "Choose a photo to classify.",
    )
