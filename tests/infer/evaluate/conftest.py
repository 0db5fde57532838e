"""Fixtures of the evaluation tests: a run of dino-eval knn, and feature sets by class."""

import hashlib
import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from dino_infer.cli import eval as evaluation

DESCRIPTION = {"arch": "none", "feature": "cls", "weights_sha256": "ab", "preprocess": {"size": 8}}


@pytest.fixture
def outcome(capsys):
    """A function that runs dino-eval knn and gives exit code, stdout and stderr."""

    def run(*args):
        code = evaluation.main(["knn", *(str(arg) for arg in args)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def feature_set(tmp_path):
    """A function that writes features, clustered by class, in the documented format."""

    def write(name, counts, *, seed=0, dim=6, noise=0.5, flat=False, broken=0, **changes):
        rng = np.random.default_rng(seed)
        rows, paths, labels = [], [], []
        for label, count in counts.items():
            center = np.random.default_rng(list(label.encode())).normal(size=dim)
            rows += [center + noise * rng.normal(size=dim) for _ in range(count)]
            paths += [f"{label}-{i}.png" if flat else f"{label}/{i}.png" for i in range(count)]
            labels += [label] * count
        path = tmp_path / f"{name}.npy"
        np.save(path, np.array(rows[broken:], dtype=np.float32))
        columns = {"row": range(len(rows) - broken), "path": paths[broken:]}
        if not flat:
            columns["label"] = labels[broken:]
        table = pyarrow.table({name: pyarrow.array(column) for name, column in columns.items()})
        pyarrow.parquet.write_table(table, path.with_suffix(".parquet"))
        failures = [{"path": path, "kind": "empty", "reason": "0 bytes"} for path in paths[:broken]]
        lines = "".join(json.dumps(failure) + "\n" for failure in failures)
        path.with_suffix(".failed.jsonl").write_text(lines)
        files = [path, path.with_suffix(".parquet")]
        manifest = {
            "format_version": 1, "rows": len(rows) - broken, "dim": dim, "dtype": "float32",
            "shape": [len(rows) - broken, dim], "images": len(rows),
            "failed": broken, **DESCRIPTION, **changes,
            "files_sha256": {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files},
        }  # fmt: skip
        path.with_suffix(".json").write_text(json.dumps(manifest))
        return path

    return write
