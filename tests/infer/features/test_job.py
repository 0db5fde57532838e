"""Embedding into files: stopped and gone on with, in shares, and into partitions."""

import json
import shutil

import numpy as np
import pyarrow.parquet
import pytest
import safetensors.numpy

from dino_infer.errors import DataError, DinoError
from dino_infer.features.files import read_features
from dino_infer.features.job import embed_to_file, embed_to_folder
from dino_infer.features.output import Output
from dino_infer.features.shards import Share, merge_shares
from dino_infer.sources.image_list import list_images
from tests.infer.pixel_engine import PixelEngine, contents, pixel_embedder

EVERY_BATCH = 0.0  # seconds between commits
SUFFIXES = (".npy", ".safetensors", ".parquet")
BAD = ["class_0/000a.png", "class_1/empty.jpg"]


@pytest.fixture
def images(image_folder):
    """22 images in 3 classes, of which 2 cannot be read."""
    folder = image_folder(count=20)
    (folder / BAD[0]).write_bytes(b"\x89PNG nonsense")
    (folder / BAD[1]).touch()
    return list_images([folder])


@pytest.fixture
def made(tmp_path):
    """A function that makes an empty folder for outputs."""

    def make(name):
        path = tmp_path / name
        path.mkdir()
        return path

    return make


def names_of(images):
    return [images.name(place) for place in range(len(images))]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_set_holds_rows_names_classes_and_failures(images, made, suffix):
    out = made("out") / f"feats{suffix}"
    outcome = embed_to_file(pixel_embedder(), images, out)
    assert (outcome.images, outcome.rows, outcome.failed, outcome.dim) == (22, 20, 2, 16)
    features = read_features(out, verify=True)
    expected = pixel_embedder().embed(images)
    assert np.array_equal(features.matrix, expected.features)
    assert features.paths == tuple(name for name in names_of(images) if name not in BAD)
    assert list(features.labels) == [path.split("/")[0] for path in features.paths]
    assert (features.manifest["images"], features.manifest["failed"]) == (22, 2)
    failures = map(json.loads, out.with_suffix(".failed.jsonl").read_text().splitlines())
    assert [(f["path"], f["kind"]) for f in failures] == [
        (BAD[0], "unsupported"),
        (BAD[1], "empty"),
    ]
    others = {"feats.parquet", "feats.json", "feats.failed.jsonl", out.name}
    assert set(contents(out.parent)) == others


def test_a_safetensors_file_is_read_by_its_own_library(images, made):
    out = made("out") / "feats.safetensors"
    embed_to_file(pixel_embedder(), images, out, output=Output(dtype="float16"))
    (name, matrix), *others = safetensors.numpy.load_file(out).items()
    assert (name, others, matrix.dtype) == ("features", [], np.float16)
    assert np.array_equal(matrix, read_features(out).matrix)


def test_a_parquet_file_holds_vectors_of_one_length(images, made):
    out = made("out") / "feats.parquet"
    embed_to_file(pixel_embedder(), images, out)
    table = pyarrow.parquet.read_table(out)
    assert table.schema.field("embedding").type == pyarrow.list_(pyarrow.float32(), 16)
    expected = pixel_embedder().embed(images).features
    assert np.array_equal(np.array(table["embedding"].to_pylist(), np.float32), expected)
    assert "embedding" not in pyarrow.parquet.read_schema(_npy_table(images, made)).names


def _npy_table(images, made):
    out = made("npy") / "feats.npy"
    embed_to_file(pixel_embedder(), images, out)
    return out.with_suffix(".parquet")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_half_precision_rounds_and_nothing_else(images, made, suffix):
    out = made("out") / f"feats{suffix}"
    embed_to_file(pixel_embedder(), images, out, output=Output(dtype="float16"))
    matrix = read_features(out).matrix
    assert matrix.dtype == np.float16
    assert np.array_equal(matrix, pixel_embedder().embed(images).features.astype(np.float16))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_matrices_of_patches_are_stored_but_not_in_a_table(images, made, suffix):
    embedder = pixel_embedder(PixelEngine(shape=(6, 5)))
    out = made("out") / f"feats{suffix}"
    if suffix == ".parquet":
        with pytest.raises(DataError, match=r"one vector an image, got features of shape \(6, 5\)"):
            embed_to_file(embedder, images, out)
        assert contents(out.parent) == {}
    else:
        assert embed_to_file(embedder, images, out).dim == 5
        features = read_features(out, verify=True)
        assert features.matrix.shape == (20, 6, 5) and features.manifest["shape"] == [20, 6, 5]
        assert np.array_equal(features.matrix, embedder.embed(images).features)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("stop_after", [0, 1, 3, 5])
def test_a_stopped_job_goes_on_to_the_same_bytes(images, made, suffix, stop_after):
    whole, stopped = made("whole") / f"feats{suffix}", made("stopped") / f"feats{suffix}"
    embed_to_file(pixel_embedder(), images, whole)
    output = Output(commit_every_s=EVERY_BATCH, resume=True)
    with pytest.raises(KeyboardInterrupt):
        engine = PixelEngine(stop_after=stop_after)
        embed_to_file(pixel_embedder(engine), images, stopped, output=output)
    assert not stopped.exists() and not stopped.with_suffix(".json").exists()
    rest = PixelEngine()
    embed_to_file(pixel_embedder(rest), images, stopped, output=output)
    assert engine.seen + rest.seen == 20  # none twice
    assert contents(stopped.parent) == contents(whole.parent)


def test_without_a_commit_a_stopped_job_begins_again(images, made):
    whole, stopped = made("whole") / "feats.npy", made("stopped") / "feats.npy"
    embed_to_file(pixel_embedder(), images, whole)
    output = Output(commit_every_s=1000, resume=True)
    with pytest.raises(KeyboardInterrupt):
        embed_to_file(pixel_embedder(PixelEngine(stop_after=3)), images, stopped, output=output)
    rest = PixelEngine()
    embed_to_file(pixel_embedder(rest), images, stopped, output=output)
    assert rest.seen == 20
    assert contents(stopped.parent) == contents(whole.parent)


def test_resuming_a_finished_set_does_nothing(images, made):
    out = made("out") / "feats.npy"
    first = embed_to_file(pixel_embedder(), images, out)
    before, engine = contents(out.parent), PixelEngine()
    again = embed_to_file(pixel_embedder(engine), images, out, output=Output(resume=True))
    assert (again, engine.seen) == (first, 0)
    assert contents(out.parent) == before


def _stopped(images, out):
    with pytest.raises(KeyboardInterrupt):
        embedder = pixel_embedder(PixelEngine(stop_after=2))
        embed_to_file(embedder, images, out, output=Output(commit_every_s=EVERY_BATCH))


@pytest.mark.parametrize("finished", [False, True])
def test_going_on_with_other_settings_names_the_difference(images, made, finished):
    out = made("out") / "feats.npy"
    if finished:
        embed_to_file(pixel_embedder(), images, out)
    else:
        _stopped(images, out)
    before = contents(out.parent)
    attempts = {
        "dtype was 'float32' and is 'float16'": {"output": Output(dtype="float16", resume=True)},
        "on_error was 'skip' and is 'nan'": {"output": Output(on_error="nan", resume=True)},
        "images was 22 and is 4": {"images": images.select(range(4))},
        f"weights_sha256 was '{0:064x}' and": {"embedder": pixel_embedder(PixelEngine(seed=1))},
        "batch_size was 4 and is 8": {"embedder": pixel_embedder(batch_size=8)},
        "normalized was False and is True": {"embedder": pixel_embedder(normalize=True)},
    }
    for message, other in attempts.items():
        job = {"embedder": pixel_embedder(), "images": images, "output": Output(resume=True)}
        with pytest.raises(DataError, match=f"made differently: .*{message}"):
            embed_to_file(**(job | other), out=out)
    assert contents(out.parent) == before


def test_what_is_there_is_replaced_only_on_demand(images, made):
    out = made("out") / "feats.npy"
    embedder = pixel_embedder()
    _stopped(images, out)
    with pytest.raises(DataError, match="an unfinished set; pass `resume=True` .*`overwrite=True`"):
        embed_to_file(embedder, images, out)
    embed_to_file(embedder, images.select([0, 3]), out, output=Output(overwrite=True))
    assert read_features(out).matrix.shape == (2, 16)
    with pytest.raises(DataError, match=r"feats.npy' exists; pass `overwrite=True`"):
        embed_to_file(embedder, images, out)
    embed_to_file(embedder, images, out, output=Output(overwrite=True))
    fresh = made("fresh") / "feats.npy"
    embed_to_file(embedder, images, fresh)
    assert contents(out.parent) == contents(fresh.parent)


def test_the_folder_must_exist_before_the_work(images, tmp_path):
    engine = PixelEngine()
    with pytest.raises(DataError, match=r"folder '.*nowhere' does not exist; make it"):
        embed_to_file(pixel_embedder(engine), images, tmp_path / "nowhere" / "feats.npy")
    assert engine.seen == 0


def test_an_unreadable_image_may_end_the_job_and_be_mended(images, made, tmp_path):
    out = made("out") / "feats.npy"
    output = Output(on_error="fail", resume=True)
    for bad in BAD:
        with pytest.raises(DataError, match=f"'{bad}' cannot be read: .* mend it, or pass"):
            embed_to_file(pixel_embedder(), images, out, output=output)
        assert not out.exists()
        shutil.copy(tmp_path / "images" / "class_0" / "000.png", tmp_path / "images" / bad)
    assert embed_to_file(pixel_embedder(), images, out, output=output).rows == 22


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_unreadable_image_may_get_a_row_of_nan(images, made, suffix):
    out = made("out") / f"feats{suffix}"
    outcome = embed_to_file(pixel_embedder(), images, out, output=Output(on_error="nan"))
    assert (outcome.rows, outcome.failed) == (22, 2)
    features = read_features(out)
    assert list(features.paths) == names_of(images)
    bad = np.array([path in BAD for path in features.paths])
    assert np.isnan(features.matrix[bad]).all()
    assert np.array_equal(features.matrix[~bad], pixel_embedder().embed(images).features)
    statuses = pyarrow.parquet.read_table(out.with_suffix(".parquet"))["status"].to_pylist()
    assert [s for s in statuses if s != "ok"] == ["unsupported", "empty"]


def test_of_images_that_all_failed_only_the_failures_are_written(images, made):
    out = made("out") / "feats.npy"
    embed_to_file(pixel_embedder(), images, out)
    bad = images.select([names_of(images).index(name) for name in BAD])
    outcome = embed_to_file(pixel_embedder(), bad, out, output=Output(overwrite=True))
    assert (outcome.images, outcome.failed, outcome.rows) == (2, 2, 0)
    assert list(contents(out.parent)) == ["feats.failed.jsonl"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("count", [2, 3, 9])
def test_shards_merge_to_what_one_process_makes(images, made, suffix, count):
    single, shards = made("single") / f"feats{suffix}", made("shards") / f"feats{suffix}"
    whole, parts = PixelEngine(), []
    embed_to_file(pixel_embedder(whole), images, single)
    for index in reversed(range(count)):
        engine = PixelEngine()
        embed_to_file(pixel_embedder(engine), images, shards, share=Share(index, count))
        parts = engine.batches + parts
    assert parts == whole.batches  # the same images side by side
    outcome = merge_shares(shards, overwrite=False)
    assert (outcome.images, outcome.rows, outcome.failed, outcome.dim) == (22, 20, 2, 16)
    merged = {k: v for k, v in contents(shards.parent).items() if ".shard-" not in k}
    assert merged == contents(single.parent)
    names = {file.name for file in shards.parent.glob(f"feats.shard-*{suffix}")}
    assert names == {f"feats.shard-{index}-of-{count}{suffix}" for index in range(count)}


def test_a_shard_of_bad_images_is_a_part_like_any_other(tmp_path, image_folder, made):
    folder = image_folder(count=4, classes=1)
    for name in "abcd":
        (folder / "class_0" / f"000{name}.png").touch()
    images = list_images([folder])
    single, shards = made("single") / "feats.npy", made("shards") / "feats.npy"
    embed_to_file(pixel_embedder(batch_size=2), images, single)
    for index in range(4):
        embed_to_file(pixel_embedder(batch_size=2), images, shards, share=Share(index, 4))
    assert read_features(shards.with_name("feats.shard-1-of-4.npy")).matrix.shape == (0, 16)
    merge_shares(shards, overwrite=False)
    merged = {k: v for k, v in contents(shards.parent).items() if ".shard-" not in k}
    assert merged == contents(single.parent)


def test_a_shard_goes_on_as_any_other_set(images, made):
    whole, stopped = made("whole") / "feats.npy", made("stopped") / "feats.npy"
    share = Share(1, 2)
    embed_to_file(pixel_embedder(), images, whole, share=share)
    output = Output(commit_every_s=EVERY_BATCH, resume=True)
    for stop_after in (1, None):
        try:
            embedder = pixel_embedder(PixelEngine(stop_after=stop_after))
            embed_to_file(embedder, images, stopped, output=output, share=share)
        except KeyboardInterrupt:
            assert stop_after == 1
    assert contents(stopped.parent) == contents(whole.parent)


def test_only_all_shards_of_one_job_are_merged(images, made):
    out = made("out") / "feats.npy"
    with pytest.raises(DataError, match="such as 'feats.shard-0-of-2.npy', got shards of none"):
        merge_shares(out, overwrite=False)
    embed_to_file(pixel_embedder(), images, out, share=Share(0, 2))
    with pytest.raises(DataError, match=r"incomplete: 'feats.shard-1-of-2.npy' is missing"):
        merge_shares(out, overwrite=False)
    other = pixel_embedder(PixelEngine(seed=1))
    embed_to_file(other, images, out, share=Share(1, 2))
    with pytest.raises(
        DataError, match=r"shard-1-of-2.npy' was made differently: weights_sha256 was"
    ):
        merge_shares(out, overwrite=False)
    embed_to_file(pixel_embedder(), images, out, share=Share(0, 3))
    with pytest.raises(DataError, match=r"expected the shards of one job .* got shards of \[2, 3]"):
        merge_shares(out, overwrite=False)
    assert not out.exists()


def test_merging_replaces_a_set_only_on_demand(images, made):
    out = made("out") / "feats.npy"
    for index in range(2):
        embed_to_file(pixel_embedder(), images, out, share=Share(index, 2))
    merge_shares(out, overwrite=False)
    with pytest.raises(DataError, match="exists; pass `overwrite=True`"):
        merge_shares(out, overwrite=False)
    before = contents(out.parent)
    merge_shares(out, overwrite=True)
    assert contents(out.parent) == before


def test_a_merge_that_was_killed_is_made_again(images, made):
    out = made("out") / "feats.npy"
    for index in range(2):
        embed_to_file(pixel_embedder(), images, out, share=Share(index, 2))
    merge_shares(out, overwrite=False)
    whole = contents(out.parent)
    for path in (out, out.with_suffix(".json")):
        path.unlink()
    shutil.copytree(made("left"), out.with_name("feats.npy.partial"))
    out.with_name("feats.npy.partial").joinpath("job.json").write_text("{}")
    merge_shares(out, overwrite=True)
    assert contents(out.parent) == whole


def test_embedding_reader_reads_a_folder(images, made):
    from embedding_reader import EmbeddingReader

    out = made("out")
    embed_to_folder(pixel_embedder(), images, out, partition_size=8)
    reader = EmbeddingReader(
        embeddings_folder=str(out / "img_emb"),
        metadata_folder=str(out / "metadata"),
        meta_columns=["image_path"],
        file_format="parquet_npy",
    )
    rows, paths = [], []
    for part, table in reader(batch_size=7, show_progress=False):
        rows.append(part)
        paths += table["image_path"].tolist()
    assert np.array_equal(np.concatenate(rows), pixel_embedder().embed(images).features)
    assert paths == [name for name in names_of(images) if name not in BAD]


def test_no_partition_of_an_older_folder_is_left(images, made):
    out = made("out")
    embed_to_folder(pixel_embedder(), images, out, partition_size=8)
    output = Output(resume=True)
    with pytest.raises(DataError, match="holds 'img_emb_0002.npy', but there are only 2"):
        embed_to_folder(pixel_embedder(), images, out, partition_size=16, output=output)
    output = Output(overwrite=True)
    embed_to_folder(pixel_embedder(), images, out, partition_size=16, output=output)
    assert [path.name for path in sorted((out / "img_emb").iterdir())] == [
        "img_emb_0000.npy",
        "img_emb_0001.npy",
    ]
    assert not list(out.glob("*/*_0002.*"))


def test_partitions_pair_a_matrix_with_a_table(images, made):
    # As readers of such folders do: the n-th .npy in the order of names belongs to the n-th
    # .parquet, row by row.
    out = made("out")
    outcome = embed_to_folder(pixel_embedder(), images, out, partition_size=8)
    assert (outcome.images, outcome.rows, outcome.failed, outcome.dim) == (22, 20, 2, 16)
    matrices = sorted((out / "img_emb").iterdir())
    tables = sorted((out / "metadata").iterdir())
    assert [path.name for path in matrices] == [f"img_emb_{n:04}.npy" for n in range(3)]
    assert [path.name for path in tables] == [f"metadata_{n:04}.parquet" for n in range(3)]
    rows = [np.load(path) for path in matrices]
    paths = [pyarrow.parquet.read_table(path)["image_path"].to_pylist() for path in tables]
    assert [len(part) for part in rows] == [len(part) for part in paths]
    assert np.array_equal(np.concatenate(rows), pixel_embedder().embed(images).features)
    assert [path for part in paths for path in part] == [
        name for name in names_of(images) if name not in BAD
    ]
    failed = [path.read_text() for path in sorted((out / "failed").iterdir())]
    assert [json.loads(line)["path"] for part in failed for line in part.splitlines()] == BAD
    manifests = [json.loads(path.read_bytes()) for path in sorted((out / "manifests").iterdir())]
    assert [manifest["partition"] for manifest in manifests] == ["0/3", "1/3", "2/3"]


def test_a_stopped_folder_goes_on_without_what_is_finished(images, made):
    whole, stopped = made("whole"), made("stopped")
    embed_to_folder(pixel_embedder(), images, whole, partition_size=8)
    output = Output(commit_every_s=EVERY_BATCH, resume=True)
    first, rest = PixelEngine(stop_after=3), PixelEngine()
    with pytest.raises(KeyboardInterrupt):
        embed_to_folder(pixel_embedder(first), images, stopped, partition_size=8, output=output)
    finished = {path.name: path.stat().st_ino for path in (stopped / "img_emb").glob("*.npy")}
    assert "img_emb_0000.npy" in finished and len(finished) < 3
    embed_to_folder(pixel_embedder(rest), images, stopped, partition_size=8, output=output)
    assert first.seen + rest.seen == 20
    assert contents(stopped) == contents(whole)
    assert (stopped / "img_emb" / "img_emb_0000.npy").stat().st_ino in finished.values()


def test_shards_of_a_folder_are_whole_partitions(images, made):
    whole, shared = made("whole"), made("shared")
    embed_to_folder(pixel_embedder(), images, whole, partition_size=8)
    seen = []
    for index in range(5):
        before = set(contents(shared))
        share = Share(index, 5)
        embed_to_folder(pixel_embedder(), images, shared, partition_size=8, share=share)
        seen.append(set(contents(shared)) - before)
    assert sorted(map(len, seen)) == [0, 0, 4, 4, 4]
    assert contents(shared) == contents(whole)


def test_images_larger_than_the_memory_of_the_device_are_halved(images, made):
    whole, tight = made("whole") / "feats.npy", made("tight") / "feats.npy"
    embed_to_file(pixel_embedder(batch_size=8), images, whole)
    engine = PixelEngine(memory_images=3)
    embed_to_file(pixel_embedder(engine, batch_size=8), images, tight)
    assert max(engine.batches) == 3 and engine.seen == 20
    assert contents(tight.parent) == contents(whole.parent)
    with pytest.raises(DinoError, match="one image of .* is too much"):
        none = PixelEngine(memory_images=0)
        embed_to_file(pixel_embedder(none), images, made("none") / "feats.npy")
