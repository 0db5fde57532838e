"""A feature set on its way to disk: whole lines count, the rest is cut off, memory is bounded."""

import json
from pathlib import Path

import numpy as np
import pytest

from dino_infer.embedding.decoding import ImageFile
from dino_infer.errors import DataError
from dino_infer.features.files import feature_paths, read_features
from dino_infer.features.table import TableRow
from dino_infer.features.unfinished import finished, recover_unfinished
from dino_infer.features.writer import FeatureWriter
from dino_infer.images.read import ImageFailure
from tests.infer.pixel_engine import contents

JOB = {"images": 10, "images_fingerprint": "ab", "dtype": "float32"}
WRITTEN_MB, GROWTH_MB = 300, 120
DIM = 6


def rows_of(start, stop):
    """Consecutive rows of a set, and their features."""
    names = [f"{i:03}.png" for i in range(start, stop)]
    rows = [TableRow(name, ImageFile(2, 3, "00", 9, 10**18)) for name in names]
    features = np.arange(start * DIM, stop * DIM, dtype=np.float32).reshape(-1, DIM)
    return features, rows


def append(writer, start, stop, *, failures=(), **options):
    features, rows = rows_of(start, stop)
    writer.append(features, rows, failures, images=stop - start + len(failures), **options)


def writer_of(folder, *, commit_every_s=0.0, job=JOB, name="feats.npy"):
    folder.mkdir(exist_ok=True)
    return FeatureWriter(feature_paths(folder / name), job=job, commit_every_s=commit_every_s)


@pytest.fixture
def whole(tmp_path):
    """The files of a set of 10 rows and a failure that nothing disturbed."""
    writer = writer_of(tmp_path / "whole")
    append(writer, 0, 4)
    append(writer, 4, 7, failures=[ImageFailure("x.png", "empty", "no bytes")])
    append(writer, 7, 10)
    writer.finish()
    return contents(tmp_path / "whole")


def finish_from(writer):
    """Append what is missing of the set of ten rows."""
    if writer.done.images == 0:
        append(writer, 0, 4)
    if writer.done.images == 4:
        append(writer, 4, 7, failures=[ImageFailure("x.png", "empty", "no bytes")])
    append(writer, 7, 10)
    writer.finish()


def test_a_set_is_not_there_until_it_is_finished(tmp_path, whole):
    assert set(whole) == {"feats.npy", "feats.parquet", "feats.json", "feats.failed.jsonl"}
    assert np.array_equal(read_features(tmp_path / "whole" / "feats.npy").matrix, rows_of(0, 10)[0])
    writer = writer_of(tmp_path / "new")
    append(writer, 0, 4)
    writer.close()
    paths = feature_paths(tmp_path / "new" / "feats.npy")
    assert all(name.startswith("feats.npy.partial/") for name in contents(tmp_path / "new"))
    assert recover_unfinished(paths) and finished(paths) is None


@pytest.mark.parametrize("file", ["rows", "table.jsonl", "failed.jsonl", "journal.jsonl"])
def test_what_follows_the_last_commit_is_cut_off(tmp_path, whole, file):
    writer = writer_of(tmp_path / "x")
    append(writer, 0, 4)
    writer.close()
    with (tmp_path / "x" / "feats.npy.partial" / file).open("ab") as torn:
        torn.write(b'{"images": 7, "sha')
    finish_from(writer_of(tmp_path / "x"))
    assert contents(tmp_path / "x") == whole


def test_a_batch_that_was_appended_in_part_does_not_count(tmp_path, whole):
    writer = writer_of(tmp_path / "x")
    append(writer, 0, 4)
    features, rows = rows_of(4, 7)
    rows[2] = rows[2]._replace(label=b"no text")  # fails after rows and two lines are written
    with pytest.raises(TypeError):
        writer.append(features, rows, [], images=3)
    writer.close()
    writer = writer_of(tmp_path / "x")
    assert (writer.done.images, writer.done.shape) == (4, (4, DIM))
    finish_from(writer)
    assert contents(tmp_path / "x") == whole


def test_a_set_goes_on_only_from_where_it_may(tmp_path, whole):
    writer = writer_of(tmp_path / "x")
    append(writer, 0, 4)
    append(writer, 4, 6, may_commit=False)
    writer.close()
    writer = writer_of(tmp_path / "x")
    assert writer.done.images == 4
    finish_from(writer)
    assert contents(tmp_path / "x") == whole


def test_an_unfinished_set_of_another_job_is_refused(tmp_path):
    writer_of(tmp_path / "x").close()
    with pytest.raises(DataError, match="dtype was 'float32' and is 'float16'; use the same"):
        writer_of(tmp_path / "x", job=JOB | {"dtype": "float16"})


def test_an_older_set_stays_until_the_new_one_is_whole(tmp_path, whole):
    append(writer := writer_of(tmp_path / "whole"), 0, 2)
    writer.commit()
    assert whole.items() <= contents(tmp_path / "whole").items()
    writer.finish()
    assert read_features(tmp_path / "whole" / "feats.npy", verify=True).matrix.shape == (2, DIM)
    assert recover_unfinished(feature_paths(tmp_path / "whole" / "feats.npy")) is False


@pytest.mark.parametrize("kept", [["rows"], ["journal.jsonl"], ["table.jsonl", "journal.jsonl"]])
def test_what_a_stopped_deletion_left_is_no_set(tmp_path, kept):
    append(writer := writer_of(tmp_path / "x"), 0, 4)
    writer.close()
    folder = tmp_path / "x" / "feats.npy.partial"
    for file in list(folder.iterdir()):
        if file.name not in kept:
            file.unlink()
    assert recover_unfinished(feature_paths(tmp_path / "x" / "feats.npy")) is False
    assert not folder.exists()


def test_the_manifest_tells_what_is_in_the_files(whole):
    manifest = json.loads(whole["feats.json"])
    assert manifest["shape"] == [10, DIM] and (manifest["rows"], manifest["dim"]) == (10, DIM)
    assert manifest["failed"] == 1 and manifest["images_fingerprint"] == "ab"
    assert set(manifest["files_sha256"]) == {"feats.npy", "feats.parquet"}


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_memory_is_bounded_whatever_the_size_of_the_set(tmp_path, suffix):
    def peak_mb():
        status = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1e3

    features = np.random.default_rng(0).random((1000, 1000), dtype=np.float32)
    rows = [TableRow("a" * 40, ImageFile(2, 3, "0" * 64, 9, 10**18))] * 1000
    finish_from(writer_of(tmp_path / "first"))  # loads what is loaded on first use
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = peak_mb()
    writer = writer_of(tmp_path / "large", name=f"feats{suffix}", commit_every_s=1.0)
    for _ in range(WRITTEN_MB // 4):
        writer.append(features, rows, [], images=1000)
    writer.finish()
    assert peak_mb() - before < GROWTH_MB
    assert read_features(tmp_path / "large" / f"feats{suffix}").matrix.shape == (75_000, 1000)


def stopped(folder):
    """A set that was stopped after two commits; its unfinished folder."""
    append(writer := writer_of(folder), 0, 4)
    append(writer, 4, 7, failures=[ImageFailure("x.png", "empty", "no bytes")])
    writer.close()
    return folder / "feats.npy.partial"


@pytest.mark.parametrize("file", ["rows", "table.jsonl", "failed.jsonl"])
def test_what_was_flipped_in_an_unfinished_set_is_made_again(tmp_path, whole, file):
    partial = stopped(tmp_path / "x")
    data = bytearray((partial / file).read_bytes())
    data[-9] ^= 1
    (partial / file).write_bytes(data)
    writer = writer_of(tmp_path / "x")
    assert writer.done.images == 4
    finish_from(writer)
    assert contents(tmp_path / "x") == whole


LAST = b'{"images": 8, "shape": [7, 6], "failed": 1, "odd_names": false, "sizes": %s}\n'
ODD = [
    b"null\n", b"[]\n", b"\xff\xfe\n", b"{}\n", b"[" * 99_999 + b"\n", b"9" * 5000 + b"\n",
    LAST % b'["296", "1", "1"]', LAST % b"[-1, -1, -1]", LAST % b"[1e99, 1, 1]", LAST % b"null",
]  # fmt: skip


@pytest.mark.parametrize("line", ODD)
@pytest.mark.parametrize("instead", [True, False])
def test_lines_of_odd_content_in_a_journal_are_passed_over(tmp_path, whole, line, instead):
    journal = stopped(tmp_path / "x") / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([lines[0], line, *([] if instead else lines[1:])]))
    writer = writer_of(tmp_path / "x")
    assert writer.done.images == (4 if instead else 8)
    finish_from(writer)
    assert contents(tmp_path / "x") == whole


def test_a_number_that_changed_in_a_journal_is_not_believed(tmp_path, whole):
    journal = stopped(tmp_path / "x") / "journal.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b'"images": 8', b'"images": 9'))
    writer = writer_of(tmp_path / "x")
    assert writer.done.images == 4
    finish_from(writer)
    assert contents(tmp_path / "x") == whole


@pytest.mark.parametrize("content", [b"null", b"[]", b"\xff", b"[" * 99_999, b""])
@pytest.mark.parametrize("file", ["job.json", "manifest.json"])
def test_an_unfinished_set_of_odd_content_is_begun_anew(tmp_path, whole, file, content):
    partial = stopped(tmp_path / "x")
    (partial / file).write_bytes(content)
    assert recover_unfinished(feature_paths(tmp_path / "x" / "feats.npy")) is (file != "job.json")
    writer = writer_of(tmp_path / "x")
    assert writer.done.images == (0 if file == "job.json" else 8)
    finish_from(writer)
    assert contents(tmp_path / "x") == whole


def test_files_of_others_in_an_unfinished_set_stay(tmp_path, whole):
    partial = stopped(tmp_path / "x")
    for name in ("notes.txt", ".rows.7.tmp"):
        (partial / name).write_text("mine")
    (partial / "sub").mkdir()
    (partial / ".job.77.dino-tmp.json").touch()
    finish_from(writer_of(tmp_path / "x"))
    left = set(contents(tmp_path / "x")) - set(whole)
    assert left == {"feats.npy.partial/notes.txt", "feats.npy.partial/.rows.7.tmp"}
    assert (partial / "sub").is_dir()
    append(writer := writer_of(tmp_path / "x"), 0, 2)  # nor are they in the way
    writer.finish()
    assert (partial / "notes.txt").read_text() == "mine"
