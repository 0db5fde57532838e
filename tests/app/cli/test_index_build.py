"""dino-index build, add and delete: items of images and of features."""

import io
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from dino_infer.cli import embed
from dino_infer.files import hold_output
from tests.app.cli.indexed_items import assert_same_items, items_of


def test_a_folder_becomes_an_index_that_finds_its_pictures(dino_index, built):
    items = items_of(built.index)
    assert len(items) == 16
    cat = items["cat/3.png"]
    stat = (built.photos / "cat" / "3.png").stat()
    expected = {"path": "cat/3.png", "label": "cat", "width": 140, "height": 100}
    expected |= {"bytes": stat.st_size, "modified_ns": stat.st_mtime_ns}
    assert expected.items() <= cat.metadata.items() and len(cat.metadata["sha256"]) == 64
    with Image.open(io.BytesIO(cat.thumbnail)) as picture:
        assert (picture.format, picture.size) == ("WEBP", (140, 100))
    query = built.photos / "coffee" / "5.png"
    found = dino_index("search", built.index, "--image", query, "-k", 3, "--precision", "fp32")
    assert found.code == 0 and found.err == ""
    first, *others = found.out.splitlines()
    assert first == " 1.0000  coffee/5.png  coffee" and len(others) == 2


def test_building_again_takes_only_what_is_new_or_changed(dino_index, tmp_path, photos, weights):
    out = tmp_path / "photos.index"
    args = ("build", photos, "-o", out, "--weights", weights)
    assert dino_index(*args).out == f"{out}: 16 items of 128, 16 new or changed; index Flat\n"
    assert dino_index(*args).out == f"{out}: 16 items of 128, 0 new or changed; index Flat\n"
    (photos / "cat" / "0.png").unlink()
    Image.new("RGB", (40, 40), "red").save(photos / "cat" / "1.png")
    Image.new("RGB", (40, 40), "blue").save(photos / "cat" / "new.png")
    again = dino_index(*args[:-2])  # the index knows its weights
    assert again.out == f"{out}: 17 items of 128, 2 new or changed; index Flat\n"
    pruned = dino_index(*args, "--prune")
    assert pruned.out == f"{out}: 16 items of 128, 0 new or changed, 1 pruned; index Flat\n"
    assert items_of(out)["cat/1.png"].metadata["width"] == 40


def test_pictures_of_one_name_size_and_time_in_another_folder_are_others(
    dino_index, tmp_path, weights
):
    for folder, colour in (("cam0", "red"), ("cam1", "blue")):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (40, 40), colour).save(tmp_path / folder / "frame.bmp")
        os.utime(tmp_path / folder / "frame.bmp", (1_700_000_000, 1_700_000_000))
    out = tmp_path / "f.index"
    dino_index("build", tmp_path / "cam0", "-o", out, "--weights", weights)
    for folder in ("cam1", "cam0"):
        before = items_of(out)["frame.bmp"]
        assert "1 new or changed" in dino_index("add", out, tmp_path / folder).out
        after = items_of(out)["frame.bmp"]
        assert after.metadata["sha256"] != before.metadata["sha256"]
        assert not np.allclose(after.vector, before.vector)
    (tmp_path / "cam0").rename(tmp_path / "moved")
    assert "0 new or changed" in dino_index("add", out, tmp_path / "moved").out
    both = dino_index("build", tmp_path / "moved", tmp_path / "cam1", "-o", tmp_path / "x.index")
    assert both.code == 1 and "moved/frame.bmp" in both.err and "cam1/frame.bmp" in both.err


def test_pictures_that_cannot_be_read_are_listed(dino_index, tmp_path, photos, weights):
    (photos / "cat" / "bad.png").write_bytes(b"nonsense")
    args = ("build", photos, "-o", f"{tmp_path}/x.index/", "--weights", weights)
    found = dino_index(*args)
    assert found.code == 3 and "1 of 17 images could not be read" in found.err
    (line,) = (tmp_path / "x.index.failed.jsonl").read_text().splitlines()
    assert json.loads(line)["path"] == "cat/bad.png"
    (photos / "cat" / "bad.png").unlink()
    assert dino_index(*args).code == 0
    assert not (tmp_path / "x.index.failed.jsonl").exists()


def test_where_nothing_can_be_read_there_is_no_index(dino_index, tmp_path, weights):
    (tmp_path / "bad.png").write_bytes(b"nonsense")
    found = dino_index("build", tmp_path, "-o", tmp_path / "x.index", "--weights", weights)
    assert (found.code, found.out) == (4, "")
    assert sorted(os.listdir(tmp_path)) == ["bad.png", "x.index.failed.jsonl"]


def test_items_are_added_and_deleted(dino_index, tmp_path, index):
    Image.new("RGB", (300, 50), "red").save(tmp_path / "red.png")
    added = dino_index("add", index, tmp_path / "red.png")
    assert added.out == f"{index}: 17 items of 128, 1 new or changed; index Flat\n"
    found = dino_index("delete", index, "red.png", "cat/0.png", "nope")
    assert (found.code, found.out) == (3, "2 items deleted\n")
    assert found.err == "warning: no item 'nope'\n"
    assert dino_index("delete", index, "nope").code == 4
    found = dino_index("delete", index, "--filter", '{"label": "cat"}')
    assert (found.code, found.out) == (0, "7 items deleted\n")
    assert {item.metadata["label"] for item in items_of(index).values()} == {"coffee"}


@pytest.mark.parametrize("out", ["feats.npy", "feats.parquet", "parts/"])
def test_features_make_the_same_index_as_their_images(
    dino_index, tmp_path, built, weights, capsys, out
):
    args = ["--weights", weights, "--precision", "fp32"]
    args += ["--partition-size", "10"] if out == "parts/" else []
    assert embed.main([str(built.photos), "-o", f"{tmp_path}/{out}", *args]) == 0
    capsys.readouterr()
    made = ("build", f"{tmp_path}/{out}", "-o", tmp_path / "x.index")
    assert dino_index(*made).code == 0
    items = items_of(tmp_path / "x.index")
    assert all(item.thumbnail is None for item in items.values())
    again = dino_index(*made, "--images", built.photos)
    assert "16 new or changed" in again.out
    assert_same_items(items_of(tmp_path / "x.index"), items_of(built.index))
    assert "0 new or changed" in dino_index(*made, "--images", built.photos).out
    query = built.photos / "cat" / "2.png"
    found = dino_index(
        *("search", tmp_path / "x.index", "--image", query, "--precision", "fp32"),
        *("--weights", weights),
    )
    assert found.out.startswith(" 1.0000  cat/2.png  cat\n")


def test_features_that_were_changed_or_hold_patches_are_refused(
    dino_index, tmp_path, built, weights, capsys
):
    args = ["--weights", weights, "--feature", "patches"]
    embed.main([str(built.photos), "-o", f"{tmp_path}/patches.npy", *args])
    embed.main([str(built.photos), "-o", f"{tmp_path}/cls.npy", "--weights", weights])
    capsys.readouterr()
    found = dino_index("build", tmp_path / "patches.npy", "-o", tmp_path / "x.index")
    assert found.code == 1 and "one vector an image" in found.err
    with (tmp_path / "cls.npy").open("r+b") as file:
        file.seek(500)
        file.write(b"\xff")
    found = dino_index("build", tmp_path / "cls.npy", "-o", tmp_path / "x.index")
    assert found.code == 1 and "has changed since it was written" in found.err
    assert not (tmp_path / "x.index").exists()


@pytest.mark.parametrize("command", ["build", "copy"])
def test_one_process_at_a_time_makes_an_index(
    dino_index, tmp_path, photos, weights, built, command
):
    place = tmp_path / "new.index"
    source, *options = [built.index] if command == "copy" else [photos, "--weights", weights]
    target = [place] if command == "copy" else ["-o", place]
    with hold_output(place, beside=True):
        found = dino_index(command, source, *target, *options)
    assert found.code == 1 and "already writes to" in found.err
    assert not place.exists()


def test_a_folder_that_is_no_index_is_neither_filled_nor_copied_over(
    dino_index, tmp_path, photos, weights, built
):
    place = tmp_path / "mine"
    place.mkdir()
    (place / "notes.txt").write_text("mine")
    found = dino_index("build", photos, "-o", place, "--weights", weights)
    assert found.code == 1 and "no index at" in found.err
    found = dino_index("copy", built.index, place)
    assert found.code == 1 and "is there already" in found.err
    found = dino_index("add", tmp_path / "a" / "b", photos)
    assert found.code == 1 and "no index at" in found.err
    assert [path.name for path in place.iterdir()] == ["notes.txt"]
    assert not (tmp_path / "a").exists()


def test_links_are_the_picture_that_they_lead_to(dino_index, tmp_path, photos, weights):
    folder, index = photos / "cat", tmp_path / "photos.index"
    (folder / "00 alias.png").symlink_to("3.png")
    (folder / "hard.png").hardlink_to(folder / "5.png")
    shutil.copy(folder / "7.png", folder / "copy.png")
    made = dino_index("build", folder, folder / "1.png", "-o", index, "--weights", weights)
    assert made.code == 0 and "3 of 12 names are links" in made.err
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "alias.png").symlink_to(folder / "3.png")
    assert ": 9 items of 128, 0 new or changed" in dino_index("add", index, tmp_path / "later").out
    assert items_of(index).keys() == {f"{i}.png" for i in range(8)} | {"copy.png"}
    found = dino_index("duplicates", index, "--threshold", 1)
    assert [row.split(",")[3] for row in found.out.splitlines()[1:]] == ["7.png", "copy.png"]
    assert found.err == "1 groups, 1 pictures that could go\n"


def test_a_table_with_an_unusual_column_is_indexed_by_its_name(
    dino_index, tmp_path, photos, weights
):
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = [path.read_bytes() for path in sorted((photos / "cat").iterdir())]
    pq.write_table(pa.table({"photo": data}), tmp_path / "t.parquet")
    args = ["build", tmp_path / "t.parquet", "-o", tmp_path / "t.index", "--weights", weights]
    refused = dino_index(*args)
    assert refused.code == 1 and "pass --image-column NAME" in refused.err
    assert dino_index(*args, "--image-column", "photo").code == 0
    assert len(items_of(tmp_path / "t.index")) == 8
