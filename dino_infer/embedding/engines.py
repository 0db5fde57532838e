"""Engines that run a backbone over a batch: PyTorch, or the runtime of an exported file."""

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dino_infer.choices import EngineName, Precision
from dino_infer.devices import AUTOCAST, resolved_precision
from dino_infer.embedding.exported_files import OpenedFile, described
from dino_infer.embedding.onnx_sessions import OnnxRuntimeFile
from dino_infer.embedding.openvino_programs import OpenVinoFile, is_installed
from dino_infer.embedding.pooling import check_feature, feature_of, last_blocks, pooled
from dino_infer.errors import CheckpointError
from dino_infer.images.preprocess import denormalized
from dino_infer.networks.backbone import Backbone, Images
from dino_infer.weights.checkpoints import weights_sha256

logger = logging.getLogger(__name__)


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


class OnnxEngine:
    """An exported network in onnxruntime or OpenVINO.

    Args:
        path: The ``.onnx`` file.
        feature: Feature to take from it.
        device: A CUDA device asks for the CUDA provider; without one the CPU is used, with a
            warning.
        runtime: "onnx" is onnxruntime, "tensorrt" the same through TensorRT, see ``onnx_session``;
            "openvino" is OpenVINO; "auto" is that where it is faster: see ``auto_takes_openvino``.

    Raises:
        CheckpointError: The file is damaged or not an export of this toolkit.
        MissingExtraError: The runtime is not installed.
        ValueError: The file has no output for this feature, or the runtime does not run on the
            device.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        feature: str,
        device: torch.device,
        runtime: EngineName = "onnx",
    ) -> None:
        if runtime == "openvino" and device.type != "cpu":
            raise ValueError(
                f"engine 'openvino' runs on CPUs, got device {str(device)!r}; pass `device='cpu'`"
            )
        self._opened: OpenedFile
        if runtime == "openvino" or (runtime == "auto" and auto_takes_openvino(device)):
            self._opened = OpenVinoFile(Path(path))
        else:
            self._opened = OnnxRuntimeFile(Path(path), device, tensorrt=runtime == "tensorrt")
        self.file = described(Path(path), self._opened)
        if isinstance(self._opened, OpenVinoFile) and self.file.ranges_of_batch:
            if runtime == "auto":
                self._opened = OnnxRuntimeFile(Path(path), device)
            else:
                logger.warning(
                    "%s rounds in the range of each batch, which takes OpenVINO three times as "
                    "long as onnxruntime; export it with images of yours, or use engine 'onnx'",
                    path,
                )
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
        self._wanted = ["cls"] if feature == "cls" else ["cls", "patches"]

    def __repr__(self) -> str:
        program = "OpenVINO" if isinstance(self._opened, OpenVinoFile) else "onnxruntime"
        return f"OnnxEngine({str(self.file.path)!r}, feature={self._feature!r}, {program})"

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
        shape = list(self._opened.shape)
        for given, wanted in zip(images.shape, shape, strict=True):
            if isinstance(wanted, int) and given != wanted:
                raise CheckpointError(
                    f"{str(self.file.path)!r} takes images of shape {shape} alone, got "
                    f"{tuple(images.shape)}; export it with dynamic sizes, or embed at its size"
                )
        arrays = self._opened.run(self._wanted, images.numpy())
        cls, *patches = (torch.from_numpy(array).float() for array in arrays)
        return pooled(cls, patches[0], self._feature) if patches else cls


def auto_takes_openvino(device: torch.device) -> bool:
    """True on a CPU that adds products of 8 bits (VNNI), which OpenVINO was faster on, with it."""
    return device.type == "cpu" and torch.cpu._is_vnni_supported() and is_installed()
