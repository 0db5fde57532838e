"""The one path from a backbone to an exported file that has been proven equal."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dino_export.exported_program import captured_program, save_compiled, save_program
from dino_export.graph import ExportedNetwork
from dino_export.parity import Parity, compared_sizes, parity, reference
from dino_export.runtimes import opened
from dino_export.settings import ExportSettings
from dino_export.torchscript import save_torchscript
from dino_infer.backbones import Backbone
from dino_infer.checkpoint_info import CheckpointInfo
from dino_infer.checkpoints import weights_sha256
from dino_infer.files import whole_file
from dino_infer.preprocess import Preprocess

logger = logging.getLogger(__name__)


def export_backbone(
    path: str | Path,
    backbone: Backbone,
    info: CheckpointInfo,
    settings: ExportSettings,
    *,
    photos: Sequence[np.ndarray],
    head: Mapping[str, Tensor] | None = None,
    device: str | torch.device = "cpu",
) -> Parity:
    """Write an exported file, unless it computes something else than the backbone.

    Args:
        path: File to create or replace; its folder must exist.
        backbone: In evaluation mode.
        info: Goes into the file.
        settings: What the file is to be.
        photos: RGB arrays to compare on, see ``sample_photos``.
        head: Tensors of the projection head, for the output "logits".
        device: Where the file is compared, and what a compiled package is for.

    Returns:
        What the comparison found.

    Raises:
        ExportError: The file would not be equal; there is none then, or still the older one.
        ValueError: The backbone has no such output or precision, or the size holds no patch.
    """
    path, device = Path(path), torch.device(device)
    backbone.grid_of(*settings.size)
    if settings.precision == "int8" and not backbone.has_attention:
        raise ValueError(
            f"precision 'int8' is for the products of a Vision Transformer, and {backbone.arch!r} "
            "is made of convolutions; use fp16"
        )
    backbone = backbone.to(device)
    metadata = settings.as_metadata(info, weights_sha256(backbone))
    network = _network(backbone, info, settings, head).to(device).eval()
    with whole_file(path) as temporary:
        if settings.format == "torchscript":
            save_torchscript(temporary, network, settings, metadata, device=device)
        else:
            _save_captured(temporary, network, settings, metadata, device=device)
        logger.info("comparing %s with PyTorch", path.name)
        found = parity(
            reference(backbone, settings.outputs, head),
            opened(temporary, device=device).run,
            settings,
            sizes=compared_sizes(settings, backbone),
            preprocess=Preprocess(mean=info.mean, std=info.std),
            photos=photos,
            device=device,
        )
        found.check(settings.precision, path)
    return found


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
    *,
    device: torch.device,
) -> None:
    program = captured_program(network, settings, device=device)
    if settings.format == "onnx":
        from dino_export.onnx import save_onnx

        save_onnx(path, program, settings, metadata)
    elif settings.format == "pt2":
        save_program(path, program, metadata)
    else:
        save_compiled(path, program, metadata)
