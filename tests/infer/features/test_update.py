"""Bringing features up to date embeds what is new or changed, and nothing else."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from dino_infer.errors import DataError
from dino_infer.features import update as older_rows
from dino_infer.features.files import read_features
from dino_infer.features.job import embed_to_file
from dino_infer.features.output import Output
from dino_infer.features.table import table_rows
from dino_infer.sources.image_list import list_images
from tests.infer.pixel_engine import PixelEngine, contents, pixel_embedder

SAME = 1e-6  # of float32, where batches hold other images
UPDATE = Output(update=True)


@pytest.fixture
def folder(image_folder):
    """20 images, and two that cannot be read."""
    folder = image_folder(count=20)
    (folder / "class_0" / "000a.png").write_bytes(b"\x89PNG nonsense")
    (folder / "class_1" / "empty.jpg").touch()
    return folder


@pytest.fixture
def out(tmp_path, folder):
    """Where the features of the folder are."""
    (tmp_path / "out").mkdir()
    out = tmp_path / "out" / "feats.npy"
    embed_to_file(pixel_embedder(), list_images([folder]), out)
    return out


def redraw(path, colour):
    """Another picture of the same name."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    Image.new("RGB", (30, 20), colour).save(path)
    os.utime(path, ns=(before + 10**9, before + 10**9))


def updated(folder, out, output=UPDATE, **options):
    """Images that were embedded."""
    engine = PixelEngine(**options)
    embed_to_file(pixel_embedder(engine), list_images([folder]), out, output=output)
    return engine


def assert_same_as_fresh(folder, out):
    fresh = out.parent.parent / "fresh" / out.name
    fresh.parent.mkdir()
    embed_to_file(pixel_embedder(), list_images([folder]), fresh)
    got, expected = read_features(out, verify=True), read_features(fresh)
    np.testing.assert_allclose(got.matrix, expected.matrix, atol=SAME, rtol=0)
    assert got.paths == expected.paths and list(got.labels) == list(expected.labels)
    tables = [path.with_suffix(".parquet") for path in (out, fresh)]
    assert list(table_rows(tables[0])) == list(table_rows(tables[1]))
    failures = out.with_suffix(".failed.jsonl").read_bytes()
    assert failures == fresh.with_suffix(".failed.jsonl").read_bytes()


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".parquet"])
def test_only_new_and_changed_images_are_embedded(folder, out, suffix):
    out = out.with_suffix(suffix)
    if suffix != ".npy":
        embed_to_file(pixel_embedder(), list_images([folder]), out, output=Output(overwrite=True))
    redraw(folder / "class_0" / "003.png", "red")
    redraw(folder / "class_2" / "new.png", "green")
    redraw(folder / "a new class.png", "blue")
    (folder / "a new class.png").rename(folder / "class_1" / "first.png")
    (folder / "class_0" / "006.png").unlink()
    (folder / "class_2" / "011.png").rename(folder / "class_2" / "renamed.png")
    assert updated(folder, out).seen == 4
    assert_same_as_fresh(folder, out)


def test_nothing_is_embedded_when_nothing_has_changed(folder, out):
    before = contents(out.parent)
    assert updated(folder, out).seen == 0
    assert contents(out.parent) == before


def test_images_that_failed_are_tried_again(folder, out):
    redraw(folder / "class_1" / "empty.jpg", "red")
    assert updated(folder, out).seen == 1
    assert_same_as_fresh(folder, out)
    assert read_features(out).manifest["failed"] == 1


def test_an_image_that_has_become_unreadable_loses_its_row(folder, out):
    (folder / "class_0" / "003.png").write_bytes(b"nonsense")
    assert updated(folder, out).seen == 0
    assert "class_0/003.png" not in read_features(out).paths
    assert_same_as_fresh(folder, out)


def test_rows_of_nan_are_not_taken_over(folder, out):
    nan = Output(on_error="nan", overwrite=True)
    embed_to_file(pixel_embedder(), list_images([folder]), out, output=nan)
    redraw(folder / "class_1" / "empty.jpg", "red")
    assert updated(folder, out).seen == 1
    assert_same_as_fresh(folder, out)


def test_images_far_apart_are_put_back_into_their_places(folder, out, monkeypatch):
    monkeypatch.setattr(older_rows, "ROWS_AT_ONCE", 3)
    for i in range(0, 20, 3):
        redraw(folder / f"class_{i % 3}" / f"{i:03}.png", (10 * i, 0, 0))
    for i in (1, 2, 17):
        redraw(folder / f"class_{i % 3}" / f"{i:03}.png", (10 * i, 0, 90))
    assert updated(folder, out).seen == 10
    assert_same_as_fresh(folder, out)


@pytest.mark.parametrize("stop_after", [0, 1, 2])
def test_a_stopped_update_goes_on_to_the_same_bytes(folder, out, monkeypatch, stop_after):
    monkeypatch.setattr(older_rows, "ROWS_AT_ONCE", 3)
    stopped = out.parent.parent / "stopped" / out.name
    stopped.parent.mkdir()
    for name, data in contents(out.parent).items():
        (stopped.parent / name).write_bytes(data)
    for i in range(0, 20, 2):
        redraw(folder / f"class_{i % 3}" / f"{i:03}.png", (10 * i, 0, 0))
    assert updated(folder, out).batches == [3, 4, 3]  # with the two that cannot be read
    output = Output(update=True, resume=True, commit_every_s=0.0)
    before = contents(stopped.parent)
    with pytest.raises(KeyboardInterrupt):
        updated(folder, stopped, output, stop_after=stop_after)
    after = contents(stopped.parent)
    assert {name: after[name] for name in before} == before  # the old set can still be used
    assert updated(folder, stopped, output).batches == [3, 4, 3][stop_after:]
    assert contents(stopped.parent) == contents(out.parent)


def test_an_update_that_an_image_stops_goes_on_at_a_whole_batch(folder, out, monkeypatch):
    for bad in ("class_0/000a.png", "class_1/empty.jpg"):
        redraw(folder / bad, "white")
    output = Output(on_error="fail", overwrite=True)
    embed_to_file(pixel_embedder(), list_images([folder]), out, output=output)
    monkeypatch.setattr(older_rows, "ROWS_AT_ONCE", 2)
    for i in range(0, 20, 3):
        redraw(folder / "class_0" / f"{i:03}.png", (10 * i, 0, 0))
    redraw(folder / "class_0" / "018.png", "red")
    (folder / "class_0" / "018.png").write_bytes(b"nonsense")
    output = Output(on_error="fail", update=True, resume=True, commit_every_s=0.0)
    with pytest.raises(DataError, match=r"018.png' cannot be read"):
        updated(folder, out, output)
    redraw(folder / "class_0" / "018.png", "red")
    assert updated(folder, out, output).batches == [3]
    assert_same_as_fresh(folder, out)


def test_a_finished_set_is_updated_whether_or_not_resume_is_passed(folder, out):
    redraw(folder / "class_2" / "new.png", "green")
    assert updated(folder, out, Output(update=True, resume=True)).seen == 1
    assert_same_as_fresh(folder, out)


def test_rows_made_otherwise_are_not_mixed(folder, out):
    before = contents(out.parent)
    with pytest.raises(DataError, match=r"made differently: weights_sha256 was '0+' and is '0+1'"):
        updated(folder, out, seed=1)
    with pytest.raises(DataError, match=r"made differently: dtype was 'float32' and is 'float16'"):
        updated(folder, out, Output(update=True, dtype="float16"))
    assert contents(out.parent) == before


def test_there_must_be_something_to_update(folder, tmp_path):
    with pytest.raises(DataError, match="no finished set at .*; leave `update=True` away"):
        updated(folder, tmp_path / "feats.npy")


def test_the_manifest_tells_of_the_new_list(folder, out):
    before = json.loads(out.with_suffix(".json").read_bytes())
    redraw(folder / "class_2" / "new.png", "green")
    updated(folder, out)
    after = json.loads(out.with_suffix(".json").read_bytes())
    assert {name for name in before if before[name] != after[name]} == {
        "rows", "shape", "images", "images_fingerprint", "files_sha256",
    }  # fmt: skip


def burst(folder, colours):
    """Files of the same names, sizes and times whatever they show."""
    folder.mkdir()
    for i, colour in enumerate(colours):
        path = folder / f"frame_{i:04}.bmp"
        Image.new("RGB", (30, 20), colour).save(path)
        os.utime(path, ns=(10**18, 10**18))
    return folder


def features_of(sources, out, output=UPDATE):
    engine = PixelEngine()
    embed_to_file(pixel_embedder(engine), list_images(sources), out, output=output)
    return read_features(out, verify=True).matrix.copy(), engine.seen


def test_equal_names_of_two_sources_keep_their_own_rows(tmp_path):
    one = burst(tmp_path / "cam0", ["red", "blue"])
    two = burst(tmp_path / "cam1", ["green", "white"])
    first, _ = features_of([one, two], tmp_path / "t.npy", Output())
    again, seen = features_of([one, two], tmp_path / "t.npy")
    assert seen == 0 and np.array_equal(again, first)
    assert len(np.unique(first, axis=0)) == 4
    swapped, seen = features_of([two, one], tmp_path / "t.npy")
    assert seen == 0 and np.array_equal(swapped, first[[2, 3, 0, 1]])
    assert [row.source for row in table_rows(tmp_path / "t.parquet")] == [0, 0, 1, 1]
    alone, seen = features_of([one], tmp_path / "t.npy")
    assert seen == 0 and np.array_equal(alone, first[:2])


def test_another_folder_of_equal_names_sizes_and_times_is_embedded(tmp_path):
    one = burst(tmp_path / "a", ["red", "blue"])
    two = burst(tmp_path / "b", ["red", "white"])
    first, _ = features_of([one], tmp_path / "t.npy", Output())
    second, seen = features_of([two], tmp_path / "t.npy")
    assert seen == 1  # the other holds the same bytes
    fresh, _ = features_of([two], tmp_path / "fresh.npy", Output())
    np.testing.assert_allclose(second, fresh, atol=SAME, rtol=0)
    assert not np.array_equal(first[1], second[1])


def test_a_folder_that_was_moved_is_updated_without_embedding(tmp_path):
    one = burst(tmp_path / "a", ["red", "blue"])
    first, _ = features_of([one], tmp_path / "t.npy", Output())
    moved = one.rename(tmp_path / "b")
    os.utime(moved / "frame_0001.bmp", ns=(2 * 10**18, 2 * 10**18))  # as some copies do
    again, seen = features_of([moved], tmp_path / "t.npy")
    assert seen == 0 and np.array_equal(again, first)
    times = [row.file.modified_ns for row in table_rows(tmp_path / "t.parquet")]
    assert times == [10**18, 2 * 10**18]


@pytest.mark.parametrize("finished", [True, False])
def test_another_folder_is_not_resumed_into_a_set(tmp_path, finished):
    one = burst(tmp_path / "a", ["red", "blue", "green", "white", "black"])
    two = burst(tmp_path / "b", ["black", "white", "green", "blue", "red"])
    output = Output(resume=True, commit_every_s=0.0)
    engine = PixelEngine(stop_after=None if finished else 1)
    try:
        embed_to_file(pixel_embedder(engine), list_images(one), tmp_path / "t.npy", output=output)
    except KeyboardInterrupt:
        assert not finished
    before = contents(tmp_path)
    with pytest.raises(DataError, match=r"sources was '.*/a' and is '.*/b'; use the same images"):
        features_of([two], tmp_path / "t.npy", output)
    assert contents(tmp_path) == before


def test_a_damaged_set_is_not_updated(folder, out):
    data = bytearray(out.read_bytes())
    data[-1] ^= 1
    out.write_bytes(data)
    with pytest.raises(DataError, match=r"feats.npy' has changed since it was written"):
        updated(folder, out)
