"""Heads come back as they were saved, and files that are no heads are one line."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from dino_infer.errors import DataError
from dino_infer.heads import METADATA_KEY, LinearHead

MADE_BY = {
    "arch": "vit_micro", "feature": "last4", "precision": "fp32", "weights_sha256": "ab",
    "preprocess": {"size": 32, "crop": "center"}, "normalized": False,
}  # fmt: skip


def head(classes=("cat", "dog", "eel"), dim=4):
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(len(classes), dim)), rng.normal(size=len(classes))
    return LinearHead(
        weight=weight.astype(np.float32), bias=bias.astype(np.float32), classes=classes,
        made_by=MADE_BY,
    )  # fmt: skip


def test_a_head_comes_back_as_it_was_saved(tmp_path):
    saved = head(("naïve", "b/c", "…"))
    saved.save(tmp_path / "head.safetensors")
    loaded = LinearHead.load(tmp_path / "head.safetensors")
    assert loaded.classes == saved.classes and loaded.made_by == MADE_BY
    rows = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    np.testing.assert_array_equal(loaded.logits(rows), saved.logits(rows))
    assert list(loaded.predict(rows)) == [saved.classes[i] for i in saved.logits(rows).argmax(1)]
    assert repr(loaded) == "LinearHead(3 classes, dim=4, feature='last4')"


def test_probabilities_are_the_softmax_of_any_logits():
    one = head()
    rows = 1e4 * np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    shares = one.predict_proba(rows)
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-6)
    assert (shares.argmax(1) == one.logits(rows).argmax(1)).all()


def test_features_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"shape \(rows, 4\), got \(2, 3\); .*feature 'last4'"):
        head().logits(np.zeros((2, 3), np.float32))


def rewritten(tensors=None, **changes):
    """A writer of a head's file with other tensors or metadata."""

    def write(path):
        head().save(path)
        from safetensors import safe_open

        with safe_open(path, framework="numpy") as file:
            metadata = json.loads(file.metadata()[METADATA_KEY]) | changes
            held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        save_file(held | (tensors or {}), path, metadata={METADATA_KEY: json.dumps(metadata)})

    return write


def torn(path):
    head().save(path)
    path.write_bytes(path.read_bytes()[:-5])


def flipped(path):
    head().save(path)
    data = bytearray(path.read_bytes())
    data[-6] ^= 1
    path.write_bytes(data)


def foreign(path):
    save_file({"cls_token": np.zeros((1, 1, 4), np.float32)}, path)


BAD = {
    "torn": (torn, "cannot be used"),
    "flipped": (flipped, "its weights are not those that were saved"),
    "foreign": (foreign, "is no head: expected the tensors weight and bias"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be used"),
    "text": (lambda path: path.write_text("no head" * 9), "cannot be used"),
    "missing": (lambda path: None, "cannot read head .*no such file"),
    "folder": (lambda path: path.mkdir(), "cannot (read|be used)"),
    "newer": (rewritten(format_version=2), "its format version is 2, this package reads 1"),
    "classes": (rewritten(classes=["a", "b"]), "2 classes need weights of shape"),
    "twice": (rewritten(classes=["a", "b", "b"]), "names of classes, each once"),
    "numbers": (rewritten(classes=[1, 2, 3]), "its classes must be a list of names"),
    "no feature": (rewritten(made_by={}), "its made_by must say weights_sha256"),
    "made by": (rewritten(made_by=3), "its made_by must be an object"),
    "size": (rewritten(made_by=MADE_BY | {"preprocess": {"size": "x"}}), "cannot be used"),
    "view": (rewritten(made_by=MADE_BY | {"preprocess": {"zoom": 2}}), "unknown preprocessing"),
    "other": (rewritten({"weight": np.zeros((3, 5), np.float32)}), "not those that were saved"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_file_that_is_no_whole_head_is_one_line(tmp_path, kind):
    write, message = BAD[kind]
    write(tmp_path / "head.safetensors")
    with pytest.raises(DataError, match=message) as caught:
        LinearHead.load(tmp_path / "head.safetensors")
    assert "\n" not in str(caught.value) and "head.safetensors" in str(caught.value)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.full((3, 4), np.nan, np.float32), "NaN or infinity"),
        (np.zeros((3, 4)), "must be float32, got float64"),
        (np.zeros((3,), np.float32), r"shape \(3, dim\)"),
    ],
)
def test_weights_that_cannot_classify_are_refused(weight, message):
    with pytest.raises(ValueError, match=message):
        LinearHead(
            weight=weight, bias=np.zeros(3, np.float32), classes=("a", "b", "c"), made_by=MADE_BY
        )
