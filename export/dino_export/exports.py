"""The one path from a backbone to an exported file that has been proven equal."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dino_export.exported_program import captured_program, save_compiled, save_program
from dino_export.graph import ExportedNetwork
from dino_export.parity import Parity, compared_sizes, parity, reference, sample_photos
from dino_export.runtimes import open_export
from dino_export.settings import ExportSettings
from dino_export.torchscript import save_torchscript
from dino_infer.files import whole_file
from dino_infer.images.preprocess import Preprocess
from dino_infer.networks.backbone import Backbone
from dino_infer.weights.checkpoints import weights_sha256
from dino_infer.weights.info import CheckpointInfo

logger = logging.getLogger(__name__)

CALIBRATION_BATCH = 4  # images at once: all activations of a batch are held


def export(
    path: str | Path,
    backbone: Backbone,
    info: CheckpointInfo,
    settings: ExportSettings,
    *,
    photos: Sequence[np.ndarray] | None = None,
    calibration: Sequence[np.ndarray] = (),
    head: Mapping[str, Tensor] | None = None,
    device: str | torch.device = "cpu",
) -> Parity:
    """Write an exported file, unless it computes something else than the backbone.

    Args:
        path: File to create or replace; its folder must exist.
        backbone: Backbone in evaluation mode.
        info: Description of the weights, which goes into the file.
        settings: Format, outputs, sizes and precision.
        photos: RGB arrays to compare on; by default ``sample_photos()``.
        calibration: RGB arrays like those that the file is for; they fix the ranges of int8,
            which a convnet cannot do without.
        head: Tensors of the projection head, for the output "logits".
        device: Device to compare on, and to compile a package for.

    Returns:
        Deviations that the comparison found.

    Raises:
        ExportError: The file would not be equal; there is none then, or still the older one.
        ValueError: The backbone has no such output or precision, or the size holds no patch.
    """
    path, device = Path(path), torch.device(device)
    backbone.grid_of(*settings.size)
    if calibration and settings.precision != "int8":
        raise ValueError(f"`calibration` is for `precision='int8'`, got {settings.precision!r}")
    if settings.precision == "int8" and not backbone.has_attention and not calibration:
        raise ValueError(
            f"`precision='int8'` of the convnet {backbone.arch!r} is calibrated with images like "
            "yours: give `calibration`, or use `precision='fp16'`"
        )
    backbone = backbone.to(device)
    preprocess = Preprocess(mean=info.mean, std=info.std)
    sizes = compared_sizes(settings, backbone)
    metadata = settings.as_metadata(info, weights_sha256(backbone))
    if settings.precision == "int8":
        metadata["calibration_images"] = len(calibration)
    network = _network(backbone, info, settings, head).to(device).eval()
    with whole_file(path) as temporary:
        if settings.format == "torchscript":
            save_torchscript(temporary, network, settings, metadata, device=device)
        else:
            batches = calibration_batches(calibration, sizes, preprocess, settings)
            _save_captured(temporary, network, settings, metadata, batches, device=device)
        logger.info("comparing %s with PyTorch", path.name)
        found = parity(
            reference(backbone, settings.outputs, head),
            open_export(temporary, device=device).run,
            settings,
            sizes=sizes,
            preprocess=preprocess,
            photos=sample_photos() if photos is None else photos,
            device=device,
        )
        found.check(settings.precision, path)
    return found


def calibration_batches(
    images: Sequence[np.ndarray],
    sizes: Sequence[tuple[int, int]],
    preprocess: Preprocess,
    settings: ExportSettings,
) -> list[np.ndarray]:
    """RGB arrays as the exported file takes them, in batches if it takes more than one.

    Each comes in each size: position embeddings that are resampled have other ranges, and those
    of one size alone would clip the others.
    """
    per_batch = CALIBRATION_BATCH if settings.dynamic_batch else 1
    batches = []
    for size in sizes:
        resized = [replace(preprocess, size=size).pixels(image) for image in images]
        for start in range(0, len(images), per_batch):
            pixels = torch.stack(resized[start : start + per_batch])
            given = preprocess.normalized(pixels)
            if settings.preprocess:
                given = pixels.permute(0, 2, 3, 1).contiguous()
            batches.append(given.numpy())
    return batches


def _network(
    backbone: Backbone,
    info: CheckpointInfo,
    settings: ExportSettings,
    head: Mapping[str, Tensor] | None,
) -> ExportedNetwork:
    return ExportedNetwork(
        backbone,
        outputs=settings.outputs,
        head=head,
        normalization=(info.mean, info.std) if settings.preprocess else None,
        fixed_size=None if settings.dynamic_size else settings.size,
        half=settings.precision == "fp16",
    )


def _save_captured(
    path: Path,
    network: ExportedNetwork,
    settings: ExportSettings,
    metadata: Mapping[str, object],
    calibration: Sequence[np.ndarray],
    *,
    device: torch.device,
) -> None:
    program = captured_program(network, settings, device=device)
    if settings.format == "onnx":
        from dino_export.onnx import save_onnx

        save_onnx(path, program, settings, metadata, calibration=calibration)
    elif settings.format == "pt2":
        save_program(path, program, metadata)
    else:
        save_compiled(path, program, metadata)
