"""dino-embed: results on stdout, one error line on stderr, exact exit codes, odd files."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dino_infer.cli import embed
from dino_infer.features.files import read_features
from dino_infer.networks.build import build_backbone
from dino_infer.weights.checkpoints import save_checkpoint
from dino_infer.weights.info import CheckpointInfo
from tests.infer.images.odd_files import as_file, write_odd_files
from tests.infer.pixel_engine import contents
from tests.infer.weights.foreign_weights import training_state

ROOT = Path(__file__).parents[3]
GROWTH_MIB = 100  # what the worst file may cost beyond an ordinary picture
WALL_S = 120  # for all of them; some seconds on an idle machine, most of them imports
ROUNDING = 1e-5  # of float32, where batches hold other images

PEAKS = """
import sys
from pathlib import Path
from dino_infer.cli.embed import main

def peak_mib():  # not ru_maxrss, which begins at what the parent process had
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

usual, odd, out, weights = sys.argv[1:]
flags = ["--weights", weights, "--workers", "1"]
main([usual, "-o", f"{out}/usual.npy", *flags])
before = peak_mib()
code = main([odd, "-o", f"{out}/odd.npy", *flags])
print(code, peak_mib() - before)
"""

BESIDE = "with feats.parquet, feats.json, feats.failed.jsonl"


def outcome(capsys, *args):
    """Exit code, stdout and stderr of dino-embed, but for the line about its weights."""
    code = embed.main([str(arg) for arg in args])
    captured = capsys.readouterr()
    return code, captured.out, re.sub(r".*: \d+ tensors matched\n", "", captured.err)


def test_a_checkpoint_of_the_original_embeds_with_either_network(capsys, tmp_path, photos):
    backbone = build_backbone("vit_micro", patch_size=8, image_size=32)
    weights, rows = tmp_path / "checkpoint.pth", {}
    torch.save(training_state(backbone, arch="vit_micro"), weights)
    for key in ("teacher", "teacher.backbone", "student"):
        out = tmp_path / f"{key}.npy"
        code = embed.main(
            [str(photos), "-o", str(out), "--weights", str(weights), "--checkpoint-key", key]
        )
        assert code == 0
        rows[key] = np.load(out)
    assert np.array_equal(rows["teacher"], rows["teacher.backbone"])
    assert not np.allclose(rows["teacher"], rows["student"])
    capsys.readouterr()
    with_typo = ["-o", tmp_path / "no.npy", "--weights", weights, "--checkpoint-key", "techer"]
    code, _, stderr = outcome(capsys, photos, *with_typo)
    assert code == 1 and len(stderr.splitlines()) == 1
    assert "pass --checkpoint-key as one of 'student.backbone', 'teacher.backbone'" in stderr


def test_dino_embed_writes_a_feature_set(capsys, tmp_path, photos, weights):
    out = tmp_path / "feats.npy"
    code, stdout, stderr = outcome(capsys, photos, "-o", out, "--weights", weights)
    assert (code, stdout, stderr) == (0, f"{out}: 16 rows of 128, {BESIDE}\n", "")
    features = read_features(out, verify=True)
    assert features.matrix.shape == (16, 128)
    assert features.paths[0] == "cat/0.png" and list(features.labels[[0, -1]]) == ["cat", "coffee"]
    assert features.manifest["preprocess"]["size"] == 32


def test_dino_embed_will_not_replace_features_unless_told(capsys, tmp_path, photos, weights):
    out = tmp_path / "feats.npy"
    args = (photos, "-o", out, "--weights", weights)
    assert outcome(capsys, *args)[0] == 0
    code, stdout, stderr = outcome(capsys, *args)
    assert (code, stdout) == (1, "")
    assert stderr == (
        f"dino-embed: error: '{out}' exists; pass --overwrite to replace it, --update to add "
        "what is new, or another --out\n"
    )
    assert outcome(capsys, *args, "--overwrite")[0] == 0


def test_dino_embed_ends_with_3_when_some_images_failed(capsys, tmp_path, photos, weights):
    (photos / "cat" / "bad.png").write_bytes(b"\x89PNG nonsense")
    out = tmp_path / "feats.npy"
    code, stdout, stderr = outcome(capsys, photos, "-o", out, "--weights", weights)
    assert (code, stdout) == (3, f"{out}: 16 rows of 128, {BESIDE}\n")
    assert stderr.startswith("warning: 1 of 17 images could not be read; they are listed, with")
    failed = [
        json.loads(line) for line in (tmp_path / "feats.failed.jsonl").read_text().splitlines()
    ]
    assert [failure["path"] for failure in failed] == ["cat/bad.png"]


def test_dino_embed_ends_with_4_when_all_images_failed(capsys, tmp_path, weights):
    (tmp_path / "bad.png").write_bytes(b"nonsense")
    out = tmp_path / "feats.npy"
    code, stdout, stderr = outcome(capsys, tmp_path, "-o", out, "--weights", weights)
    assert (code, stdout) == (4, "")
    assert stderr.startswith("warning: 1 of 1 images could not be read")
    assert sorted(os.listdir(tmp_path)) == ["bad.png", "feats.failed.jsonl"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nowhere", "-o", "f.npy"], "cannot read the data source 'nowhere'"),
        (["{photos}", "-o", "f.csv"], "features go to a file that ends in .npy, "),
        (["{photos}", "-o", "no/f.npy"], "folder 'no' does not exist"),
        (["{photos}", "-o", "f.npy", "--weights", "none.pth"], "no weights at 'none.pth'"),
        (["{photos}", "-o", "f.npy", "--device", "cuda:99"], "device 'cuda:99' cannot be used"),
    ],
)
def test_a_wrong_world_is_one_line_and_exit_code_1(
    capsys, tmp_path, monkeypatch, photos, weights, args, message
):
    monkeypatch.chdir(tmp_path)
    args = [arg.format(photos=photos) for arg in args]
    if "--weights" not in args:
        args += ["--weights", weights]
    code, stdout, stderr = outcome(capsys, *args)
    assert (code, stdout) == (1, "")
    assert stderr.startswith("dino-embed: error: ") and message in stderr
    assert stderr.count("\n") == 1
    assert os.listdir(tmp_path) == ["photos"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["-o", "f.npy"], "no images given"),
        (["x", "-o", "f.npy", "--batch-size", "0"], "--batch-size must be at least 1, got 0"),
        (["x", "-o", "f.npy", "--workers", "-1"], "--workers must not be negative, got -1"),
        (["{photos}", "-o", "f.npy", "--size", "0"], "--size must be at least 1, got 0"),
        (["{photos}", "-o", "f.npy", "--size", "4"], "--size must be at least one patch of 8 px"),
        (["{photos}", "-o", "f.npy", "--arch", "vit_smal"], "no arch named 'vit_smal'"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    capsys, tmp_path, monkeypatch, photos, weights, args, message
):
    monkeypatch.chdir(tmp_path)
    args = [arg.format(photos=photos) for arg in args]
    code, stdout, stderr = outcome(capsys, *args, "--weights", weights)
    assert (code, stdout) == (2, "")
    assert stderr.startswith(f"dino-embed: error: {message}") and stderr.count("\n") == 1
    assert os.listdir(tmp_path) == ["photos"]


def test_the_weights_that_were_read_are_counted_on_stderr(capsys, tmp_path, photos, weights):
    assert embed.main([str(photos), "-o", str(tmp_path / "f.npy"), "--weights", weights]) == 0
    assert capsys.readouterr().err == f"{weights}: 78 tensors matched\n"


def test_a_finished_job_may_be_passed_again_with_resume(capsys, tmp_path, photos, weights):
    out = tmp_path / "feats.npy"
    args = (photos, "-o", out, "--weights", weights, "--resume")
    assert outcome(capsys, *args) == (0, f"{out}: 16 rows of 128, {BESIDE}\n", "")
    assert outcome(capsys, *args) == (
        0,
        f"{out}: 16 rows of 128, {BESIDE}\n",
        f"{out} is complete\n",
    )
    code, stdout, stderr = outcome(capsys, *args, "--dtype", "float16")
    assert (code, stdout) == (1, "")
    assert "was made differently: dtype was 'float32' and is 'float16'" in stderr


def test_an_update_embeds_what_is_new(capsys, tmp_path, photos, weights):
    out = tmp_path / "feats.npy"
    args = ("-o", out, "--weights", weights)
    outcome(capsys, photos, *args)
    Image.new("RGB", (40, 40), "red").save(photos / "cat" / "new.png")
    (photos / "cat" / "0.png").unlink()
    code, stdout, stderr = outcome(capsys, photos, *args, "--update")
    assert (code, stdout) == (0, f"{out}: 16 rows of 128, {BESIDE}\n")
    assert stderr == "1 of 16 images are new or have changed\n"
    updated = read_features(out)
    outcome(capsys, photos, *args, "--overwrite")
    fresh = read_features(out)
    assert updated.paths == fresh.paths
    np.testing.assert_allclose(updated.matrix, fresh.matrix, atol=ROUNDING)


def test_shards_of_torchrun_are_merged(capsys, tmp_path, monkeypatch, photos, weights):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    args = ("--weights", weights, "--batch-size", 3)
    assert outcome(capsys, photos, "-o", tmp_path / "one" / "feats.npy", *args)[0] == 0
    out = tmp_path / "two" / "feats.npy"
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, stderr = outcome(capsys, photos, "-o", out, *args)
    assert (code, stderr) == (
        2,
        "dino-embed: error: 2 processes would write the same file; pass --shard auto\n",
    )
    rows = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        code, stdout, _ = outcome(capsys, photos, "-o", out, *args, "--shard", "auto")
        found = re.fullmatch(
            rf"{re.escape(str(out))}: (\d+) rows of 128 of shard {rank}/2\n", stdout
        )
        rows.append(int(found[1]))
        assert code == 0
    assert rows == [9, 7]
    assert outcome(capsys, "-o", out, "--merge") == (0, f"{out}: 16 rows of 128, {BESIDE}\n", "")
    merged = {k: v for k, v in contents(out.parent).items() if ".shard-" not in k}
    assert merged == contents(tmp_path / "one")


def test_a_folder_holds_partitions(capsys, tmp_path, photos, weights):
    args = ("--weights", weights, "--partition-size", 10)
    out = f"{tmp_path}/parts/"
    assert outcome(capsys, photos, "-o", out, *args) == (
        0,
        f"{out}: 16 rows of 128\n",
        "",
    )
    names = sorted(path.name for path in (tmp_path / "parts" / "img_emb").iterdir())
    assert names == ["img_emb_0000.npy", "img_emb_0001.npy"]
    code, _, stderr = outcome(capsys, photos, "-o", tmp_path / "parts", *args)
    assert code == 1 and "img_emb_0000.npy' exists; pass --overwrite" in stderr


def test_a_dry_run_tells_and_writes_nothing(capsys, tmp_path, photos, weights):
    out = tmp_path / "feats.npy"
    args = (photos, "-o", out, "--weights", weights, "--precision", "fp32", "--dry-run")
    code, stdout, stderr = outcome(capsys, *args, "--feature", "patches", "--shard", "0/2")
    assert (code, stderr) == (0, "")
    assert stdout.splitlines() == [
        "images: 16, shard 0/2: 0",
        "network: vit_micro, fp32, on cpu",
        "feature: patches, 16 x 128",
        f"output: {out}, float32, 0.0 MB",
    ]
    code, stdout, _ = outcome(capsys, *args, "--dtype", "float16")
    assert stdout.splitlines()[::3] == ["images: 16", f"output: {out}, float16, 0.0 MB"]
    assert os.listdir(tmp_path) == ["photos"]


def test_one_unreadable_image_may_end_the_job(capsys, tmp_path, photos, weights):
    (photos / "cat" / "bad.png").touch()
    args = (photos, "-o", tmp_path / "f.npy", "--weights", weights, "--on-error", "fail")
    code, stdout, stderr = outcome(capsys, *args)
    assert (code, stdout) == (1, "")
    assert "'cat/bad.png' cannot be read: the file has 0 bytes; mend it" in stderr
    assert not (tmp_path / "f.npy").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--overwrite", "--resume"], "--overwrite contradicts --resume: pass one of them"),
        (["--overwrite", "--update"], "--overwrite contradicts --update: pass one of them"),
        (["--merge"], "--merge takes no images, got '{photos}'"),
        (["--shard", "2/2"], "a shard must lie in 0/2 to 1/2, got '2/2'"),
        (["--shard", "auto"], "shard auto needs one of RANK and WORLD_SIZE"),
        (["--partition-size", "0"], "--partition-size must be at least 1, got 0"),
        (["--partition-size", "9"], "--partition-size is for folders; pass -o FOLDER/"),
        (["--merge", "--dry-run"], "--merge joins finished shards; leave --dry-run out"),
        (["--update", "-o", "parts/"], "--update is for a single file; partitions cannot"),
        (["--feature", "patches", "--crop", "none"], "feature 'patches' needs images of one size"),
        (["--engine", "onnx"], "engine 'onnx' runs .onnx weights, got"),
    ],
)
def test_flags_that_contradict_are_named(
    capsys, tmp_path, monkeypatch, photos, weights, args, message
):
    monkeypatch.chdir(tmp_path)
    out = () if "-o" in args else ("-o", "f.npy")
    code, stdout, stderr = outcome(capsys, photos, *out, "--weights", weights, *args)
    assert (code, stdout) == (2, "")
    assert stderr.startswith(f"dino-embed: error: {message.format(photos=photos)}")
    assert stderr.count("\n") == 1 and os.listdir(tmp_path) == ["photos"]


def test_a_merge_takes_no_flags_of_networks(capsys, tmp_path, weights):
    args = ("--merge", "-o", tmp_path / "f.npy")
    for more in (("--weights", weights), ("--size", 64), ("--device", "cpu"), ("--normalize",)):
        code, stdout, stderr = outcome(capsys, *args, *more)
        assert (code, stdout) == (2, "") and "--merge embeds nothing" in stderr


def test_a_folder_needs_no_merge(capsys, tmp_path):
    code, _, stderr = outcome(capsys, "--merge", "-o", f"{tmp_path}/")
    assert code == 2 and "--merge joins the shards of a file" in stderr


def test_a_convnet_has_no_patches_to_embed(capsys, tmp_path, photos):
    path = tmp_path / "resnet.safetensors"
    info = CheckpointInfo(arch="resnet_micro", patch_size=32, image_size=32)
    save_checkpoint(path, build_backbone("resnet_micro"), info)
    args = (photos, "-o", tmp_path / "f.npy", "--weights", path)
    code, stdout, _ = outcome(capsys, *args)
    assert code == 0 and stdout.startswith(f"{tmp_path / 'f.npy'}: 16 rows of 256, with f.parquet")
    code, _, stderr = outcome(capsys, *args, "--overwrite", "--feature", "mean")
    assert code == 2 and "'resnet_micro' has none; use 'cls'" in stderr


def test_odd_files_are_embedded_or_listed_cheaply(tmp_path, weights):
    expected = write_odd_files(tmp_path / "odd")
    (tmp_path / "usual.jpg").write_bytes(as_file("JPEG"))
    paths = [tmp_path / "usual.jpg", tmp_path / "odd", tmp_path, weights]
    command = [sys.executable, "-c", PEAKS, *paths]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=WALL_S)
    assert done.returncode == 0, done.stderr
    code, growth_mib = done.stdout.splitlines()[-1].split()
    assert int(code) == 3
    assert float(growth_mib) < GROWTH_MIB
    got = dict.fromkeys(read_features(tmp_path / "odd.npy", verify=True).paths, "ok")
    for line in (tmp_path / "odd.failed.jsonl").read_text().splitlines():
        failure = json.loads(line)
        assert failure["path"] not in got and failure["reason"]
        got[failure["path"]] = failure["kind"]
    assert got == expected
