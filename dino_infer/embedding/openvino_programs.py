"""Exported files in OpenVINO, on the CPU.

OpenVINO compiles a network for the sizes of its input. Left open, they cost a twentieth of the
time, so the first sizes that come get programs of their own.
"""

import importlib.util
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dino_infer.cores import cores
from dino_infer.errors import CheckpointError, MissingExtraError

MAX_PROGRAMS = 4  # of fixed sizes; each holds the weights once more, and takes about a second
TELEMETRY = "openvino_telemetry"

_Shape = tuple[int | str | None, ...]


def is_installed() -> bool:
    """Tell if OpenVINO can be imported, without importing it."""
    return importlib.util.find_spec("openvino") is not None


class OpenVinoFile:
    """An .onnx file in OpenVINO; threads may run it side by side.

    Args:
        path: The file.

    Attributes:
        metadata: Metadata of the file, by key.
        inputs: Names of the inputs.
        outputs: Names of the outputs.
        shape: Shape of the images; None stands where any size fits.

    Raises:
        CheckpointError: The file is missing or damaged.
        MissingExtraError: OpenVINO is not installed.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise CheckpointError(f"no file at {str(path)!r}")
        openvino = _openvino()
        self._core = openvino.Core()
        reader = openvino.frontend.FrontEndManager().load_by_framework("onnx")
        try:
            self._model = reader.convert(reader.load(str(path)))
        except Exception as error:  # OpenVINO's errors share no public base class
            raise CheckpointError(
                f"{str(path)!r} cannot be run ({_reason(error)}); export it again"
            ) from error
        self.metadata: dict[str, str] = {}
        if self._model.has_rt_info("framework"):
            self.metadata = dict(self._model.get_rt_info("framework").value)
        self.inputs: list[str] = [port.get_any_name() for port in self._model.inputs]
        self.outputs: list[str] = [port.get_any_name() for port in self._model.outputs]
        self.shape: list[int | str | None] = [
            None if size.is_dynamic else size.get_length()
            for size in self._model.inputs[0].partial_shape
        ]
        self._programs: dict[tuple[int, _Shape], Any] = {}
        self._compiling = threading.Lock()
        self._of_thread = threading.local()

    def run(self, names: list[str], images: np.ndarray) -> list[np.ndarray]:
        """The outputs of these names, on as many threads as the caller computes with."""
        program = self._program(torch.get_num_threads(), images.shape)
        requests = vars(self._of_thread)  # as a request serves one thread at a time
        if program not in requests:
            requests[program] = program.create_infer_request()
        results = requests[program].infer({self.inputs[0]: images}, share_inputs=True)
        return [results[name] for name in names]

    def _program(self, threads: int, given: tuple[int, ...]) -> Any:
        """The program for images of this shape; batches of more than one share theirs."""
        batch = given[0] if given[0] == 1 else None
        sizes = zip((batch, *given[1:]), self.shape, strict=True)
        wanted = tuple(new if old is None else old for new, old in sizes)
        with self._compiling:
            if (threads, wanted) not in self._programs and len(self._programs) >= MAX_PROGRAMS:
                wanted = tuple(self.shape)
            if (threads, wanted) not in self._programs:
                self._programs[threads, wanted] = self._compiled(threads, wanted)
            return self._programs[threads, wanted]

    def _compiled(self, threads: int, shape: _Shape) -> Any:
        model = self._model.clone()
        model.reshape([-1 if size is None else size for size in shape])
        streams = max(1, cores() // threads)  # batches that may be computed side by side
        return self._core.compile_model(
            model,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": "f32",  # not bfloat16, which it prefers where it can
                "INFERENCE_NUM_THREADS": threads * streams,
                "NUM_STREAMS": streams,
                "ENABLE_CPU_PINNING": False,  # other processes may have the core
            },
        )


def _openvino() -> Any:
    """The package, kept from reporting each import to its makers over the network."""
    before = sys.modules.get(TELEMETRY)
    if before is None:
        sys.modules[TELEMETRY] = None  # type: ignore[assignment]
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError(
            "engine 'openvino' needs OpenVINO; install it with pip install 'dino-toolkit[openvino]'"
        ) from error
    finally:
        if before is None:
            del sys.modules[TELEMETRY]
    return openvino


def _reason(error: Exception) -> str:
    """The line of OpenVINO's message that says something: not where in its sources it arose."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [
        line for line in lines if not line.startswith(("Exception from", "Check ", "FrontEnd API"))
    ]
    return (told or lines or ["no reason given"])[0]
