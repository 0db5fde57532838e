"""Exported files in OpenVINO: the same rows, from any thread, and nothing told over the network."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from dino_infer.cli import embed
from dino_infer.embedding.engines import OnnxEngine, auto_takes_openvino
from dino_infer.embedding.openvino_programs import MAX_PROGRAMS, OpenVinoFile
from dino_infer.errors import CheckpointError, MissingExtraError
from dino_infer.features.files import read_features
from tests.infer.embedding.test_engines import means_of, photos, write_means  # noqa: F401 - fixture

CPU = torch.device("cpu")
ROUNDING = 1e-5  # of float32, of means over an image
ROOT = Path(__file__).parents[3]


@pytest.fixture
def exported(tmp_path):
    return write_means(tmp_path / "means.onnx")


def with_metadata(path, changed, **entries):
    model = onnx.load(path)
    (entry,) = model.metadata_props
    entry.value = json.dumps(json.loads(entry.value) | entries)
    onnx.save(model, changed)
    return changed


def runtime_of(engine):
    return "openvino" if "OpenVINO" in repr(engine) else "onnx"


def test_rows_are_those_of_onnxruntime_whatever_size_and_batch_come(exported):
    own = OnnxEngine(exported, feature="cls+mean", device=CPU, runtime="openvino")
    other = OnnxEngine(exported, feature="cls+mean", device=CPU)
    assert own.file == other.file and own.description() == other.description()
    for batch, side in ((1, 16), (3, 16), (8, 16), (3, 24)):
        images = torch.randn(batch, 3, side, 48)
        torch.testing.assert_close(own(images), other(images), atol=ROUNDING, rtol=ROUNDING)


def test_threads_run_one_file_side_by_side(exported):
    opened = OpenVinoFile(exported)
    batches = [np.full((2, 3, 16, 16), i, np.float32) for i in range(8)]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda batch: opened.run(["cls"], batch)[0], batches))
    np.testing.assert_allclose(got, [np.full((2, 3), i) for i in range(8)], atol=ROUNDING)


def test_no_more_programs_are_kept_than_a_few(exported):
    opened = OpenVinoFile(exported)
    for side in range(8, 8 * (MAX_PROGRAMS + 4), 8):
        opened.run(["cls"], np.zeros((2, 3, side, 16), np.float32))
    assert len(opened._programs) == MAX_PROGRAMS + 1  # that one takes any size


def test_dino_embed_runs_a_file_in_openvino(capsys, tmp_path, exported, photos):  # noqa: F811
    out = tmp_path / "feats.npy"
    args = [str(photos), "-o", str(out), "--engine", "openvino"]
    assert embed.main([*args, "--weights", str(exported)]) == 0
    np.testing.assert_allclose(read_features(out).matrix, means_of(photos), atol=ROUNDING)
    capsys.readouterr()
    (tmp_path / "damaged.onnx").write_bytes(exported.read_bytes()[:100])
    for name, message in (
        ("damaged", "Model can't be parsed); export it again"),
        ("no", "no file"),
    ):
        weights = ["--weights", str(tmp_path / f"{name}.onnx"), "--overwrite"]
        assert embed.main([*args, *weights]) == 1
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_auto_takes_openvino_where_it_is_faster(tmp_path, exported, monkeypatch, caplog):
    dynamic = with_metadata(exported, tmp_path / "dynamic.onnx", precision="int8")
    static = with_metadata(
        exported, tmp_path / "static.onnx", precision="int8", calibration_images=9
    )

    def taken(path, runtime="auto"):
        return runtime_of(OnnxEngine(path, feature="cls", device=CPU, runtime=runtime))

    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
    assert [taken(path) for path in (exported, static, dynamic)] == ["openvino", "openvino", "onnx"]
    assert not caplog.messages
    assert taken(dynamic, "openvino") == "openvino"
    assert "rounds in the range of each batch, which takes OpenVINO three times" in caplog.text
    assert taken(exported, "onnx") == "onnx"
    assert not auto_takes_openvino(torch.device("cuda"))
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    assert taken(exported) == "onnx"


def test_without_openvino_auto_goes_on_and_the_engine_says_what_to_install(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    auto = OnnxEngine(exported, feature="cls", device=CPU, runtime="auto")
    assert runtime_of(auto) == "onnx"
    with pytest.raises(MissingExtraError, match=r"pip install 'dino-toolkit\[openvino\]'"):
        OnnxEngine(exported, feature="cls", device=CPU, runtime="openvino")


def test_a_gpu_is_refused(exported):
    with pytest.raises(ValueError, match="'openvino' runs on CPUs, got device 'cuda'"):
        OnnxEngine(exported, feature="cls", device=torch.device("cuda"), runtime="openvino")


def test_another_file_is_refused(tmp_path):
    foreign = write_means(tmp_path / "foreign.onnx", metadata=False)
    with pytest.raises(CheckpointError, match="is not an export of this toolkit"):
        OnnxEngine(foreign, feature="cls", device=CPU, runtime="openvino")


def test_openvino_tells_its_makers_nothing(tmp_path, exported):
    # Imported as its makers do, it writes an identity to ~/intel and sends that each import.
    code = (
        "import sys; from pathlib import Path\n"
        "from dino_infer.embedding.openvino_programs import OpenVinoFile\n"
        "assert OpenVinoFile(Path(sys.argv[1])).outputs == ['cls', 'patches']\n"
        "sys.exit(any(name.startswith('openvino_telemetry') for name in sys.modules))"
    )
    environment = {**os.environ, "HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    (tmp_path / "home").mkdir()
    command = [sys.executable, "-c", code, exported]
    subprocess.run(command, check=True, env=environment)
    assert list((tmp_path / "home").iterdir()) == []
