"""dino-index: an index built, searched, changed, copied; results on stdout, exact exit codes."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[3]


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
        (["build", "{photos}", "-o", "text.npy/x", "--weights", "none"], 1, "text.npy"),
        (["build", "{photos}", "-o", "x.index", "--index", "IVF"], 1, "--index IVF"),
        (["build", "{photos}", "-o", "{index}", "--index", "flat"], 1, "with --index auto, got"),
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
