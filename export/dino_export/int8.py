"""ONNX models with 8-bit weights: a quarter of the size, and on CPUs more than twice the speed.

Weights are rounded once, with a scale for each output channel, to 7 bits: processors without VNNI
add two products in 16 bits, which 8-bit weights overflow. Activations are rounded in ranges that
images have shown, or without images, in the range that each batch turns out to have.
"""

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

PRODUCTS = ["MatMul", "Gemm"]  # nearly all of a Vision Transformer's time


def quantized(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """The model of a Vision Transformer with 8-bit products, whose ranges are those of a batch."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _prepared(model) as (prepared, after):
        quantize_dynamic(
            prepared,
            after,
            op_types_to_quantize=PRODUCTS,
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(after)


def calibrated(model: "onnx.ModelProto", batches: Sequence[np.ndarray]) -> "onnx.ModelProto":
    """The model with 8-bit products, whose ranges are the smallest that hold all of the images'.

    Activations of a convnet stay in 8 bits from one layer to the next. A Vision Transformer loses
    by that and gains no speed, so there the products' results are float32.

    Args:
        model: Model of any backbone.
        batches: Inputs of the model, made of images like those that it is for.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_static

    with _prepared(model) as (prepared, after):
        quantize_static(
            prepared,
            after,
            _reader(batches),
            op_types_to_quantize=None if _is_convnet(model) else PRODUCTS,
            nodes_to_exclude=_products_without_weights(onnx.load(prepared)),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"OpTypesToExcludeOutputQuantization": PRODUCTS},
        )
        return onnx.load(after)


@contextmanager
def _prepared(model: "onnx.ModelProto") -> Iterator[tuple[Path, Path]]:
    """The model as a file with folded constants and inferred shapes, and a place for another."""
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, prepared, after = (Path(folder, f"{i}.onnx") for i in range(3))
        onnx.save(model, before)
        quant_pre_process(before, prepared, skip_symbolic_shape=True)
        yield prepared, after


def _is_convnet(model: "onnx.ModelProto") -> bool:
    """Tell a convnet, which convolves more than once, from a ViT, which does it to cut patches."""
    return [node.op_type for node in model.graph.node].count("Conv") > 1


def _products_without_weights(model: "onnx.ModelProto") -> list[str]:
    """Names of attention's products, where 8 bits cost a trained network six times the error."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [
        node.name
        for node in model.graph.node
        if node.op_type in PRODUCTS and not weights.intersection(node.input)
    ]


def _reader(batches: Sequence[np.ndarray]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        """Hands out batch after batch, then None."""

        def __init__(self) -> None:
            self._left = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self._left, None)
            return None if batch is None else {"images": batch}

    return Reader()
