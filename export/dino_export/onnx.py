"""Backbones as ONNX: one file of standard operators, the same bytes for the same weights."""

import importlib.util
import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.export import ExportedProgram

from dino_export.errors import ExportError
from dino_export.settings import METADATA_KEY, ExportSettings
from dino_infer.errors import MissingExtraError

if TYPE_CHECKING:
    import onnx

MAX_BYTES = (1 << 31) - (1 << 20)  # protobuf ends at 2 GiB
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def check_onnx_installed() -> None:
    """Refuse early what would fail after minutes.

    Raises:
        MissingExtraError: onnx, onnxscript or onnxruntime is missing.
    """
    for name in PACKAGES:
        if importlib.util.find_spec(name) is None:
            raise MissingExtraError(
                f"ONNX needs the package {name!r}; install it with pip install "
                "'dino-toolkit[export]', or use `format='pt2'`"
            )


def save_onnx(
    path: Path,
    program: ExportedProgram,
    settings: ExportSettings,
    metadata: Mapping[str, Any],
    *,
    calibration: Sequence[np.ndarray] = (),
) -> None:
    """Translate a captured program and write it with its description.

    Raises:
        ExportError: One file cannot hold the weights.
    """
    size = sum(t.numel() * t.element_size() for t in program.state_dict.values())
    if size > MAX_BYTES:
        raise ExportError(
            f"the weights are {size / 2**30:.1f} GiB and an ONNX file holds 2; use "
            "`precision='fp16'` or `format='pt2'`"
        )
    model = _model(program, settings)
    if settings.precision == "int8":
        from dino_export.int8 import calibrated, quantized

        model = calibrated(model, calibration) if calibration else quantized(model)
    _describe(model, metadata)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _model(program: ExportedProgram, settings: ExportSettings) -> "onnx.ModelProto":
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about its own parts
        exported = torch.onnx.export(
            program,
            (),
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=list(settings.outputs),
            opset_version=settings.opset,
        )
    assert exported is not None
    exported.rename_axes(_axis_names(exported.model.graph.inputs[0].shape, settings))
    ClearMetadataAndDocStringPass()(exported.model)  # where this machine keeps its code
    return exported.model_proto


def _axis_names(shape: Any, settings: ExportSettings) -> dict[Any, str]:
    first = 1 if settings.preprocess else 2
    names = {0: "batch", first: "height", first + 1: "width"}
    return {shape[axis]: name for axis, name in names.items() if not isinstance(shape[axis], int)}


def _describe(model: "onnx.ModelProto", metadata: Mapping[str, Any]) -> None:
    del model.metadata_props[:]
    model.metadata_props.add(key=METADATA_KEY, value=json.dumps(metadata, sort_keys=True))
