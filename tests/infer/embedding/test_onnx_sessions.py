"""Where an exported file runs: GPU providers that cannot be used are named, and why they cannot."""

import sys
import types

import onnxruntime
import pytest
import torch

from dino_infer.embedding.engines import OnnxEngine
from dino_infer.embedding.onnx_sessions import CPU_PROVIDER, engine_folder, onnx_session
from tests.infer.embedding.test_engines import write_means

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")


@pytest.fixture
def exported(tmp_path):
    return write_means(tmp_path / "means.onnx")


@pytest.fixture
def without_libraries(monkeypatch):
    """onnxruntime as its build for GPUs behaves where CUDA and TensorRT are not installed."""

    def session(path, options, *, providers, enable_fallback):
        assert not enable_fallback
        if providers[0][0].startswith("Tensorrt"):
            raise RuntimeError("Please install TensorRT libraries\nand more")
        return onnxruntime.InferenceSession(path, options, providers=[CPU_PROVIDER])

    stub = types.SimpleNamespace(
        __file__=onnxruntime.__file__,
        __version__="1.0",
        SessionOptions=onnxruntime.SessionOptions,
        InferenceSession=session,
        get_available_providers=lambda: [
            "TensorrtExecutionProvider",
            "CUDAExecutionProvider",
            CPU_PROVIDER,
        ],
        set_default_logger_severity=lambda level: None,
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", stub)


def test_a_build_for_cpus_runs_there_and_says_what_to_install(caplog, exported):
    engine = OnnxEngine(exported, feature="cls", device=GPU)
    images = torch.rand(2, 3, 16, 24)
    expected = OnnxEngine(exported, feature="cls", device=CPU)(images)
    assert torch.equal(engine(images), expected)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)  # which opens another session
    try:
        assert torch.equal(engine(images), expected)
    finally:
        torch.set_num_threads(threads)
    (warning,) = caplog.messages
    assert f"{exported} runs without CUDAExecutionProvider: this onnxruntime is" in warning
    assert "pip install 'dino-toolkit[gpu]'" in warning


def test_two_builds_in_one_folder_are_noticed(caplog, exported, tmp_path, monkeypatch):
    other = tmp_path / "packages" / "onnxruntime_gpu-1.0.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(other.parent)
    onnx_session(exported, GPU)
    assert "are both installed and overwrite each other; pip uninstall -y" in caplog.text


@pytest.mark.usefixtures("without_libraries")
def test_tensorrt_falls_back_to_cuda_and_cuda_to_the_cpu(caplog, exported, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    session = onnx_session(exported, GPU, tensorrt=True)
    assert session.get_providers() == [CPU_PROVIDER]
    first, second = caplog.messages
    assert "runs without TensorrtExecutionProvider: " in first
    assert "libonnxruntime_providers_tensorrt.so: cannot open shared object" in first
    assert "runs without CUDAExecutionProvider: " in second
    assert "libonnxruntime_providers_cuda.so: cannot open shared object" in second


def test_tensorrt_is_for_gpus(exported):
    with pytest.raises(ValueError, match="TensorRT runs on CUDA devices alone, got 'cpu'"):
        OnnxEngine(exported, feature="cls", device=CPU, runtime="tensorrt")


def test_engines_of_other_weights_are_kept_apart(exported, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    other = write_means(tmp_path / "other.onnx", patches=False)
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(exported.read_bytes())
    assert engine_folder(copy) == engine_folder(exported) != engine_folder(other)
    assert tmp_path / "dino-toolkit" / "tensorrt" in engine_folder(other).parents
