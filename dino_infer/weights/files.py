"""Tensors out of any weights file, without running anything that the file says.

Known layouts:

- our ``.safetensors``: tensors under the original names, metadata JSON under the key "dino";
- our snapshots: ``{"teacher": ..., "student": ..., "checkpoint_info": ...}``;
- published DINO, DINOv2 and DINOv3 files: the backbone alone, or a full training state
  ``{"student": ..., "teacher": ..., "args": Namespace, ...}`` with ``module.`` prefixes;
- Hugging Face repositories (``hf:ORG/NAME``) and folders: ``config.json`` beside the weights;
- training states of other projects, see ``networks``, and plain state dicts.

What is not ours is renamed on the way, see ``layouts``.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dino_infer.errors import CheckpointError
from dino_infer.weights import hub, run_folders
from dino_infer.weights.architectures import check_channels
from dino_infer.weights.info import parsed_metadata
from dino_infer.weights.layouts import in_timm_names
from dino_infer.weights.networks import chosen_network
from dino_infer.weights.pickles import check_tensors, damaged, read_torch

METADATA_KEY = "dino"

HEAD_PREFIXES = ("head.", "dino_head.")
# Classifiers and decoders, which come after the features, and the count of an AveragedModel.
AFTER_FEATURES = re.compile(
    r"^(fc\.|head\.(weight$|bias$|fc\.|\d)|head_dist\.|classifier\.|decoder_|n_averaged$)"
)
HEAD_NAMES = {
    "last_layer.parametrizations.weight.original0": "last_layer.weight_g",
    "last_layer.parametrizations.weight.original1": "last_layer.weight_v",
}
PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # older files, by protocol
NO_WEIGHTS = {  # how files begin that people mistake for weights
    b"version https://": "is a Git LFS pointer, the real file was not fetched: run `git lfs pull`",
    b"<!doctype html": "is a web page, what a failed download leaves: download the weights again",
    b"<html": "is a web page, what a failed download leaves: download the weights again",
}


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """Content of a weights file.

    Attributes:
        path: File that was read; the one inside when a run folder was given.
        backbone: Tensors under timm's names, which are the original ones; prefixes removed.
        head: Tensors of the projection head (``mlp.*``, ``last_layer.*``), or empty.
        center: Centre of the teacher's logits, where a training state holds it, or None.
        metadata: Description inside our own files, or None.
        hub_model: Description in the config beside a Hugging Face file, or None.
        arch: Architecture in the arguments of the training run, or None.
        left_out: Names of tensors that no feature depends on, such as a classifier's.
    """

    path: Path
    backbone: dict[str, Tensor]
    head: dict[str, Tensor]
    center: Tensor | None
    metadata: dict[str, Any] | None
    hub_model: hub.HubModel | None
    arch: str | None
    left_out: tuple[str, ...]


def read_weight_file(weights: str | Path, *, checkpoint_key: str = "teacher") -> WeightFile:
    """Read a weights file, a run folder or a Hugging Face model.

    Args:
        weights: A file, a run folder of ours, a Hugging Face folder, or ``hf:ORG/NAME``.
        checkpoint_key: Network of a file that holds several, see ``chosen_network``.

    Raises:
        CheckpointError: The file is missing, damaged, of no known layout, without that network,
            or would need pickled code to run.
    """
    if str(weights).startswith(hub.PREFIX):
        weights = hub.download(str(weights).removeprefix(hub.PREFIX))
    path = _file_of(Path(weights), checkpoint_key)
    content, metadata = _read(path)
    hub_model = None
    try:
        network = chosen_network(content, checkpoint_key)
    except CheckpointError as error:
        raise CheckpointError(f"{str(path)!r} {error}") from error
    check_tensors(path, network.backbone | network.beside)
    left_out = [name for name in network.backbone if AFTER_FEATURES.match(name)]
    backbone = {name: t for name, t in network.backbone.items() if name not in left_out}
    if metadata is None:
        hub_model = hub.described_model(path)
        try:
            backbone, unused = in_timm_names(backbone)
            check_channels(backbone)
        except CheckpointError as error:
            raise CheckpointError(f"{str(path)!r}: {error}") from error
        left_out += unused
    head, others = _split(network.beside)
    return WeightFile(
        path=path,
        backbone=backbone,
        head=head,
        center=_center(content),
        metadata=metadata,
        hub_model=hub_model,
        arch=_arch_of_training(content),
        left_out=(*left_out, *others),
    )


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Hex digest of tensors with their names: the same in whatever file they were stored."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read(path: Path) -> tuple[Mapping[Any, Any], dict[str, Any] | None]:
    """All that a file holds, and what it says about itself if it is ours."""
    if path.suffix == ".onnx":
        raise CheckpointError(
            f"{str(path)!r} is an .onnx file, which can only embed: pass it to dino-embed "
            "--engine onnx, or to Embedder.load; here a .safetensors or .pth file is needed"
        )
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise CheckpointError(f"cannot read weights {str(path)!r}: {error.strerror}") from error
    if start[8:9] == b"{":
        return _read_safetensors(path)
    if start.startswith((b"PK\x03\x04", *PICKLES)):
        content = read_torch(path)
        metadata = content.get("checkpoint_info")
        if metadata is not None and not isinstance(metadata, dict):
            raise CheckpointError(
                f"{str(path)!r}: its metadata must be a dict, got {type(metadata).__name__}; "
                "copy it again"
            )
        return content, metadata
    raise CheckpointError(f"{str(path)!r} {_mistaken(start)}")


def _mistaken(start: bytes) -> str:
    """Tell what a file that starts like this is instead of weights."""
    if not start:
        return "is empty: copy or download it again"
    for beginning, what in NO_WEIGHTS.items():
        if start.lower().startswith(beginning):
            return what
    return (
        f"is no weights file: expected safetensors or a PyTorch .pth, but it starts with {start!r}"
    )


def _file_of(path: Path, checkpoint_key: str) -> Path:
    """The file to read: in a run folder the checkpoint, or the newest snapshot for a student."""
    if not path.is_dir():
        if not path.exists():
            raise CheckpointError(
                f"no weights at {str(path)!r}; give a run folder, a .safetensors or .pth file, "
                "a Hugging Face folder, timm:NAME or hf:ORG/NAME"
            )
        return path
    if checkpoint_key == "teacher":
        found = run_folders.newest_weights(path)
    else:
        found = next(reversed(run_folders.snapshots_of(path).values()), None)
    if found := found or hub.weights_in(path):
        return found
    if (path / ".metadata").is_file():
        raise CheckpointError(
            f"folder {str(path)!r} holds a distributed checkpoint; join it with python -m "
            "torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE and give FILE"
        )
    wanted = (
        f"{run_folders.CHECKPOINT} (of a training run) "
        f"and no {' or '.join(hub.WEIGHTS)} (Hugging Face)"
        if checkpoint_key == "teacher"
        else "snapshots/step-*.pt, where runs keep their student"
    )
    raise CheckpointError(f"folder {str(path)!r} holds no {wanted}")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
            metadata = None if text is None else parsed_metadata(text)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(damaged(path, error)) from error
    expected = (metadata or {}).get("weights_sha256")
    if expected not in (None, tensors_sha256(tensors)):
        raise CheckpointError(
            f"{str(path)!r} is damaged: its weights are not those that were saved; copy it again"
        )
    return tensors, metadata


def _center(content: Mapping[Any, Any]) -> Tensor | None:
    """The centre where our snapshots keep it, or where the original's training states do."""
    for owner in ("center", "dino_loss"):
        state = content.get(owner)
        center = state.get("center") if isinstance(state, Mapping) else None
        if isinstance(center, Tensor) and center.is_floating_point():
            return center.flatten()
    return None


def _split(beside: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The projection head under its original names, and the names of all else."""
    head, others = {}, []
    for name, tensor in beside.items():
        prefix = next((prefix for prefix in HEAD_PREFIXES if name.startswith(prefix)), None)
        if prefix is None:
            others.append(name)
        else:
            plain = name.removeprefix(prefix)
            head[HEAD_NAMES.get(plain, plain)] = tensor
    return head, others


def _arch_of_training(content: Mapping[Any, Any]) -> str | None:
    """Name of the network in the arguments of the original's and of timm's training."""
    arguments = content.get("args")
    told = arguments if isinstance(arguments, Mapping) else getattr(arguments, "__dict__", {})
    named = [told.get("arch"), told.get("model"), content.get("arch")]
    return next((name for name in named if isinstance(name, str)), None)
