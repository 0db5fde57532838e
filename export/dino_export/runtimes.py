"""Exported files, opened in what runs them: what they say about themselves, and what they compute.

Nothing here needs the weights or the network that a file was made from.
"""

import json
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dino_export.choices import Format
from dino_export.errors import ExportError
from dino_export.graph import OUTPUTS
from dino_export.settings import ENDINGS, METADATA_KEY
from dino_infer.errors import first_line

PROGRAM, COMPILED = "models/", "data/aotinductor/"  # folders in .pt2 archives


@dataclass(frozen=True)
class ExportedFile:
    """An exported file that has been opened."""

    path: Path
    metadata: dict[str, Any]
    """Metadata of the file, see ``ExportSettings.as_metadata``."""
    run: Callable[[Tensor], dict[str, np.ndarray]]
    """Function that returns the outputs for a batch, by name."""


def open_export(path: Path, *, device: torch.device) -> ExportedFile:
    """Open a file in its own runtime.

    Args:
        path: An export of this toolkit, of any format.
        device: Device to run on; compiled packages run where they were compiled for.

    Raises:
        ExportError: The file is missing, damaged, or none of ours.
    """
    if not path.is_file():
        raise ExportError(f"no file at {str(path)!r}")
    try:
        metadata, run = _OPENERS[_format_inside(path)](path, device)
    except ExportError:
        raise
    except Exception as error:  # the runtimes' errors share no base class
        reason = first_line(error)
        raise ExportError(f"{str(path)!r} cannot be opened ({reason}); export it again") from error
    names = metadata["outputs"]

    def outputs(images: Tensor) -> dict[str, np.ndarray]:
        with torch.no_grad():
            return dict(zip(names, run(images), strict=True))

    return ExportedFile(path, metadata, outputs)


def _format_inside(path: Path) -> Format:
    """The format by what the file holds; both kinds of .pt2 are archives of one layout."""
    if path.suffix == ".onnx":
        return "onnx"
    if not zipfile.is_zipfile(path):
        raise _foreign(path)
    with zipfile.ZipFile(path) as archive:
        names = [name.partition("/")[2] for name in archive.namelist()]
    if any(name.startswith(COMPILED) for name in names):
        return "aoti"
    return "pt2" if any(name.startswith(PROGRAM) for name in names) else "torchscript"


def _foreign(path: Path) -> ExportError:
    return ExportError(
        f"{str(path)!r} is not an export of this toolkit: expected metadata {METADATA_KEY!r} in a "
        f"file that ends in {', '.join(ENDINGS)}; make one with dino-export"
    )


Opener = Callable[[Path, torch.device], tuple[dict[str, Any], Callable[[Tensor], list[np.ndarray]]]]


def _onnx(path: Path, device: torch.device) -> tuple[dict[str, Any], Any]:
    from dino_infer.embedding.onnx_sessions import onnx_session

    session = onnx_session(path, device)
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    return _parsed(path, text), lambda images: session.run(None, {"images": images.cpu().numpy()})


def _torchscript(path: Path, device: torch.device) -> tuple[dict[str, Any], Any]:
    extra = {METADATA_KEY: ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # that TorchScript is deprecated
        module: Any = torch.jit.load(  # type: ignore[no-untyped-call]
            path, map_location=device, _extra_files=extra
        )
    return _parsed(path, extra[METADATA_KEY]), lambda images: _arrays(module(images.to(device)))


def _program(path: Path, device: torch.device) -> tuple[dict[str, Any], Any]:
    extra = {METADATA_KEY: ""}
    module = torch.export.load(path, extra_files=extra).module()
    return _parsed(path, extra[METADATA_KEY]), lambda images: _arrays(module(images.to(device)))


def _compiled(path: Path, device: torch.device) -> tuple[dict[str, Any], Any]:
    package: Any = torch._inductor.aoti_load_package(str(path))
    text = package.get_metadata().get(METADATA_KEY)
    return _parsed(path, text), lambda images: _arrays(package(images.to(device)))


def _arrays(outputs: tuple[Tensor, ...]) -> list[np.ndarray]:
    return [output.cpu().numpy() for output in outputs]


def _parsed(path: Path, text: str | bytes | None) -> dict[str, Any]:
    if not text:
        raise _foreign(path)
    metadata = json.loads(text)
    outputs = metadata.get("outputs") if isinstance(metadata, dict) else None
    if not isinstance(outputs, list) or not set(map(str, outputs)) <= set(OUTPUTS):
        raise ValueError(f"its metadata must name outputs among {', '.join(OUTPUTS)}")
    described: dict[str, Any] = metadata
    return described


_OPENERS: dict[Format, Opener] = {
    "onnx": _onnx,
    "torchscript": _torchscript,
    "pt2": _program,
    "aoti": _compiled,
}
