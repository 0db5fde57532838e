"""The commands in-process: results on stdout, one error line on stderr, exact exit codes."""

import importlib
import logging
import re
import resource
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dino_infer.cli import attention, embed, eval as evaluation, exit_codes
from dino_infer.errors import DataError
from dino_infer.networks.build import build_backbone
from dino_infer.weights.checkpoints import save_checkpoint
from dino_infer.weights.info import CheckpointInfo

ROOT = Path(__file__).parents[3]


def outcome(capsys, main, *args):
    """Exit code, stdout and stderr of a command, but for the line about its weights."""
    code = main([str(arg) for arg in args])
    captured = capsys.readouterr()
    return code, captured.out, re.sub(r".*: \d+ tensors matched\n", "", captured.err)


@pytest.mark.parametrize(
    ("main", "args", "suggestion"),
    [
        (embed.main, ["x", "-o", "f.npy", "--batchsize", "3"], "--batch-size"),
        (attention.main, ["x", "-o", "maps", "--weight", "w"], "--weights"),
        (evaluation.main, ["knn", "--train", "x", "--leave-one", "y"], "--leave-one-out"),
    ],
)
def test_an_unknown_flag_gets_a_suggestion_and_exit_code_2(capsys, main, args, suggestion):
    code, stdout, stderr = outcome(capsys, main, *args)
    assert (code, stdout) == (2, "")
    assert "did you mean" in stderr and suggestion in stderr


def test_dino_attention_draws_every_image(capsys, tmp_path, photos, weights):
    out = tmp_path / "maps"
    code, stdout, stderr = outcome(
        capsys, attention.main, photos, "-o", out, "--weights", weights, "--size", 64
    )
    assert (code, stderr) == (0, "")
    assert stdout.splitlines()[0] == str(out / "cat" / "0.png.attention.png")
    assert len(stdout.splitlines()) == 2 * 16
    with np.load(out / "coffee" / "7.png.attention.npz") as arrays:
        assert arrays["attention"].shape == arrays["masks"].shape == (4, 8, 11)
    assert (out / "failed.jsonl").read_bytes() == b""


def test_dino_attention_goes_on_after_a_bad_image(capsys, tmp_path, photos, weights):
    for path in (photos / "cat").iterdir():
        path.write_bytes(b"nonsense")
    args = ("-o", tmp_path / "maps", "--weights", weights, "--size", 64)
    code, stdout, stderr = outcome(capsys, attention.main, photos, *args)
    assert code == 3 and len(stdout.splitlines()) == 2 * 8
    assert stderr.count("warning: left out 'cat/") == 8
    assert outcome(capsys, attention.main, photos / "cat", *args)[0] == 4


def test_dino_attention_of_one_image_and_of_equal_names(capsys, tmp_path, photos, weights):
    args = ("-o", tmp_path / "maps", "--weights", weights, "--size", 32)
    sources = (photos / "cat" / "0.png", photos / "coffee" / "0.png")
    code, stdout, _ = outcome(capsys, attention.main, *sources, *args)
    assert code == 0
    names = [Path(line).name for line in stdout.splitlines()]
    stems = ("0.png.attention", "0.png.2.attention")
    assert names == [f"{stem}.{kind}" for stem in stems for kind in ("png", "npz")]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--mass", "1.5"], 2, "--mass must lie in (0, 1], got 1.5"),
        (["--layer", "6", "--size", "32"], 2, "layer must lie in [-6, 5]"),
        (["--size", "4"], 2, "--size must be at least one patch of 8 px, got 4"),
        (["--weights", "{resnet}"], 1, "attention needs a Vision Transformer"),
    ],
)
def test_dino_attention_names_what_is_wrong(capsys, tmp_path, photos, weights, args, code, message):
    resnet = tmp_path / "resnet.safetensors"
    if "{resnet}" in args:
        info = CheckpointInfo(arch="resnet18", patch_size=32)
        save_checkpoint(resnet, build_backbone("resnet18"), info)
    args = [arg.format(resnet=resnet) for arg in args]
    if "--weights" not in args:
        args += ["--weights", weights]
    got, stdout, stderr = outcome(capsys, attention.main, photos, "-o", tmp_path / "maps", *args)
    assert (got, stdout) == (code, "")
    assert message in stderr and stderr.count("\n") == 1
    assert not (tmp_path / "maps").exists()


def test_dino_attention_will_not_write_into_a_file(capsys, photos, weights):
    code, _, stderr = outcome(
        capsys, attention.main, photos, "-o", photos / "cat" / "0.png", "--weights", weights
    )
    assert code == 1 and stderr.endswith("0.png' is a file; pass another --out\n")


def test_a_strip_too_long_to_be_resized_is_left_out(capsys, tmp_path, photos, weights):
    Image.new("RGB", (30_000, 1)).save(photos / "cat" / "strip.png")
    args = ("-o", tmp_path / "maps", "--weights", weights, "--size", 480)
    code, _, stderr = outcome(capsys, attention.main, photos / "cat" / "strip.png", *args)
    assert code == 4 and "warning: left out 'strip.png': 30000 x 1 pixels would be" in stderr


def test_names_from_a_tar_cannot_leave_the_folder(tmp_path):
    names = ["../../etc/a.png", "/abs/b.png", "s.tar/../c.png", "x/c.png", "x/c.png"]
    targets = list(attention._targets(tmp_path, names))
    assert all(target.is_relative_to(tmp_path) and ".." not in target.parts for target in targets)
    assert len(set(targets)) == 5


def test_dino_eval_knn_gives_the_same_from_folders_and_files(capsys, tmp_path, photos, weights):
    out = tmp_path / "feats.npy"
    outcome(capsys, embed.main, photos, "-o", out, "--weights", weights, "--exact-decode")
    args = ("--k", 1, 5)
    named = ("--weights", weights, "--no-floors")
    results = [
        outcome(capsys, evaluation.main, "knn", "--train", train, "--val", val, *args, *more)
        for train, val, more in ((out, out, ()), (photos, photos, named), (out, photos, named))
    ]
    assert results[0][::2] == (0, "")
    assert results[0][1].count("100.00 ± 0.00") == 4
    assert results[1][:2] == results[2][:2] == results[0][:2]
    assert "16 of the 16 images to judge are among those to judge by" in results[1][2]
    assert results[2][2] == ""


def test_dino_eval_knn_leaves_one_out(capsys, tmp_path, photos, weights):
    code, stdout, stderr = outcome(
        capsys, evaluation.main, "knn", "--train", photos, "--leave-one-out", "--k", 3, 50,
        "--weights", weights, "--no-floors",
    )  # fmt: skip
    assert code == 0
    assert stderr == "warning: k = 50 is more than the 15 training rows; using all\n"
    rows = [line.split() for line in stdout.splitlines()[1:]]
    assert [row[0] for row in rows[::2]] == ["k3_top1_percent", "k50_top1_percent"]
    assert float(rows[0][1]) > 60  # two photos, an untrained backbone: chance is 50


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--train", "{photos}"], 2, "pass either --val or --leave-one-out"),
        (["--train", "{photos}", "--val", "x", "--leave-one-out"], 2, "pass either --val or"),
        (["--train", "{photos}", "--leave-one-out", "--k", "0"], 2, "--k must be at least 1"),
        (["--train", "{photos}", "--leave-one-out", "--k", "3", "--temperature", "0"], 2,
         "--temperature must be above 0, got 0"),
        (["--train", "{photos}", "--leave-one-out", "--temperature", "nan"], 2,
         "--temperature must be above 0, got nan"),
        (["--train", "{photos}/cat", "--leave-one-out"], 1, "has no labels; put the images into"),
        (["--train", "none.npy", "--leave-one-out"], 1, "'none.npy' is missing"),
        (["--train", "{photos}", "--val", "{others}"], 1, "share no class; the first are 'dog'"),
    ],
)  # fmt: skip
def test_dino_eval_knn_names_what_is_wrong(capsys, tmp_path, photos, weights, args, code, message):
    others = tmp_path / "others" / "dog"
    others.mkdir(parents=True)
    Image.new("RGB", (40, 40)).save(others / "1.png")
    args = [arg.format(photos=photos, others=others.parent) for arg in args]
    named = () if "none.npy" in args else ("--weights", weights)
    got, stdout, stderr = outcome(capsys, evaluation.main, "knn", *args, *named)
    assert (got, stdout) == (code, "")
    assert stderr.startswith("dino-eval: error: ") and message in stderr
    assert stderr.count("\n") == 1


def test_features_made_differently_are_not_compared(capsys, tmp_path, photos, weights):
    for size in (32, 48):
        args = ("-o", tmp_path / f"{size}.npy", "--weights", weights, "--size", size)
        outcome(capsys, embed.main, photos, *args)
    for val, *expected in (
        ([tmp_path / "48.npy"], "they differ in preprocessing size (32 and 48); embed both with"),
        (
            [photos, "--weights", weights, "--no-floors"],
            "they differ in preprocessing exact_decode (False and True); ",
            "feature files with `exact_decode`",
        ),
    ):
        code, _, stderr = outcome(
            capsys, evaluation.main, "knn", "--train", tmp_path / "32.npy", "--val", *val
        )
        assert code == 1 and stderr.count("\n") == 1
        assert all(part in stderr for part in expected), stderr


def raising(error):
    def command(args):
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (DataError("two\nlines"), 1, "x: error: two lines\n"),
        (exit_codes.UsageError("no"), 2, "x: error: no\n"),
        (
            OSError(28, "No space left on device", "f"),
            1,
            "x: error: No space left on device: 'f'\n",
        ),
        (KeyboardInterrupt(), 130, "x: error: interrupted\n"),
        (SystemExit(2), 2, ""),
    ],
)
def test_every_way_to_fail_has_its_exit_code(capsys, error, code, line):
    assert exit_codes.exit_code(raising(error), prog="x", args=[]) == code
    assert capsys.readouterr().err == line


def test_parameters_in_messages_become_the_flags_of_the_command(capsys):
    def command(args):
        if "--help" in args:
            print(
                "usage: x [--batch-size INT] [--crop {center,none}] [--optim.lr LR] [--shard I/N]"
            )
            raise SystemExit(0)
        logging.getLogger("dino_infer.test").warning("lower `optim.lr`")
        raise DataError(
            "lower `batch_size`, pass `crop='none'`, `batch_size=True`, `share` or `min_score`"
        )

    assert exit_codes.exit_code(command, prog="x", args=[], renamed={"share": "--shard"}) == 1
    assert capsys.readouterr().err == (
        "warning: lower --optim.lr\n"
        "x: error: lower --batch-size, pass --crop none, --batch-size, --shard or `min_score`\n"
    )


@pytest.mark.parametrize("name", ["embed", "attention", "eval"])
def test_every_command_tells_its_version(name, capsys):
    main = importlib.import_module(f"dino_infer.cli.{name}").main
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"dino-{name} {version('dino-toolkit')}\n"


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        exit_codes.exit_code(lambda args: 1 // 0, prog="x", args=[])


@pytest.mark.parametrize(("total", "failed", "code"), [(5, 0, 0), (5, 1, 3), (5, 5, 4), (0, 0, 0)])
def test_failed_inputs_decide_the_exit_code(total, failed, code):
    assert exit_codes.inputs_code(total=total, failed=failed) == code


def test_records_go_to_stderr_only_while_a_command_runs(capsys):
    logger = logging.getLogger("dino_infer.test")

    def command(args):
        logger.info("seen %d", 1)
        logging.getLogger("elsewhere").info("unseen")

    assert exit_codes.exit_code(command, prog="x", args=[]) == 0
    logger.info("unseen")
    assert capsys.readouterr().err == "seen 1\n"


@pytest.mark.parametrize(
    "args",
    [("embed", "--help"), ("attention", "--help"), ("eval", "--help"), ("eval", "knn", "--help")],
)
def test_help_answers_in_under_a_second(args):
    code = f"import sys; from dino_infer.cli.{args[0]} import main; sys.exit(main({args[1:]!r}))"
    seconds = []
    for _ in range(2):  # of processor time: other work on the machine is not the command's
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert done.stdout.startswith("usage: dino-")
    assert min(seconds) < 1
