"""dino-eval: flags that cannot be meant, alone and together."""

import pytest

from dino_infer.cli import eval as evaluation


@pytest.fixture
def outcome(capsys):
    """A function that runs dino-eval knn and gives exit code, stdout and stderr."""

    def run(*args):
        code = evaluation.main(["knn", *(str(arg) for arg in args)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--leave-one-out", "--n-per-class", 1], "--val-labels and --n-per-class need --val"),
        (["--leave-one-out", "--val-labels", "x"], "--val-labels and --n-per-class need --val"),
        (["--val", "x", "--n-per-class", 0], "--n-per-class must be at least 1, got 0"),
        (["--val", "x", "--n-per-class", 1, "--tries", 1], "--tries must be at least 2"),
        (["--val", "x", "--n-per-class", 1, "--seed", -1], "--seed must not be negative"),
        (["--val", "x", "--tries", 5], "--tries is for the draws of --n-per-class"),
        (["--val", "x", "--overwrite"], "--overwrite is for a report; pass -o too"),
        (["--val", "x.npy", "--weights", "w"], "flags about networks and images are for images"),
        (["--val", "x.npy", "--batch-size", 2], "flags about networks and images are for images"),
        (["--val", "x.npy", "--crop", "none"], "flags about networks and images are for images"),
    ],
)
def test_wrong_usage_is_one_line(outcome, args, message):
    code, stdout, stderr = outcome("--train", "x.npy", *args)
    assert (code, stdout) == (2, "")
    assert stderr.startswith(f"dino-eval: error: {message}") and stderr.count("\n") == 1


@pytest.mark.parametrize(
    "protocol",
    [
        ["knn", "--leave-one-out", "--train"],
        ["copy-detection", "--data"],
        ["dense-knn", "--data"],
        ["health", "--data"],
        ["objects", "--data"],
        ["retrieval", "--data"],
        ["segmentation", "--data"],
        ["video", "--data"],
        ["all"],
    ],
    ids=lambda protocol: protocol[0],
)
def test_a_report_that_cannot_be_written_is_refused_before_weights_load(
    protocol, tmp_path, photos, capsys
):
    (tmp_path / "file").touch()
    flags = ["--weights", "no/such/weights", "-o", str(tmp_path / "file" / "report")]
    data = tmp_path / "plan.toml" if protocol == ["all"] else photos
    (tmp_path / "plan.toml").write_text(f"[health]\ndata = {str(photos)!r}\n")
    assert evaluation.main([*protocol, str(data), *flags]) == 1
    assert "the report goes to a folder, but" in capsys.readouterr().err
    assert (tmp_path / "file").is_file()
