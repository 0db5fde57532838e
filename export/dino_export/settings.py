"""Settings of an exported file, its format, sizes, outputs and precision, and their metadata."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from dino_export.choices import Format, Precision
from dino_export.graph import Output
from dino_infer.weights.info import CheckpointInfo

FORMATS: tuple[Format, ...] = get_args(Format)
ENDINGS: dict[str, Format] = {
    ".onnx": "onnx",
    ".ts": "torchscript",
    ".torchscript": "torchscript",
    ".pt2": "pt2",
}
OPSETS, OPSET = range(18, 24), 20
METADATA_KEY = "dino"
PIXELS, UINT8_PIXELS = "float32_nchw", "uint8_nhwc"


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """Settings of an exported file."""

    format: Format
    """Format, which says what runs it."""
    outputs: tuple[Output, ...]
    """Names, in the order of the file."""
    dynamic_batch: bool = True
    """True if the file takes any number of images at once, not one alone."""
    dynamic_size: bool = True
    """True if the file takes images of any size."""
    size: tuple[int, int]
    """Height and width in pixels: the only ones, or with ``dynamic_size`` an example."""
    preprocess: bool = False
    """True if the file takes uint8 images (batch, height, width, 3) and normalises them itself."""
    precision: Precision = "fp32"
    """Precision of weights and products; inputs and outputs stay as they are."""
    opset: int = OPSET
    """Version of ONNX's operators."""

    def __post_init__(self) -> None:
        if self.precision == "int8" and self.format != "onnx":
            raise ValueError(f"`precision='int8'` is for ONNX files, got format {self.format!r}")
        if self.opset not in OPSETS:
            raise ValueError(f"`opset` must lie in [{OPSETS[0]}, {OPSETS[-1]}], got {self.opset}")
        if self.format == "torchscript" and self.dynamic_size:
            raise ValueError(
                "a TorchScript file holds for one size and cannot take `dynamic_size=True`"
            )

    def as_metadata(self, info: CheckpointInfo, weights_sha256: str) -> dict[str, Any]:
        """Metadata of the file; ``CheckpointInfo.from_metadata`` reads its part."""
        own: dict[str, Any] = {
            "weights_sha256": weights_sha256,
            "export_format": self.format,
            "precision": self.precision,
            "feature": "cls",
            "outputs": list(self.outputs),
            "input": UINT8_PIXELS if self.preprocess else PIXELS,
            "dynamic": [
                name
                for name, dynamic in (("batch", self.dynamic_batch), ("size", self.dynamic_size))
                if dynamic
            ],
            "size": None if self.dynamic_size else list(self.size),
        }
        if self.format == "onnx":
            own["opset"] = self.opset
        return info.as_metadata() | own


def format_of(path: Path) -> Format:
    """Format that a file's ending asks for.

    Raises:
        ValueError: None that is known; the known ones are listed.
    """
    if path.suffix not in ENDINGS:
        raise ValueError(
            f"the file name must end in one of {', '.join(ENDINGS)}, or `format` be given: one "
            f"of {', '.join(FORMATS)}; got {str(path)!r}"
        )
    return ENDINGS[path.suffix]
