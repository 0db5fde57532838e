"""dino-index: an index built, searched, changed, copied; results on stdout, exact exit codes."""

import io
import json
import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dino_app.indexing.indexes import copy_index
from dino_app.store.faiss_store import FaissStore
from dino_app.store.opening import open_store
from dino_infer.cli import embed
from dino_infer.files import hold_output

ROOT = Path(__file__).parents[3]
ROUNDING = 1e-5  # of float32, where batches hold other images


def items_of(location):
    with closing(open_store(location)) as store:
        return {item.id: item for part in store.items() for item in part}


def assert_same_items(found, expected):
    assert found.keys() == expected.keys()
    for id, item in expected.items():
        assert dict(found[id].metadata) == dict(item.metadata)
        assert found[id].thumbnail == item.thumbnail
        np.testing.assert_allclose(found[id].vector, item.vector, atol=ROUNDING)


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


def test_an_item_is_not_its_own_neighbour_and_filters_hold(dino_index, built):
    found = dino_index("search", built.index, "--id", "cat/0.png", "--json", "-k", 30)
    results = json.loads(found.out)["results"]
    assert len(results) == 15 and "cat/0.png" not in [hit["id"] for hit in results]
    scores = [hit["score"] for hit in results]
    assert scores == sorted(scores, reverse=True)
    chosen = dino_index(
        *("search", built.index, "--id", "cat/0.png", "--json"),
        *("--filter", '{"label": "coffee"}'),
    )
    labels = {hit["metadata"]["label"] for hit in json.loads(chosen.out)["results"]}
    assert labels == {"coffee"}


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
    args = ["--weights", weights, "--precision", "fp32", "--partition-size", "10"]
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


def test_an_index_goes_to_milvus_and_back(dino_index, tmp_path, built):
    place = f"milvus:{tmp_path}/photos.db/photos"
    copied = dino_index("copy", built.index, place)
    assert (copied.code, copied.out) == (0, f"{place}: 16 items copied\n")
    found = dino_index("search", place, "--id", "cat/0.png", "-k", 4)
    assert found.out == dino_index("search", built.index, "--id", "cat/0.png", "-k", 4).out
    back = tmp_path / "back.index"
    assert dino_index("copy", place, back).code == 0
    assert_same_items(items_of(back), items_of(built.index))
    for name in ("model", "dim", "rows"):
        infos = [json.loads(dino_index("info", at, "--json").out) for at in (built.index, back)]
        assert infos[0][name] == infos[1][name]
    taken = dino_index("copy", built.index, place)
    assert taken.code == 1 and "is there already" in taken.err


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


def test_a_copy_is_there_when_it_is_complete(dino_index, tmp_path, built):
    (tmp_path / ".copy.index.7.dino-tmp-folder").mkdir()  # left by a killed process

    class Broken(FaissStore):
        """Gives one part and ends."""

        def items(self, *, batch=1000):
            yield next(super().items(batch=2))
            raise RuntimeError

    with closing(Broken.open(built.index)) as store, pytest.raises(RuntimeError):
        copy_index(store, str(tmp_path / "copy.index"))
    assert not list(tmp_path.iterdir())
    assert dino_index("copy", built.index, tmp_path / "copy.index").code == 0
    assert_same_items(items_of(tmp_path / "copy.index"), items_of(built.index))


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


def test_a_snapshot_brings_back_what_was_deleted(dino_index, index, built):
    assert dino_index("snapshot", index, "one").code == 0
    assert dino_index("snapshots", index).out == "one\n"
    dino_index("delete", index, "cat/0.png")
    assert dino_index("restore", index, "one").out == f"{index}: back at one, 16 items\n"
    assert_same_items(items_of(index), items_of(built.index))
    assert dino_index("snapshot", index, "one").code == 2
    assert "no snapshot" in dino_index("restore", index, "two").err


def test_verify_reads_everything(dino_index, index):
    found = dino_index("verify", index)
    assert (found.code, found.out) == (0, f"{index}: 16 items and 16 thumbnails are sound\n")
    (pictures,) = index.glob("thumbnails-*")
    data = bytearray(pictures.read_bytes())
    data[len(data) // 2] ^= 1
    pictures.write_bytes(data)
    found = dino_index("verify", index)
    assert (found.code, found.out) == (1, "")


def test_duplicates_are_printed_with_the_one_to_keep(dino_index, tmp_path, index, built):
    shutil.copy(built.photos / "cat" / "3.png", tmp_path / "twin.png")
    dino_index("add", index, tmp_path / "twin.png")
    found = dino_index("duplicates", index, "--threshold", 1, "-o", tmp_path / "twins.csv")
    assert (found.code, found.out) == (0, "")
    assert found.err == "1 groups, 1 pictures that could go\n"
    header, *rows = (tmp_path / "twins.csv").read_text().splitlines()
    assert header == "group,kind,keep,id,similarity,width,height,bytes"
    assert [row.rpartition(",")[0] for row in rows] == [
        "1,exact,yes,cat/3.png,1.0000,140,100",
        "1,exact,no,twin.png,1.0000,140,100",
    ]
    (group,) = json.loads(dino_index("duplicates", index, "--threshold", 1, "--json").out)
    assert group["keep"] == "cat/3.png" and len(group["members"]) == 2


def test_links_are_the_picture_that_they_lead_to(dino_index, tmp_path, photos, weights):
    folder, index = photos / "cat", tmp_path / "photos.index"
    (folder / "00 alias.png").symlink_to("3.png")
    (folder / "hard.png").hardlink_to(folder / "5.png")
    shutil.copy(folder / "7.png", folder / "copy.png")
    made = dino_index("build", folder, folder / "1.png", "-o", index, "--weights", weights)
    assert made.code == 0 and "3 of 12 names are links" in made.err
    assert items_of(index).keys() == {f"{i}.png" for i in range(8)} | {"copy.png"}
    found = dino_index("duplicates", index, "--threshold", 1)
    assert [row.split(",")[3] for row in found.out.splitlines()[1:]] == ["7.png", "copy.png"]
    assert found.err == "1 groups, 1 pictures that could go\n"


def test_files_of_one_time_in_an_index_of_features_may_be_links(
    dino_index, tmp_path, photos, weights
):
    (photos / "cat" / "alias.png").symlink_to("3.png")
    embed.main([str(photos / "cat"), "-o", str(tmp_path / "f.npy"), "--weights", weights])
    dino_index("build", tmp_path / "f.npy", "-o", tmp_path / "f.index")
    found = dino_index("duplicates", tmp_path / "f.index", "--threshold", 1)
    assert "1 may be links (same bytes and time)" in found.err


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


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["search", "nowhere", "--id", "x"], 1, "no index at 'nowhere'; make it with dino-index"),
        (["add", "nowhere", "{photos}"], 1, "no index at 'nowhere'; make it with dino-index"),
        (["search", "{index}", "--id", "x"], 1, "no item 'x'"),
        (["search", "{index}"], 2, "pass one of --image, --id and --vector"),
        (["search", "{index}", "--id", "x", "-k", "0"], 2, "--k must be at least 1"),
        (["search", "{index}", "--id", "x", "-k", "1001"], 2, "--k must be at most 1000"),
        (["search", "{index}", "--id", "x", "--filter", "{{"], 2, "--filter: Expecting"),
        (["search", "{index}", "--id", "x", "--filter", "[1]"], 2, "--filter: expected a filter"),
        (["search", "{index}", "--vector", "nan.npy"], 1, "holds values that are not finite"),
        (["search", "{index}", "--vector", "short.npy"], 1, "must have the shape (queries, 128)"),
        (["search", "{index}", "--vector", "two.npy"], 1, "expected one vector, got an array"),
        (["search", "{index}", "--vector", "pickled.npy"], 1, "Object arrays cannot be loaded"),
        (["search", "{index}", "--vector", "text.npy"], 1, "expected a .npy file of one vector"),
        (["search", "{index}", "--vector", "none.npy"], 1, "No such file or directory: 'none.npy'"),
        (["build", "-o", "x.index"], 2, "no source given"),
        (["build", "empty", "-o", "x.index"], 1, "no image in "),
        (["build", "{photos}", "-o", "x.index", "--thumbnails", "-1"], 2, "--thumbnails must be"),
        (["build", "{photos}", "-o", "x.index", "--images", "y"], 2, "--images is for features"),
        (["build", "{photos}", "-o", "text.npy"], 1, "text.npy"),
        (["build", "{photos}", "-o", "x.index", "--index", "IVF"], 1, "--index IVF"),
        (["delete", "{index}"], 2, "pass either ids or --filter"),
        (["duplicates", "{index}", "--threshold", "2"], 2, "--threshold must be above 0"),
        (["info", "milvus:x/y"], 1, "expected milvus:FILE.db/COLLECTION or"),
        (["info", "milvus:x.db/y"], 1, "no index at 'milvus:x.db/y'"),
    ],
)
def test_what_is_wrong_is_one_line(
    dino_index, tmp_path, monkeypatch, built, weights, args, code, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.npy").write_text("no array")
    np.save("nan.npy", np.full(128, np.nan, np.float32))
    np.save("short.npy", np.ones(5))
    np.save("two.npy", np.ones((2, 128)))
    np.save("pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    before = sorted(os.listdir())
    args = [arg.format(index=built.index, photos=built.photos) for arg in args]
    found = dino_index(*args, *(["--weights", weights] if args[0] in ("build", "add") else []))
    assert (found.code, found.out) == (code, "")
    assert found.err.startswith("dino-index: error: ") and message in found.err
    assert found.err.count("\n") == 1 and sorted(os.listdir()) == before


def test_help_loads_nothing_heavy():
    program = (
        "import sys, dino_app; from dino_app.cli.index import main; code = main(['--help']); "
        "print(code, sorted({'torch', 'faiss', 'pymilvus', 'numpy'} & set(sys.modules)))"
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / "app")])
    run = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.splitlines()[-1] == "0 []"
