"""What a command line cannot mean is one line and exit code 2, and advice that helps."""

import importlib

import pytest

REFUSED = [
    # A value outside its range, checked by the settings.
    ("dino_app.cli.serve", "--max-k 2000", "--max-k must be at most 1000, got 2000"),
    ("dino_train.cli", "--data x --out y --workers -3", "--workers must be 0 or more, got -3"),
    # A value that is none of the choices; no choice is the word None.
    (
        "dino_train.cli",
        "--data x --out y --optim.precision fp99",
        "--optim.precision must be one of auto, bf16, fp16, fp32, got 'fp99'",
    ),
    ("dino_infer.cli.embed", "x --crop all", "--crop must be one of center, none, got 'all'"),
    ("dino_export.cli", "w --format tf", "must be one of aoti, onnx, pt2, torchscript, got 'tf'"),
    # A value of another kind, and too few values.
    ("dino_app.cli.demo", "--port x", "--port must be INT, got 'x'"),
    ("dino_train.cli", "--data x --out y --optim.lr a", "--optim.lr must be FLOAT, got 'a'"),
    ("dino_infer.cli.attention", "x --size", "--size needs INT"),
    ("dino_train.cli", "--crops.blur-sigma 1", "--crops.blur-sigma needs FLOAT FLOAT"),
    # An argument that is missing, or that is not there.
    ("dino_infer.cli.embed", "x", "missing -o STR, --out STR; see dino-embed --help"),
    ("dino_infer.cli.embed", "x --mask", "no argument '--mask'; see dino-embed --help"),
    ("dino_infer.cli.embed", "x --featur=cls", "(did you mean --feature?)"),
    # Names that other projects have for a flag.
    (
        "dino_infer.cli.embed",
        "x -o y --model=w",
        "no argument '--model=w' (did you mean --weights?)",
    ),
    ("dino_infer.cli.attention", "x -o y --threshold 0.6", "(did you mean --mass?)"),
    ("dino_train.cli", "--data x --out y --epochs 3", "(did you mean --optim.epochs?)"),
    ("dino_app.cli.serve", "--num_workers 3", "no argument '--num_workers'"),
    ("dino_infer.cli.eval", "knn", "missing --train STR; see dino-eval knn --help"),
    ("dino_app.cli.serve", "a b", "no argument 'b'; see dino-serve --help"),
    # A verb that is missing or misspelt.
    ("dino_app.cli.index", "", "expected one of build, add, delete, search"),
    ("dino_app.cli.index", "biuld", "no argument 'biuld' (did you mean build?)"),
]


@pytest.mark.parametrize(("module", "arguments", "message"), REFUSED)
def test_refused_arguments_are_answered_in_one_line(module, arguments, message, capsys):
    assert importlib.import_module(module).main(arguments.split()) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("dino-") and ": error: " in shown.err
    assert shown.err.count("\n") == 1 and message in shown.err
