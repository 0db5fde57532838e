"""Names that users choose from; imports nothing heavy."""

from typing import Literal

Format = Literal["onnx", "torchscript", "pt2", "aoti"]
"""Format of an exported file; "pt2" is torch.export, "aoti" its compiled form."""

Precision = Literal["fp32", "fp16", "int8"]
"""Precision of the weights and products of an exported file."""

Target = Literal["hf", "timm", "dino-pth", "safetensors"]
"""Files that weights are converted to: those of transformers, timm, the original, or our own."""
