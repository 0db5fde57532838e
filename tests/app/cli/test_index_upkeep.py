"""dino-index copy, snapshots, verify and duplicates: whole indexes."""

import json
import shutil

from dino_infer.cli import embed
from tests.app.cli.indexed_items import assert_same_items, items_of


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
    assert (found.code, found.out) == (0, f"{tmp_path / 'twins.csv'}\n")
    assert found.err == "1 groups, 1 pictures that could go\n"
    header, *rows = (tmp_path / "twins.csv").read_text().splitlines()
    assert header == "group,kind,keep,id,similarity,width,height,bytes"
    assert [row.rpartition(",")[0] for row in rows] == [
        "1,exact,yes,cat/3.png,1.0000,140,100",
        "1,exact,no,twin.png,1.0000,140,100",
    ]
    (group,) = json.loads(dino_index("duplicates", index, "--threshold", 1, "--json").out)
    assert group["keep"] == "cat/3.png" and len(group["members"]) == 2


def test_files_of_one_time_in_an_index_of_features_may_be_links(
    dino_index, tmp_path, photos, weights
):
    (photos / "cat" / "alias.png").symlink_to("3.png")
    embed.main([str(photos / "cat"), "-o", str(tmp_path / "f.npy"), "--weights", weights])
    dino_index("build", tmp_path / "f.npy", "-o", tmp_path / "f.index")
    found = dino_index("duplicates", tmp_path / "f.index", "--threshold", 1)
    assert "1 may be links (same bytes and time)" in found.err
