"""Vectors of two embedders are compared only where both look at images alike."""

import pytest

from dino_app.errors import ModelMismatchError
from dino_app.store.model_match import check_model

MODEL = {
    "arch": "vit_small",
    "feature": "cls",
    "precision": "fp32",
    "weights_sha256": "ab" * 32,
    "preprocess": {"size": 224, "mean": (0.5, 0.5, 0.5)},
}


def test_the_same_model_passes_and_lists_stand_for_tuples(caplog):
    check_model({**MODEL, "preprocess": {"size": 224, "mean": [0.5, 0.5, 0.5]}}, MODEL)
    assert not caplog.records
    check_model({**MODEL, "weights": "runs/photos"}, MODEL)
    check_model(MODEL, {**MODEL, "arch": "another name"})
    assert not caplog.records


def test_a_precision_or_an_unknown_model_is_warned_of(caplog):
    check_model(MODEL, {**MODEL, "precision": "bf16"})
    assert "was made in fp32 and is used in bf16" in caplog.text
    check_model({}, MODEL)
    assert "does not say what made its vectors" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights_sha256": "cd" * 32}, r"weights_sha256 was 'abababababab\.\.\.' and is 'cdcd"),
        ({"feature": "mean"}, "feature was 'cls' and is 'mean'"),
        ({"preprocess": {"size": 256}}, "preprocessing size was 224 and is 256, prep"),
    ],
)
def test_a_difference_is_named(change, message):
    with pytest.raises(ModelMismatchError, match=message):
        check_model({**MODEL, "weights": "w.pth"}, {**MODEL, **change})
