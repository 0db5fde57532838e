"""Flags that all commands share, and what they say to the library."""

import importlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dino_infer.cli import attention, embed, eval as evaluation
from dino_infer.cli.exit_codes import UsageError
from dino_infer.cli.options import (
    ComputeOptions,
    SourceOptions,
    ViewOptions,
    WeightOptions,
    check_images,
    load_embedder,
)


def test_only_what_was_given_is_passed_on():
    assert WeightOptions(weights="w").keywords() == {}
    given = SourceOptions(checkpoint_key="student", arch="vit_small", patch_size=8)
    assert given.keywords() == {
        "checkpoint_key": "student",
        "arch": "vit_small",
        "patch_size": 8,
    }


def test_the_flags_of_a_view_and_a_device_make_the_embedder(weights):
    embedder = load_embedder(
        WeightOptions(weights=weights),
        ComputeOptions(device="cpu", workers=1, batch_size=3),
        ViewOptions(size=64, crop="none"),
    )
    assert (embedder.batch_size, str(embedder.device)) == (3, "cpu")
    assert (embedder.preprocess.size, embedder.preprocess.crop) == (64, "none")


def test_a_size_below_one_patch_is_refused(weights):
    with pytest.raises(UsageError, match="--size must be at least one patch of 8 px, got 7"):
        load_embedder(
            WeightOptions(weights=weights), ComputeOptions(device="cpu"), ViewOptions(size=7)
        )


@pytest.mark.parametrize(
    ("options", "values", "message"),
    [
        (ComputeOptions, {"batch_size": 0}, "--batch-size must be at least 1, got 0"),
        (ComputeOptions, {"workers": -1}, "--workers must not be negative, got -1"),
        (ViewOptions, {"size": 0}, "--size must be at least 1, got 0"),
        (ViewOptions, {"max_megapixels": 0.0}, "--max-megapixels must be above 0, got 0.0"),
        (ViewOptions, {"max_file_mb": -1.0}, "--max-file-mb must be above 0, got -1.0"),
    ],
)
def test_numbers_that_cannot_be_meant_are_refused(options, values, message):
    with pytest.raises(UsageError, match=message):
        options(**values)


def test_a_command_line_without_images_is_refused():
    with pytest.raises(UsageError, match="no images given"):
        check_images(())


@pytest.mark.parametrize(
    ("main", "before", "after"),
    [
        (embed.main, [], ["-o", "feats.npy"]),
        (attention.main, [], ["-o", "maps", "--size", "32"]),
        (evaluation.main, ["knn", "--train"], ["--leave-one-out", "--k", "1"]),
    ],
    ids=["embed", "attention", "eval"],
)
def test_every_command_reads_the_column_of_a_table_that_it_is_told(
    tmp_path, monkeypatch, photos, weights, main, before, after
):
    monkeypatch.chdir(tmp_path)
    data = [path.read_bytes() for path in sorted((photos / "cat").iterdir())[:2]]
    pq.write_table(pa.table({"photo": data, "label": ["a", "b"]}), "t.parquet")
    command = [*before, "t.parquet", *after, "--weights", weights]
    assert main(command) == 1
    assert main([*command, "--image-column", "photo"]) == 0


@pytest.mark.parametrize("command", ["attention", "embed"])
def test_a_place_that_cannot_be_written_is_refused_before_weights_are_loaded(
    command, photos, tmp_path, capsys
):
    (tmp_path / "file").write_text("mine")
    main = importlib.import_module(f"dino_infer.cli.{command}").main
    out = tmp_path / "file" / "under" / "out.npy"
    assert main([str(photos), "-o", str(out), "--weights", "no/such/weights"]) == 1
    assert "is a file; pass another --out" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"
