"""Names that users choose from, for the library and the commands; imports nothing heavy."""

from typing import Literal, get_args

Precision = Literal["auto", "fp32", "bf16", "fp16"]
"""Precision of matrix products; "auto" is bf16 where the device multiplies it natively."""

VectorFeature = Literal["cls", "mean", "cls+mean", "gem", "cls+gem", "last4"]
"""The [CLS] token; the mean of the patch tokens; both one after the other; the generalised mean of
the patch tokens; [CLS] and that, as copy detection uses them; the [CLS] tokens of the last four
blocks, as linear evaluation uses them."""

FEATURES: tuple[str, ...] = (*get_args(VectorFeature), "patches")
"""Features that have a name of their own: one vector an image, or the matrix of all patch tokens.

Beside them ``lastN`` takes the [CLS] tokens of the last N blocks, and ``lastN+mean`` also the mean
of the last block's patch tokens: ``last1+mean``, ``last4+mean``.
"""

Crop = Literal["center", "none"]
"""Keep the central square of an image, or all of it."""

ObjectMethod = Literal["tokencut", "lost", "maskcut"]
"""Method that finds objects in the keys of patches; "maskcut" finds several."""

OBJECT_METHODS: tuple[ObjectMethod, ...] = get_args(ObjectMethod)

EngineName = Literal["auto", "torch", "onnx", "openvino", "tensorrt"]
"""Program that runs a network: PyTorch, or for .onnx files onnxruntime, OpenVINO on a CPU, or
onnxruntime through TensorRT. "auto" is PyTorch for all but .onnx files, and for these OpenVINO
where it is installed and faster, else onnxruntime."""

OnError = Literal["skip", "fail", "nan"]
"""Leave images out that cannot be read, stop at the first, or keep a row of NaN for each."""

MaskMeaning = Literal["foreground", "labels"]
"""Meaning of a mask's levels: white marks the object, or each level is a label and the last one
(255, or 65,535 of 16 bits) is void."""
