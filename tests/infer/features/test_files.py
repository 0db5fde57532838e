"""Feature sets on disk: round trip, order, and refusal of what does not belong together."""

import json
import os

import numpy as np
import pyarrow.parquet
import pytest
import safetensors.numpy
from PIL import Image

from dino_infer.embedding.decoding import ImageFile
from dino_infer.embedding.embedder import Embedding
from dino_infer.errors import DataError
from dino_infer.features.files import check_folder, feature_paths, partition_paths, read_features
from dino_infer.features.job import write_features
from dino_infer.images.read import ImageFailure
from dino_infer.sources.image_list import list_images

DESCRIPTION = {"arch": "vit_micro", "feature": "cls", "weights_sha256": "ab", "preprocess": {}}


@pytest.fixture
def images(tmp_path):
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3)).save(path)
    return list_images([tmp_path / "images"])


def embedding(ok=(True, False, True, True)):
    rows = sum(ok)
    return Embedding(
        features=np.arange(rows * 5, dtype=np.float32).reshape(rows, 5),
        ok=np.array(ok),
        failures=tuple(ImageFailure("a/2.png", "corrupt", "cut") for kept in ok if not kept),
        files=tuple(ImageFile(3, 4, f"{i:064x}", 70 + i, 10**18 + i) for i in range(rows)),
    )


def test_what_is_written_is_read(tmp_path, images):
    write_features(tmp_path / "feats.npy", embedding(), images, description=DESCRIPTION)
    features = read_features(tmp_path / "feats.npy", verify=True)
    assert np.array_equal(features.matrix, embedding().features)
    assert isinstance(features.matrix, np.memmap)
    assert features.paths == ("a/1.png", "b/1.png", "b/2.png")
    assert list(features.labels) == ["a", "b", "b"]
    assert features.manifest["rows"] == 3 and features.manifest["failed"] == 1
    assert features.manifest["weights_sha256"] == "ab"
    failures = (tmp_path / "feats.failed.jsonl").read_text().splitlines()
    assert json.loads(failures[0]) == {"path": "a/2.png", "kind": "corrupt", "reason": "cut"}


def test_the_table_has_the_documented_columns(tmp_path, images):
    write_features(tmp_path / "feats.npy", embedding(), images, description=DESCRIPTION)
    table = pyarrow.parquet.read_table(tmp_path / "feats.parquet")
    names = ["row", "path", "width", "height", "sha256", "bytes", "modified_ns", "status", "label"]
    assert table.column_names == names
    assert table.to_pylist()[1] == {
        "row": 1,
        "path": "b/1.png",
        "width": 4,
        "height": 3,
        "sha256": f"{1:064x}",
        "bytes": 71,
        "modified_ns": 10**18 + 1,
        "status": "ok",
        "label": "b",
    }


def test_images_without_classes_have_no_labels(tmp_path, images):
    Image.new("RGB", (4, 3)).save(tmp_path / "images" / "loose.png")
    listed = list_images([tmp_path / "images"])
    write_features(
        tmp_path / "feats.npy", embedding(ok=(True,) * 5), listed, description=DESCRIPTION
    )
    assert read_features(tmp_path / "feats.npy").labels is None


def test_two_writes_give_the_same_bytes(tmp_path, images):
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        write_features(tmp_path / name / "f.npy", embedding(), images, description=DESCRIPTION)
    for file in feature_paths("f.npy"):
        assert (tmp_path / "x" / file).read_bytes() == (tmp_path / "y" / file).read_bytes()


def test_names_that_are_no_utf8_survive(tmp_path):
    odd = os.fsencode(tmp_path) + b"/i/caf\xe9.png"
    os.mkdir(tmp_path / "i")
    Image.new("RGB", (4, 3)).save(tmp_path / "plain.png")
    os.rename(tmp_path / "plain.png", odd)
    images = list_images([tmp_path / "i"])
    write_features(tmp_path / "f.npy", embedding(ok=(True,)), images, description=DESCRIPTION)
    assert read_features(tmp_path / "f.npy").paths == (os.fsdecode(b"caf\xe9.png"),)
    table = pyarrow.parquet.read_table(tmp_path / "f.parquet")
    assert table["path"].to_pylist() == ["caf\\xe9.png"]


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".parquet"])
def test_every_format_holds_the_same_rows(tmp_path, images, suffix):
    out = tmp_path / f"feats{suffix}"
    write_features(out, embedding(), images, description=DESCRIPTION)
    features = read_features(out, verify=True)
    assert np.array_equal(features.matrix, embedding().features)
    assert features.paths == ("a/1.png", "b/1.png", "b/2.png")
    with out.open("r+b") as file:
        file.seek(-30, os.SEEK_END)
        file.write(bytes(30))
    with pytest.raises(DataError, match="has changed since it was written|are damaged"):
        read_features(out, verify=True)


@pytest.mark.parametrize("suffix", [".safetensors", ".parquet"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
def test_other_formats_cut_short_are_refused(tmp_path, images, suffix, share):
    out = tmp_path / f"feats{suffix}"
    write_features(out, embedding(), images, description=DESCRIPTION)
    data = out.read_bytes()
    out.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match="are damaged"):
        read_features(out)


def test_a_safetensors_file_of_other_tensors_is_named(tmp_path, images):
    out = tmp_path / "feats.safetensors"
    write_features(out, embedding(), images, description=DESCRIPTION)
    safetensors.numpy.save_file({"weights": np.zeros(3)}, out)
    with pytest.raises(DataError, match="holds no tensor named 'features'"):
        read_features(out)


def test_partitions_have_numbers_that_sort(tmp_path):
    paths = partition_paths(tmp_path, 7, count=20_000)
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        "img_emb/img_emb_00007.npy",
        "metadata/metadata_00007.parquet",
        "manifests/manifest_00007.json",
        "failed/failed_00007.jsonl",
    ]
    assert partition_paths(tmp_path, 7, count=2).matrix.name == "img_emb_0007.npy"


@pytest.mark.parametrize("missing", ["feats.npy", "feats.parquet", "feats.json"])
def test_a_missing_file_is_named(tmp_path, images, missing):
    write_features(tmp_path / "feats.npy", embedding(), images, description=DESCRIPTION)
    (tmp_path / missing).unlink()
    with pytest.raises(DataError, match=f"incomplete: '{missing}' is missing"):
        read_features(tmp_path / "feats.npy")


@pytest.mark.parametrize("name", ["feats.npy", "feats.parquet", "feats.json"])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_file_cut_short_is_refused(tmp_path, images, name, share):
    write_features(tmp_path / "feats.npy", embedding(), images, description=DESCRIPTION)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match="are damaged"):
        read_features(tmp_path / "feats.npy")


def test_files_of_two_sets_are_refused(tmp_path, images):
    write_features(tmp_path / "feats.npy", embedding(), images, description=DESCRIPTION)
    np.save(tmp_path / "feats.npy", np.zeros((7, 5), dtype=np.float32))
    with pytest.raises(DataError, match=r"says \(3, 5\), the matrix is \(7, 5\), the table has 3"):
        read_features(tmp_path / "feats.npy")


def test_a_changed_value_is_found_when_hashes_are_compared(tmp_path, images):
    write_features(tmp_path / "feats.npy", embedding(), images, description=DESCRIPTION)
    np.save(tmp_path / "feats.npy", np.zeros((3, 5), dtype=np.float32))
    with pytest.raises(DataError, match=r"feats.npy' has changed since it was written"):
        read_features(tmp_path / "feats.npy", verify=True)


def test_pickled_arrays_are_refused(tmp_path, images):
    write_features(tmp_path / "feats.npy", embedding(), images, description=DESCRIPTION)
    np.save(tmp_path / "feats.npy", np.array([{}], dtype=object))
    with pytest.raises(DataError, match="are damaged"):
        read_features(tmp_path / "feats.npy")


def test_a_failed_write_leaves_no_manifest_and_no_leftovers(tmp_path, images):
    write_features(tmp_path / "feats.npy", embedding(), images, description=DESCRIPTION)
    (tmp_path / "feats.parquet").unlink()
    (tmp_path / "feats.parquet").mkdir()
    with pytest.raises(DataError, match="cannot write features"):
        write_features(tmp_path / "feats.npy", embedding(), images, description=DESCRIPTION)
    assert sorted(os.listdir(tmp_path)) == [
        "feats.failed.jsonl",
        "feats.npy",
        "feats.parquet",
        "images",
    ]


def test_the_output_is_checked_before_the_work(tmp_path):
    message = r"ends in .npy, .safetensors, .parquet, or to a folder FOLDER/, got 'feats.csv'"
    with pytest.raises(DataError, match=message):
        feature_paths("feats.csv")
    with pytest.raises(DataError, match="folder .* does not exist"):
        check_folder(tmp_path / "nowhere")
    check_folder(tmp_path)


ODD_MANIFESTS = [
    b"[]", b"null", b"\xff", b"7", b"[" * 99_999, b"9" * 5000, b"{}",
    b'{"shape": null}', b'{"rows": "3", "shape": ["3", 5]}', b'{"rows": -1, "shape": [-1]}',
]  # fmt: skip


@pytest.mark.parametrize("content", ODD_MANIFESTS)
def test_a_manifest_of_odd_content_is_refused_in_one_line(tmp_path, images, content):
    write_features(tmp_path / "feats.npy", embedding(), images, description=DESCRIPTION)
    (tmp_path / "feats.json").write_bytes(content)
    with pytest.raises(DataError, match="are damaged") as caught:
        read_features(tmp_path / "feats.npy")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [10**30, True, "3", [], None, 3.0])
@pytest.mark.parametrize("entry", ["rows", "dim", "images", "failed", "shape", "files_sha256"])
def test_an_entry_of_a_manifest_that_cannot_be_is_refused(tmp_path, images, entry, value):
    write_features(tmp_path / "feats.npy", embedding(), images, description=DESCRIPTION)
    manifest = json.loads((tmp_path / "feats.json").read_bytes())
    (tmp_path / "feats.json").write_text(json.dumps(manifest | {entry: value}))
    with pytest.raises(DataError, match="are damaged"):
        read_features(tmp_path / "feats.npy")


def test_a_table_of_another_set_is_refused_without_reading_the_matrix(tmp_path, images):
    write_features(tmp_path / "feats.npy", embedding(), images, description=DESCRIPTION)
    others = images.select([3, 2, 1, 0])
    write_features(tmp_path / "others.npy", embedding(), others, description=DESCRIPTION)
    (tmp_path / "others.parquet").replace(tmp_path / "feats.parquet")
    with pytest.raises(DataError, match=r"feats.parquet' has changed since it was written"):
        read_features(tmp_path / "feats.npy")


def test_a_matrix_beside_the_manifest_of_another_format_is_refused(tmp_path, images):
    write_features(tmp_path / "feats.npy", embedding(), images, description=DESCRIPTION)
    write_features(tmp_path / "feats.safetensors", embedding(), images, description=DESCRIPTION)
    with pytest.raises(
        DataError, match=r"is the manifest of feats.parquet, feats.safetensors, not"
    ):
        read_features(tmp_path / "feats.npy")


def test_a_matrix_of_another_type_is_refused(tmp_path, images):
    write_features(tmp_path / "feats.npy", embedding(), images, description=DESCRIPTION)
    np.save(tmp_path / "feats.npy", np.zeros((3, 5), dtype=np.float64))
    with pytest.raises(DataError, match="manifest says float32, the matrix is float64"):
        read_features(tmp_path / "feats.npy")


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
@pytest.mark.parametrize("seed", range(40))
def test_any_damage_to_a_header_is_one_line_or_harmless(tmp_path, images, suffix, seed):
    out = tmp_path / f"feats{suffix}"
    write_features(out, embedding(), images, description=DESCRIPTION)
    rng, data = np.random.default_rng(seed), bytearray(out.read_bytes())
    for place in rng.integers(0, 120, size=3):
        data[place] = rng.integers(256)
    out.write_bytes(data)
    try:
        assert read_features(out).matrix.shape == (3, 5)
    except DataError as error:
        assert "\n" not in str(error)
