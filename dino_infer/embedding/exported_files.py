"""Exported files as they describe themselves, whatever runs them.

An exported file describes itself in one metadata entry, ``dino``: the JSON of ``CheckpointInfo``
with ``weights_sha256``, ``precision`` and ``outputs``. Its input is ``images``, its outputs have
the names of ``Tokens``: ``cls`` and ``patches``.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from dino_infer.errors import CheckpointError, first_line
from dino_infer.weights.info import CheckpointInfo

ONNX_METADATA_KEY = "dino"
MAX_SIDE = 1 << 14  # of images, in pixels; what exported programs take at most


@runtime_checkable
class OpenedFile(Protocol):
    """An exported file in the program that runs it; threads may run it side by side.

    Attributes:
        metadata: Metadata of the file, by key.
        inputs: Names of the inputs.
        outputs: Names of the outputs.
        shape: Shape of the images; no number stands where any size fits.
    """

    metadata: dict[str, str]
    inputs: list[str]
    outputs: list[str]
    shape: list[int | str | None]

    def run(self, names: list[str], images: np.ndarray) -> list[np.ndarray]:
        """The outputs of these names, on as many threads as the caller computes with."""
        ...


@dataclass(frozen=True)
class OnnxFile:
    """Description that an exported file has of itself."""

    path: Path
    info: CheckpointInfo
    outputs: tuple[str, ...]
    weights_sha256: str
    precision: str
    normalizes: bool
    """Takes uint8 images (batch, height, width, 3) and normalises them itself."""
    ranges_of_batch: bool
    """Rounds to 8 bits in the range of each batch, as files do that no images have calibrated."""


def described(path: Path, opened: OpenedFile) -> OnnxFile:
    """The description in an opened file.

    Raises:
        CheckpointError: It is damaged, or the file is not an export of this toolkit.
    """
    text = opened.metadata.get(ONNX_METADATA_KEY)
    inputs, outputs = opened.inputs, tuple(opened.outputs)
    if text is None or inputs != ["images"] or "cls" not in outputs:
        raise CheckpointError(
            f"{str(path)!r} is not an export of this toolkit: expected metadata "
            f"{ONNX_METADATA_KEY!r}, the input 'images' and the output 'cls', "
            f"got inputs {inputs} and outputs {list(outputs)}; make one with dino-export"
        )
    try:
        metadata = json.loads(text)
        info = CheckpointInfo.from_metadata(metadata)
        digest, precision = metadata["weights_sha256"], metadata["precision"]
        if not (isinstance(digest, str) and isinstance(precision, str)):
            raise ValueError("its weights_sha256 and precision must be texts")
        _check_numbers(info)
    except (
        AttributeError, CheckpointError, LookupError, RecursionError, TypeError, ValueError
    ) as error:  # fmt: skip
        reason = first_line(error)
        raise CheckpointError(
            f"the metadata {ONNX_METADATA_KEY!r} of {str(path)!r} is damaged ({reason[:200]}); "
            "export it again"
        ) from error
    return OnnxFile(
        path=path,
        info=info,
        outputs=outputs,
        weights_sha256=digest,
        precision=precision,
        normalizes=metadata.get("input") == "uint8_nhwc",
        ranges_of_batch=precision == "int8" and not metadata.get("calibration_images"),
    )


def _check_numbers(info: CheckpointInfo) -> None:
    """Refuse sizes and statistics by which no image can be prepared."""
    sides = [info.patch_size, info.image_size, info.view_size]
    if not all(type(side) is int and 0 < side <= MAX_SIDE for side in sides):
        raise ValueError(f"sizes must be whole numbers from 1 to {MAX_SIDE}")
    for name, values, least in (("mean", info.mean, -math.inf), ("std", info.std, 0)):
        if len(values) != 3 or not all(least < value < math.inf for value in values):
            raise ValueError(f"{name} must be three finite numbers, those of std above 0")
