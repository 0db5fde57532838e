"""Engines that run a backbone over a batch: PyTorch, eager or compiled, or an exported .onnx file.

An exported file describes itself in one metadata entry, ``dino``: the JSON of ``CheckpointInfo``
with ``weights_sha256``, ``precision`` and ``outputs``. Its input is ``images``, its outputs have
the names of ``Tokens``: ``cls`` and ``patches``.
"""

import copy
import json
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from dino_infer.choices import Precision
from dino_infer.devices import AUTOCAST, resolved_precision
from dino_infer.embedding.onnx_sessions import CPU_PROVIDER, onnx_session
from dino_infer.embedding.pooling import check_feature, feature_of, last_blocks, pooled
from dino_infer.errors import CheckpointError, first_line
from dino_infer.images.preprocess import denormalized
from dino_infer.networks.backbone import Backbone, Images
from dino_infer.weights.checkpoints import weights_sha256
from dino_infer.weights.info import CheckpointInfo

ONNX_METADATA_KEY = "dino"
MAX_SIDE = 1 << 14  # of images, in pixels; what exported programs take at most


@runtime_checkable
class Engine(Protocol):
    """Runs a network over normalised images.

    Attributes:
        device: Device of the images.
        patch_size: Side of a patch in pixels; None if the network does not cut images into patches.
    """

    device: torch.device
    patch_size: int | None

    def description(self) -> dict[str, Any]:
        """Description of the network: the engine's part of a feature set's manifest."""
        ...

    def __call__(self, images: Images) -> Float[Tensor, "batch ..."]:
        """The feature of each image, on the engine's device."""
        ...


class TorchEngine:
    """A backbone in PyTorch.

    Args:
        backbone: Moved to the device and switched to evaluation mode; copied if its weights must
            be of another precision.
        feature: Feature to take from it.
        device: Device to run on.
        precision: Precision of matrix products and convolutions; norms and sums stay float32.
            "auto" is bf16 where the device multiplies it natively, else fp32.
        compiled: Fuse it with torch.compile: seconds to minutes at the first batch of each size.

    Raises:
        ValueError: The backbone has no such feature.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        feature: str,
        device: torch.device,
        precision: Precision = "auto",
        compiled: bool = False,
    ) -> None:
        check_feature(
            feature,
            arch=backbone.arch,
            has_patches=backbone.has_attention,
            depth=backbone.depth if backbone.has_attention else None,
        )
        self.device = device
        self.precision = resolved_precision(precision, device)
        self.backbone = backbone.to(device).eval()
        self.patch_size = backbone.patch_size if backbone.has_attention else None
        self._feature = feature
        self._network = self.backbone
        if self.precision in AUTOCAST:
            self._network = _with_cast_weights(self.backbone, AUTOCAST[self.precision])
        self._forward: Callable[[Tensor], Tensor] = self._run
        if compiled:
            self._forward = _padded(torch.compile(self._run))

    def __repr__(self) -> str:
        return (
            f"TorchEngine({self.backbone!r}, feature={self._feature!r}, "
            f"precision={self.precision!r}, device={str(self.device)!r})"
        )

    def description(self) -> dict[str, Any]:
        """Description of the network; hashed at each call, as the caller may go on training it."""
        return {
            "arch": self.backbone.arch,
            "feature": self._feature if self.backbone.has_attention else "pooled",
            "precision": self.precision,
            "weights_sha256": weights_sha256(self.backbone),
        }

    @torch.inference_mode()
    def __call__(self, images: Images) -> Float[Tensor, "batch ..."]:
        """The feature of each image, on the device."""
        return self._forward(images)

    def _run(self, images: Tensor) -> Tensor:
        dtype = AUTOCAST.get(self.precision)
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
            return feature_of(self._network, images, self._feature)


def _with_cast_weights(backbone: Backbone, dtype: torch.dtype) -> Backbone:
    """A copy whose products have weights of this type already, so autocast casts none per batch."""
    backbone = copy.deepcopy(backbone)
    for module in backbone.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.to(dtype)
    return backbone


def _padded(compiled: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Fill smaller batches up with zeros, because each batch size is compiled separately."""
    largest: dict[tuple[int, int], int] = {}

    def run(images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        size = largest.setdefault((height, width), len(images))
        if len(images) >= size:
            largest[height, width] = len(images)
            return compiled(images)
        missing = images.new_zeros(size - len(images), *images.shape[1:])
        return compiled(torch.cat([images, missing]))[: len(images)]

    return run


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


class OnnxEngine:
    """An exported network in onnxruntime.

    Args:
        path: The ``.onnx`` file.
        feature: Feature to take from it.
        device: A CUDA device asks for the CUDA provider; without one the CPU is used, with a
            warning.
        tensorrt: Ask for TensorRT before CUDA; see ``onnx_session``.

    Raises:
        CheckpointError: The file is damaged or not an export of this toolkit.
        MissingExtraError: onnxruntime is not installed.
        ValueError: The file has no output for this feature, or TensorRT is to run on a CPU.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        feature: str,
        device: torch.device,
        tensorrt: bool = False,
    ) -> None:
        session = onnx_session(Path(path), device, tensorrt=tensorrt)
        self._first_session = session
        self._sessions = {torch.get_num_threads(): session}
        self._opening = threading.Lock()
        self.file = _described(Path(path), session)
        has_patches = "patches" in self.file.outputs
        check_feature(feature, arch=self.file.info.arch, has_patches=has_patches)
        if last_blocks(feature):
            raise ValueError(
                f"feature {feature!r} is not in exported files; give the weights they were made "
                "from"
            )
        # Inputs and outputs cross as NumPy arrays, so images stay on the CPU in any case.
        self.device = torch.device("cpu")
        self._feature = feature
        self.patch_size = self.file.info.patch_size if has_patches else None
        self._shape = session.get_inputs()[0].shape
        self._wanted = ["cls"] if feature == "cls" else ["cls", "patches"]

    def __repr__(self) -> str:
        return f"OnnxEngine({str(self.file.path)!r}, feature={self._feature!r})"

    def description(self) -> dict[str, Any]:
        """Description of the network: the weights that were exported, and how they run."""
        return {
            "arch": self.file.info.arch,
            "feature": self._feature if "patches" in self.file.outputs else "pooled",
            "precision": self.file.precision,
            "weights_sha256": self.file.weights_sha256,
        }

    def __call__(self, images: Images) -> Float[Tensor, "batch ..."]:
        """The feature of each image.

        Raises:
            CheckpointError: The file was exported for another size only.
        """
        if self.file.normalizes:
            levels = denormalized(images, mean=self.file.info.mean, std=self.file.info.std)
            images = levels.permute(0, 2, 3, 1).contiguous()
        for given, wanted in zip(images.shape, self._shape, strict=True):
            if isinstance(wanted, int) and given != wanted:
                raise CheckpointError(
                    f"{str(self.file.path)!r} takes images of shape {self._shape} alone, got "
                    f"{tuple(images.shape)}; export it with dynamic sizes, or embed at its size"
                )
        arrays: list[np.ndarray] = self._session().run(self._wanted, {"images": images.numpy()})
        cls, *patches = (torch.from_numpy(array).float() for array in arrays)
        return pooled(cls, patches[0], self._feature) if patches else cls

    def _session(self) -> Any:
        """The session with as many threads as the caller computes with.

        Sessions bring their threads along, so batches that run side by side on one thread each
        need another session than a batch that has all threads to itself. On a GPU one does.
        """
        if self._first_session.get_providers() != [CPU_PROVIDER]:
            return self._first_session
        threads = torch.get_num_threads()
        with self._opening:
            if threads not in self._sessions:
                self._sessions[threads] = onnx_session(self.file.path, torch.device("cpu"))
            return self._sessions[threads]


def _described(path: Path, session: Any) -> OnnxFile:
    text = session.get_modelmeta().custom_metadata_map.get(ONNX_METADATA_KEY)
    outputs = tuple(output.name for output in session.get_outputs())
    inputs = [given.name for given in session.get_inputs()]
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
    )


def _check_numbers(info: CheckpointInfo) -> None:
    """Refuse sizes and statistics by which no image can be prepared."""
    sides = [info.patch_size, info.image_size, info.input_size or info.image_size]
    if not all(type(side) is int and 0 < side <= MAX_SIDE for side in sides):
        raise ValueError(f"sizes must be whole numbers from 1 to {MAX_SIDE}")
    for name, values, least in (("mean", info.mean, -math.inf), ("std", info.std, 0)):
        if len(values) != 3 or not all(least < value < math.inf for value in values):
            raise ValueError(f"{name} must be three finite numbers, those of std above 0")
