"""Backbones from weights, and weights to a checkpoint file.

One loader for our run folders, checkpoints and snapshots, the files of DINO, DINOv2 and DINOv3,
Hugging Face's and timm's; one writer (safetensors with a JSON description). Loading is strict:
every tensor must fit.
"""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from dino_infer.errors import CheckpointError, first_line
from dino_infer.files import whole_file
from dino_infer.networks.backbone import Backbone
from dino_infer.networks.build import ARCHS, build_backbone, imported_timm
from dino_infer.networks.positions import PositionEmbedding
from dino_infer.networks.vit import ViTBackbone
from dino_infer.weights.architectures import inferred_info, named_info
from dino_infer.weights.files import METADATA_KEY, WeightFile, read_weight_file, tensors_sha256
from dino_infer.weights.fitting import check_fit, counted, load_weights, tensors_of
from dino_infer.weights.info import CheckpointInfo

logger = logging.getLogger(__name__)


def save_checkpoint(path: str | Path, backbone: Backbone, info: CheckpointInfo) -> None:
    """Write a backbone as safetensors; the same weights and info give the same bytes.

    Args:
        path: File to create or replace; its folder must exist.
        backbone: Backbone whose ``network``'s state dict is written.
        info: Description for the file's metadata.

    Raises:
        CheckpointError: It cannot be written; an older file at ``path`` stays.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors_of(backbone).items()}
    # safetensors orders tensors by itself, but several metadata keys it would write in any order.
    described = info.as_metadata() | {"weights_sha256": weights_sha256(backbone)}
    metadata = {METADATA_KEY: json.dumps(described, sort_keys=True)}
    try:
        with whole_file(path) as temporary:
            save_file(tensors, temporary, metadata=metadata)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write checkpoint {str(path)!r}: {error}") from error


def load_backbone(
    weights: str | Path,
    *,
    checkpoint_key: str = "teacher",
    arch: str | None = None,
    patch_size: int | None = None,
) -> tuple[Backbone, CheckpointInfo]:
    """A backbone with weights, in evaluation mode on the CPU, and what is known about it.

    Args:
        weights: A run folder, ``.safetensors`` or snapshot of ours; a published DINO, DINOv2 or
            DINOv3 ``.pth``, backbone alone or full training state; a Hugging Face folder; or
            ``timm:NAME`` or ``hf:ORG/NAME[@REVISION]``, which may download.
        checkpoint_key: Network of a file that holds several: "teacher" (or whatever average
            is there, or the only network), "student", or where it is in the file, such as
            "state_dict_ema" or "momentum_backbone".
        arch: Architecture of the weights, where the file does not tell; see ``build_backbone``.
        patch_size: Side of a patch in pixels, if it should not be read from the weights.

    Raises:
        CheckpointError: The weights are missing, damaged, or do not fit the architecture.
        ValueError: ``arch`` is unknown.
    """
    if str(weights).startswith("timm:"):
        return _load_timm(str(weights).removeprefix("timm:"))
    file = read_weight_file(weights, checkpoint_key=checkpoint_key)
    info = _described(file, arch=arch, patch_size=patch_size)
    source = str(file.path)
    try:
        with torch.device("meta"):  # what does not fit is refused before it takes any memory
            check_fit(untrained_backbone(info), file.backbone, source=source)
    except (RuntimeError, ValueError) as error:
        if arch is not None or patch_size is not None:
            raise
        raise CheckpointError(
            f"{source!r} describes no network that can be built: {error}; pass `arch` and "
            "`patch_size`"
        ) from error
    backbone = untrained_backbone(info)
    load_weights(backbone, file.backbone, source=source, left_out=file.left_out)
    return backbone.eval(), dataclasses.replace(info, patch_size=backbone.patch_size)


def read_training_weights(
    weights: str | Path, checkpoint_key: str = "teacher"
) -> dict[str, dict[str, Tensor]]:
    """State dicts to start a training run from.

    Args:
        weights: Weights as for ``load_backbone``.
        checkpoint_key: Network as for ``load_backbone``.

    Returns:
        ``backbone`` under timm's names, and where the file has them ``head`` (``mlp.*``,
        ``last_layer.weight_g``, ``last_layer.weight_v``) and ``center`` (``center``).

    Raises:
        CheckpointError: The weights are missing or damaged.
    """
    if str(weights).startswith("timm:"):
        return {"backbone": tensors_of(_load_timm(str(weights).removeprefix("timm:"))[0])}
    file = read_weight_file(weights, checkpoint_key=checkpoint_key)
    if file.left_out:
        logger.info("%s: %s", file.path, counted("left out", file.left_out))
    parts = {"backbone": file.backbone}
    if file.head:
        parts["head"] = file.head
    if file.center is not None:
        parts["center"] = {"center": file.center}
    return parts


def weights_sha256(backbone: Backbone) -> str:
    """Hex digest of all tensors with their names: the same in whatever file they were stored."""
    return tensors_sha256(tensors_of(backbone))


def _described(file: WeightFile, *, arch: str | None, patch_size: int | None) -> CheckpointInfo:
    """Description in the file, or the one that its shapes tell; the caller's word goes first."""
    hub_model = file.hub_model
    if file.metadata is not None:
        try:
            info = CheckpointInfo.from_metadata(file.metadata)
        except CheckpointError as error:
            raise CheckpointError(f"{str(file.path)!r}: {error}") from error
    elif likely := inferred_info(
        file.backbone, num_heads=hub_model.num_heads if hub_model else None
    ):
        info = likely
    elif arch is not None:
        info = CheckpointInfo(arch=arch, patch_size=16)
    elif named := named_info(file.arch):
        info = named
    else:
        raise CheckpointError(
            f"cannot tell the architecture of {str(file.path)!r} from its tensors; "
            f"pass `arch` as one of {', '.join(ARCHS)} or a timm model name"
        )
    if hub_model:
        info = dataclasses.replace(
            info,
            mean=hub_model.mean,
            std=hub_model.std,
            input_size=hub_model.input_size or info.input_size,
        )
    if arch not in (None, info.arch):
        info = dataclasses.replace(info, arch=arch, shape=None)
    return dataclasses.replace(
        info, patch_size=info.patch_size if patch_size is None else patch_size
    )


def untrained_backbone(info: CheckpointInfo, *, seed: int | None = None) -> Backbone:
    """A backbone of the described architecture with random weights, in training mode.

    Args:
        info: The architecture.
        seed: Seed of the weights, which leaves the global random numbers alone; None draws from
            those.

    Raises:
        ValueError: ``arch`` is unknown, or its sizes do not fit.
    """
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        backbone = build_backbone(
            info.arch,
            patch_size=info.patch_size,
            image_size=info.image_size,
            small_stem=info.small_stem,
            shape=info.shape,
        )
    if isinstance(backbone, ViTBackbone) and info.position_embedding in get_args(PositionEmbedding):
        backbone.position_embedding = info.position_embedding  # type: ignore[assignment]
    return backbone


def _load_timm(name: str) -> tuple[Backbone, CheckpointInfo]:
    """Pretrained weights from timm's hub, through its cache."""
    timm = imported_timm()
    logger.info("getting timm:%s, from the cache or the network", name)
    try:
        network = timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # a download can fail in as many ways as there are networks
        reason = first_line(error)
        raise CheckpointError(
            f"cannot get 'timm:{name}' ({reason}); offline, give a run folder, a "
            ".safetensors or a .pth file"
        ) from error
    return backbone_of_timm(network, name)


def backbone_of_timm(network: nn.Module, name: str) -> tuple[Backbone, CheckpointInfo]:
    """A timm network as our backbone; DINO's as the arch that reads the original's files."""
    config: Any = network.pretrained_cfg
    state = network.state_dict()
    arch, _, tag = name.partition(".")
    info = inferred_info(state)
    if info is None or (tag != "dino" and not ("_dinov" in arch and info.arch == arch)):
        info = CheckpointInfo(arch=arch, patch_size=16, image_size=int(config["input_size"][-1]))
    backbone = untrained_backbone(info)
    load_weights(backbone, state, source=f"timm:{name}")
    mean, std = tuple(config["mean"]), tuple(config["std"])
    info = dataclasses.replace(info, patch_size=backbone.patch_size, mean=mean, std=std)
    return backbone.eval(), info
