"""One process writes a feature set; shares and partitions of one job are written side by side."""

import os
import resource
import shutil
import signal

import pytest

from dino_infer.cli import embed
from dino_infer.errors import DataError, OutputInUseError
from dino_infer.features.files import feature_paths, partition_paths
from dino_infer.features.job import embed_to_file, embed_to_folder, write_features
from dino_infer.features.output import Output
from dino_infer.features.shards import Share, merge_shares, share_paths
from dino_infer.files import hold_output
from dino_infer.sources.image_list import list_images
from tests.infer.pixel_engine import PixelEngine, contents, pixel_embedder
from tests.infer.test_files import holder

OUTPUTS = [Output(), Output(resume=True), Output(update=True), Output(overwrite=True)]


@pytest.fixture
def images(image_folder):
    return list_images([image_folder(count=12)])


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "feats.npy"


def assert_refused(out, work):
    before = contents(out.parent)
    with pytest.raises(OutputInUseError, match="already writes to"):
        work()
    assert contents(out.parent) == before


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_set_that_is_written_is_left_alone(images, out, output):
    embed_to_file(pixel_embedder(), images, out)
    with hold_output(feature_paths(out).manifest):
        assert_refused(out, lambda: embed_to_file(pixel_embedder(), images, out, output=output))
        table = out.with_suffix(".safetensors")  # its table and manifest are the same files
        assert_refused(out, lambda: embed_to_file(pixel_embedder(), images, table, output=output))
        made = pixel_embedder().embed(images)
        assert_refused(out, lambda: write_features(out, made, images, description={}))


def test_shares_are_written_side_by_side_and_not_merged_before(images, out):
    for index in range(2):
        embed_to_file(pixel_embedder(), images, out, share=Share(index, 2))
    again = Output(overwrite=True)
    with hold_output(share_paths(out, Share(1, 2)).manifest):
        embed_to_file(pixel_embedder(), images, out, share=Share(0, 2), output=again)
        assert_refused(out, lambda: merge_shares(out, overwrite=False))
        with pytest.raises(OutputInUseError):
            embed_to_file(pixel_embedder(), images, out, share=Share(1, 2), output=again)
    with hold_output(feature_paths(out).manifest):
        assert_refused(out, lambda: merge_shares(out, overwrite=True))
    merge_shares(out, overwrite=False)


def test_shares_of_a_folder_are_written_side_by_side(images, tmp_path):
    folder = tmp_path / "set"

    def work(share=Share(), output=Output()):  # noqa: B008
        return lambda: embed_to_folder(
            pixel_embedder(), images, folder, partition_size=4, share=share, output=output
        )

    work()()
    again = Output(overwrite=True)
    with (
        hold_output(folder / "shard-1-of-3"),
        hold_output(partition_paths(folder, 1, count=3).manifest),
    ):
        work(Share(0, 3), again)()
        for share in (Share(1, 3), Share(1, 2)):
            with pytest.raises(OutputInUseError):
                work(share, again)()
    with hold_output(folder), pytest.raises(OutputInUseError, match="set' *"):
        work()()
    assert not [name for name in contents(folder) if "lock" in name]


def test_the_second_command_names_the_process_and_a_killed_one_holds_nothing(
    image_folder, out, weights, capsys
):
    args = [str(image_folder(count=4)), "-o", str(out), "--weights", weights, "--workers", "1"]
    with holder(feature_paths(out).manifest) as process:
        assert embed.main([*args, "--resume"]) == 1
        lines = capsys.readouterr().err.splitlines()
        assert f"is in use: process {process.pid} writes to it" in lines[-1]
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert embed.main([*args, "--resume"]) == 0
    assert not [name for name in contents(out.parent) if "lock" in name]


def test_files_of_others_in_a_folder_of_partitions_stay(images, tmp_path):
    folder = tmp_path / "set"
    embed_to_folder(pixel_embedder(), images, folder, partition_size=4)
    others = ["manifests/notes.json", "img_emb/mine.npy", "img_emb/img_emb_0009.npy.txt"]
    for name in others:
        (folder / name).write_text("mine")
    partition_paths(folder, 2, count=3).manifest.unlink()  # a stop met it
    with pytest.raises(DataError, match="holds 'img_emb_0002.npy', but there are only 2"):
        embed_to_folder(pixel_embedder(), images, folder, partition_size=8)
    embed_to_folder(
        pixel_embedder(), images, folder, partition_size=8, output=Output(overwrite=True)
    )
    assert all((folder / name).read_text() == "mine" for name in others)
    assert not list(folder.glob("*/*_0002*"))


@pytest.mark.parametrize("missing", ["npy", "parquet", "failed.jsonl"])
def test_a_finished_set_that_lost_a_file_is_made_again(images, out, missing, caplog):
    embed_to_file(pixel_embedder(), images, out)
    whole = contents(out.parent)
    out.with_name(f"feats.{missing}").unlink()
    embed_to_file(pixel_embedder(), images, out, output=Output(resume=True))
    assert contents(out.parent) == whole
    assert f"feats.{missing} is missing: the set is made again" in caplog.text


def test_a_finished_set_with_the_matrix_of_another_is_not_called_complete(images, out):
    embed_to_file(pixel_embedder(), images, out)
    other = out.with_name("other.npy")
    embed_to_file(pixel_embedder(), images.select(range(4)), other)
    shutil.copy(other, out)
    with pytest.raises(DataError, match="are damaged: matrix"):
        embed_to_file(pixel_embedder(), images, out, output=Output(resume=True))


@pytest.mark.parametrize("limit", [600, 1500, 2500])
def test_a_disk_that_was_full_leaves_no_trace(images, out, tmp_path, limit):
    (tmp_path / "whole").mkdir()
    embed_to_file(pixel_embedder(), images, tmp_path / "whole" / "feats.npy")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    output = Output(resume=True, commit_every_s=0.0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            embed_to_file(pixel_embedder(PixelEngine()), images, out, output=output)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    embed_to_file(pixel_embedder(), images, out, output=output)
    assert contents(out.parent) == contents(tmp_path / "whole")
