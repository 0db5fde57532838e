"""Exported files in onnxruntime: on the CPU, on a GPU, or on a GPU through TensorRT.

Where a GPU was asked for and onnxruntime cannot use it, the file runs on what is left, and a
warning says why: onnxruntime itself goes on silently.
"""

import ctypes
import hashlib
import importlib.metadata
import logging
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dino_infer.errors import CheckpointError, MissingExtraError, first_line

logger = logging.getLogger(__name__)

CPU_PROVIDER = "CPUExecutionProvider"
CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
LIBRARIES = {CUDA: "cuda", TENSORRT: "tensorrt"}
WARNINGS, ERRORS, SILENT = 2, 3, 4  # of onnxruntime's own messages, which go past logging


class OnnxRuntimeFile:
    """An .onnx file in onnxruntime; threads may run it side by side.

    Args:
        path: The file.
        device: Device as in ``onnx_session``, which lists the errors.
        tensorrt: TensorRT as in ``onnx_session``.

    Attributes:
        metadata: Metadata of the file, by key.
        inputs: Names of the inputs.
        outputs: Names of the outputs.
        shape: Shape of the images; a name stands where any size fits.
    """

    def __init__(self, path: Path, device: torch.device, *, tensorrt: bool = False) -> None:
        session = onnx_session(path, device, tensorrt=tensorrt)
        self._path = path
        self._first = session
        self._sessions = {torch.get_num_threads(): session}
        self._opening = threading.Lock()
        self.metadata: dict[str, str] = session.get_modelmeta().custom_metadata_map
        self.inputs: list[str] = [given.name for given in session.get_inputs()]
        self.outputs: list[str] = [output.name for output in session.get_outputs()]
        self.shape: list[int | str | None] = session.get_inputs()[0].shape

    def run(self, names: list[str], images: np.ndarray) -> list[np.ndarray]:
        """The outputs of these names, on as many threads as the caller computes with."""
        arrays: list[np.ndarray] = self._session().run(names, {self.inputs[0]: images})
        return arrays

    def _session(self) -> Any:
        """The session with as many threads as the caller computes with.

        Sessions bring their threads along, so batches that run side by side on one thread each
        need another session than a batch that has all threads to itself. On a GPU one does.
        """
        if self._first.get_providers() != [CPU_PROVIDER]:
            return self._first
        threads = torch.get_num_threads()
        with self._opening:
            if threads not in self._sessions:
                self._sessions[threads] = onnx_session(self._path, torch.device("cpu"))
            return self._sessions[threads]


def onnx_session(path: Path, device: torch.device, *, tensorrt: bool = False) -> Any:
    """An .onnx file in onnxruntime.

    Args:
        path: The file.
        device: A CUDA device asks for the CUDA provider.
        tensorrt: Ask for TensorRT first, which compiles the network for the GPU. That takes
            minutes, once for each file: what it makes is kept in ``engine_folder``.

    Raises:
        CheckpointError: The file is missing, damaged or for a newer onnxruntime.
        MissingExtraError: onnxruntime is not installed.
        ValueError: TensorRT on a CPU.
    """
    if tensorrt and device.type != "cuda":
        raise ValueError(f"TensorRT runs on CUDA devices alone, got {str(device)!r}")
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError(
            "an .onnx file needs onnxruntime; install it with pip install 'dino-toolkit[export]'"
        ) from error
    if not path.is_file():
        raise CheckpointError(f"no file at {str(path)!r}")
    wanted = [TENSORRT] * tensorrt + [CUDA] * (device.type == "cuda")
    if not wanted:
        return _session(path, device, [])
    available = onnxruntime.get_available_providers()
    for name in [name for name in wanted if name not in available]:
        _warn(path, name, _why_missing())
        wanted.remove(name)
    onnxruntime.set_default_logger_severity(SILENT)  # each reason is given here, in one line
    try:
        return _gpu_session(path, device, wanted)
    finally:
        onnxruntime.set_default_logger_severity(WARNINGS)


def engine_folder(path: Path) -> Path:
    """Folder where TensorRT keeps what it has compiled of a file: in XDG_CACHE_HOME or ~/.cache.

    TensorRT recognises its engines by the operators alone, so other weights need another folder,
    and so does another onnxruntime.
    """
    import onnxruntime

    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Path(root, "dino-toolkit", "tensorrt", f"{digest[:16]}-{onnxruntime.__version__}")


def _gpu_session(path: Path, device: torch.device, wanted: list[str]) -> Any:
    """A session with the first of these providers that work, or on the CPU."""
    try:
        session = _session(path, device, wanted)
    except RuntimeError as error:  # TensorRT's way of saying that it is not all there
        _warn(path, wanted[0], _why_not_loaded(wanted[0]) or first_line(error))
        return _gpu_session(path, device, wanted[1:])
    for name in wanted:
        if name not in session.get_providers():  # CUDA's way
            _warn(path, name, _why_not_loaded(name) or "onnxruntime could not start it")
    return session


def _session(path: Path, device: torch.device, wanted: list[str]) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = ERRORS  # its warnings are about its own fusions
    providers = [(name, _provider_options(name, path, device)) for name in wanted]
    try:
        return onnxruntime.InferenceSession(
            str(path),
            options,
            providers=[*providers, CPU_PROVIDER],
            enable_fallback=0,  # it would print to stdout
        )
    except Exception as error:  # onnxruntime's errors share no public base class
        if wanted and isinstance(error, RuntimeError):
            raise
        raise CheckpointError(
            f"{str(path)!r} cannot be run ({first_line(error)}); export it again"
        ) from error


def _provider_options(name: str, path: Path, device: torch.device) -> dict[str, Any]:
    place: dict[str, Any] = {"device_id": device.index or 0}
    if name != TENSORRT:
        return place
    folder = engine_folder(path)
    folder.mkdir(parents=True, exist_ok=True)
    return place | {
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": str(folder),
    }


def _warn(path: Path, provider: str, reason: str) -> None:
    logger.warning("%s runs without %s: %s", path, provider, reason)


def _why_missing() -> str:
    """Reason why this onnxruntime has no provider for GPUs."""
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if _is_installed(name)]
    if len(installed) == 2:
        return (
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other; "
            "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install onnxruntime-gpu"
        )
    return (
        "this onnxruntime is built without it; pip uninstall -y onnxruntime, then pip install "
        "'dino-toolkit[gpu]'"
    )


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _why_not_loaded(provider: str) -> str:
    """Reason why the provider's library does not load; empty if it does.

    To be asked after onnxruntime has tried: the library must not be loaded before it.
    """
    import onnxruntime

    folder = Path(onnxruntime.__file__).parent / "capi"
    try:
        ctypes.CDLL(str(folder / f"libonnxruntime_providers_{LIBRARIES[provider]}.so"))
    except OSError as error:
        return first_line(error)
    return ""
