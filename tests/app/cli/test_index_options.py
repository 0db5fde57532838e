"""Flags of dino-index beside what an index or features were made with."""

import pytest

from tests.app.cli.indexed_items import assert_same_items, items_of


def test_other_weights_are_refused_by_name(dino_index, built, index, other_weights):
    query = built.photos / "cat" / "0.png"
    for verb in (("search", index, "--image", query), ("add", index, query)):
        found = dino_index(*verb, "--weights", other_weights)
        assert (found.code, found.out) == (1, "")
        assert "error: the index was made differently: weights_sha256 was" in found.err
    found = dino_index("add", index, query, "--size", 64)
    assert found.code == 1 and "preprocessing size was 32 and is 64" in found.err
    assert_same_items(items_of(index), items_of(built.index))


GIVEN = [
    ("--feature", "cls"), ("--feature", "gem"), ("--crop", "center"), ("--size", "32"),
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory, weights, built):
    """An index and features of whole pictures by their means, neither being a default."""
    from dino_app.cli.index import main as index_main
    from dino_infer.cli.embed import main as embed_main

    folder = tmp_path_factory.mktemp("whole")
    how = ["--weights", weights, "--feature", "mean", "--crop", "none", "--size", "40"]
    photos = str(built.photos)
    assert index_main(["build", photos, "-o", str(folder / "i"), *how]) == 0
    assert embed_main([photos, "-o", str(folder / "f.npy"), *how]) == 0
    return folder


@pytest.mark.parametrize("given", GIVEN, ids=" ".join)
def test_a_flag_that_says_otherwise_than_the_index_is_refused_though_it_is_a_default(
    dino_index, whole, built, given
):
    again = dino_index("build", built.photos, "-o", whole / "i", *given)
    assert again.code == 1 and "the index was made differently" in again.err
    assert given[0][2:] in again.err and again.err.count("\n") == 1


@pytest.mark.parametrize("given", GIVEN, ids=" ".join)
def test_a_flag_that_says_otherwise_than_the_features_is_refused(dino_index, whole, given):
    new = dino_index("build", whole / "f.npy", "-o", whole / "new", *given)
    assert new.code == 2 and "the features were made with" in new.err
    assert not (whole / "new").exists()


def test_flags_that_say_the_same_or_nothing_are_taken(dino_index, whole, built, weights):
    same = ["--weights", weights, "--feature", "mean", "--crop", "none", "--size", "40"]
    for given in ([], same):
        again = dino_index("build", built.photos, "-o", whole / "i", *given)
        assert again.code == 0, again.err
        features = dino_index("build", whole / "f.npy", "-o", whole / "i", *given)
        assert features.code == 0, features.err


def test_other_weights_than_those_of_the_features_are_refused(
    dino_index, whole, tmp_path, other_weights
):
    done = dino_index("build", whole / "f.npy", "-o", tmp_path / "i", "--weights", other_weights)
    assert done.code == 1 and "weights_sha256" in done.err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--thumbnails", "64"], "go with --images"),
        (["--image-column", "photo"], "go with --images"),
        (["--images", "{photos}", "--thumbnails", "0"], "leave --thumbnails 0 or --images out"),
        (["--batch-size", "4"], "or go with --weights"),
        (["--arch", "vit_small"], "or go with --weights"),
        (["--max-megapixels", "1"], "--max-megapixels and --max-file-mb are for images"),
        (["--exact-decode"], "made without --exact-decode"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_flags_that_do_nothing_for_features_are_refused(dino_index, whole, built, given, message):
    given = [flag.format(photos=built.photos) for flag in given]
    found = dino_index("build", whole / "f.npy", "-o", whole / "new", *given)
    assert found.code == 2 and message in found.err
    assert found.err.count("\n") == 1 and not (whole / "new").exists()
