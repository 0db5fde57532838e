"""Shards become one set only if they are whole, the ones of their names, and all of one job."""

import json
import shutil

import numpy as np
import pytest

from dino_infer.errors import DataError
from dino_infer.features.files import feature_paths
from dino_infer.features.job import embed_to_file
from dino_infer.features.output import Output
from dino_infer.features.shards import Share, merge_shares, share_paths
from dino_infer.sources.image_list import list_images
from tests.infer.pixel_engine import PixelEngine, contents, pixel_embedder


@pytest.fixture
def images(image_folder):
    return list_images([image_folder(count=16)])


@pytest.fixture
def out(tmp_path, images):
    """A set whose two shards, of eight images each, are finished."""
    (tmp_path / "out").mkdir()
    out = tmp_path / "out" / "feats.npy"
    for index in range(2):
        embed_to_file(pixel_embedder(), images, out, share=Share(index, 2))
    return out


def copy_over(out, *, forged):
    """Put the files of shard 0 in the place of shard 1; a forged manifest tells that it is 1."""
    first, second = (share_paths(out, Share(index, 2)) for index in range(2))
    for source, target in zip(first, second, strict=True):
        shutil.copy(source, target)
    if forged:
        text = second.manifest.read_text().replace("shard-0", "shard-1").replace("0/2", "1/2")
        second.manifest.write_text(text)


def assert_refused(out, message):
    before = contents(out.parent)
    with pytest.raises(DataError, match=message) as caught:
        merge_shares(out, overwrite=False)
    assert "\n" not in str(caught.value)
    assert contents(out.parent) == before and not out.exists()


def test_files_of_another_shard_are_refused(out):
    copy_over(out, forged=False)
    assert_refused(out, r"shard-1-of-2.json' is the manifest of feats.shard-0-of-2.npy")


def test_rows_that_stand_in_two_shards_are_refused(out):
    copy_over(out, forged=True)
    assert_refused(out, r"shard-1-of-2.npy' has the rows of '.*shard-0-of-2.npy'")


def test_a_manifest_of_another_number_is_refused(out):
    manifest = share_paths(out, Share(1, 2)).manifest
    manifest.write_text(manifest.read_text().replace("1/2", "0/2"))
    assert_refused(out, r"shard-1-of-2.npy' holds shard '0/2', not '1/2'")


def test_shards_that_changed_places_are_refused(out, tmp_path):
    parts = [share_paths(out, Share(index, 2)) for index in range(2)]
    for first, second in zip(*parts, strict=True):
        first.rename(tmp_path / "x")
        second.rename(first)
        (tmp_path / "x").rename(second)
    for number, part in enumerate(parts):
        text = part.manifest.read_text().replace(f"shard-{1 - number}", f"shard-{number}")
        part.manifest.write_text(text.replace(f"{1 - number}/2", f"{number}/2"))
    assert_refused(out, "do not hold the images of their list in order")


def test_a_shard_of_the_wrong_length_is_refused(out, images):
    shard = share_paths(out, Share(1, 2))
    text = shard.manifest.read_text()
    embed_to_file(pixel_embedder(), images.select(range(8, 12)), shard.matrix,
                  output=Output(overwrite=True))  # fmt: skip
    made, told = json.loads(shard.manifest.read_text()), json.loads(text)
    shard.manifest.write_text(
        json.dumps(told | {n: made[n] for n in ("rows", "shape", "images", "files_sha256")})
    )
    assert_refused(out, r"shard-1-of-2.npy' is of 4 images, shard 1/2 of 12 images has 8|is of 8")


@pytest.mark.parametrize("missing", ["npy", "parquet", "json", "failed.jsonl"])
def test_a_shard_without_one_of_its_files_is_named(out, missing):
    out.with_name(f"feats.shard-1-of-2.{missing}").unlink()
    assert_refused(out, r"feats.shard-1-of-2")


def test_an_unfinished_shard_is_named(out, images):
    for file in share_paths(out, Share(1, 2)):
        file.unlink()
    with pytest.raises(KeyboardInterrupt):
        embed_to_file(
            pixel_embedder(PixelEngine(stop_after=1)), images, out, share=Share(1, 2),
            output=Output(commit_every_s=0.0),
        )  # fmt: skip
    out.with_name("feats.shard-1-of-2.npy").touch()  # so that its name is seen
    with pytest.raises(DataError, match=r"shard-1-of-2.npy' is unfinished: run shard 1/2 again"):
        merge_shares(out, overwrite=False)


@pytest.mark.parametrize("file", ["npy", "parquet"])
def test_a_shard_with_a_flipped_bit_is_named(out, file):
    path = out.with_name(f"feats.shard-1-of-2.{file}")
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)
    assert_refused(out, rf"shard-1-of-2.{file}' has changed since it was written")


@pytest.mark.parametrize("line", [b"null\n", b"[]\n", b"\xff\n", b'{"path": 1}\n', b"[" * 99_999])
def test_a_list_of_failures_of_odd_content_is_named(out, line):
    out.with_name("feats.shard-1-of-2.failed.jsonl").write_bytes(line)
    assert_refused(out, r"shard-1-of-2.failed.jsonl' is missing or damaged")


def test_shards_of_equal_names_from_two_roots_are_refused_with_both(tmp_path, image_folder, out):
    shutil.copytree(tmp_path / "images", tmp_path / "others")
    others = list_images([tmp_path / "others"])
    output = Output(overwrite=True)
    embed_to_file(pixel_embedder(), others, out, share=Share(1, 2), output=output)
    assert_refused(out, r"shard-1-of-2.npy' .* sources was '.*/images' and is '.*/others'")


def test_an_unfinished_set_of_another_job_is_not_deleted_by_a_merge(out, images):
    other = pixel_embedder(PixelEngine(seed=1, stop_after=1))
    with pytest.raises(KeyboardInterrupt):
        embed_to_file(other, images, out, output=Output(commit_every_s=0.0))
    assert_refused(out, r"feats.npy.partial' holds an unfinished set")


def test_a_merge_that_was_stopped_in_its_last_step_is_taken_as_done(out):
    outcome = merge_shares(out, overwrite=False)
    whole = contents(out.parent)
    paths = feature_paths(out)
    paths.partial.mkdir()
    paths.manifest.rename(paths.partial / "manifest.json")
    assert merge_shares(out, overwrite=False) == outcome
    assert contents(out.parent) == whole
    assert np.load(out).shape == (16, 16)
