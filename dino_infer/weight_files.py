"""Tensors out of any weights file, without running anything that the file says.

Known layouts:

- our ``.safetensors``: tensors under the original names, metadata JSON under the key "dino";
- our snapshots: ``{"teacher": ..., "student": ..., "checkpoint_info": ...}``;
- published DINO, DINOv2 and DINOv3 files: the backbone alone, or a full training state
  ``{"student": ..., "teacher": ..., "args": Namespace, ...}`` with ``module.`` prefixes;
- Hugging Face repositories (``hf:ORG/NAME``) and folders: ``config.json`` beside the weights;
- any other plain state dict, also under ``state_dict`` or ``model``.

What is not ours is renamed on the way, see ``weight_layouts``.
"""

import argparse
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from dino_infer import hub, run_folders
from dino_infer.errors import CheckpointError
from dino_infer.weight_layouts import in_timm_names

METADATA_KEY = "dino"
CHECKPOINT_KEYS = ("teacher", "student")

# What published full checkpoints hold besides tensors. A pickle can create these and call nothing
# else. Paths come from SLURM launches; they are read as pure paths, on any system.
SAFE_TYPES: list[Any] = [
    argparse.Namespace,
    (PurePosixPath, "pathlib.PosixPath"),
    (PurePosixPath, "pathlib._local.PosixPath"),
]
WRAPPERS = ("module.", "_orig_mod.")
BACKBONE_PREFIXES = (*WRAPPERS, "backbone.", "network.")
HEAD_PREFIXES = ("head.", "dino_head.")
OTHER_HEADS = "ibot_head."  # DINOv2's second loss has its own
CLASSIFIER = {"head.weight", "head.bias", "fc.weight", "fc.bias"}
HEAD_NAMES = {
    "last_layer.parametrizations.weight.original0": "last_layer.weight_g",
    "last_layer.parametrizations.weight.original1": "last_layer.weight_v",
}
NO_WEIGHTS = {  # how files begin that people mistake for weights
    b"version https://": "is a Git LFS pointer, the real file was not fetched: run `git lfs pull`",
    b"<!doctype html": "is a web page, what a failed download leaves: download the weights again",
    b"<html": "is a web page, what a failed download leaves: download the weights again",
}


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """What a weights file holds.

    Attributes:
        path: Where it was read; the file inside when a run folder was given.
        backbone: Tensors under timm's names, which are the original ones; prefixes removed.
        head: Tensors of the projection head (``mlp.*``, ``last_layer.*``), or empty.
        center: Centre of the teacher's logits, where a training state holds it, or None.
        metadata: What our own files say about themselves, or None.
        hub_model: What the config beside a Hugging Face file says, or None.
        left_out: Names of tensors that no feature depends on, such as a classifier's.
    """

    path: Path
    backbone: dict[str, Tensor]
    head: dict[str, Tensor]
    center: Tensor | None
    metadata: dict[str, Any] | None
    hub_model: hub.HubModel | None
    left_out: tuple[str, ...]


def read_weight_file(weights: str | Path, *, checkpoint_key: str = "teacher") -> WeightFile:
    """Read a weights file, a run folder or a Hugging Face model.

    Args:
        weights: A file, a run folder of ours, a Hugging Face folder, or ``hf:ORG/NAME``.
        checkpoint_key: Which network of a file that holds both: "teacher" or "student".

    Raises:
        CheckpointError: The file is missing, damaged, of no known layout, without that network,
            or would need pickled code to run.
        ValueError: ``checkpoint_key`` is neither of the two.
    """
    if checkpoint_key not in CHECKPOINT_KEYS:
        raise ValueError(f"checkpoint_key must be one of {CHECKPOINT_KEYS}, got {checkpoint_key!r}")
    if str(weights).startswith(hub.PREFIX):
        weights = hub.downloaded(str(weights).removeprefix(hub.PREFIX))
    path = _file_of(Path(weights), checkpoint_key)
    content, metadata = _read(path)
    backbone, head, left_out = _split(_network(content, checkpoint_key, path))
    hub_model = None
    if metadata is None:
        hub_model = hub.described_model(path)
        try:
            backbone, unused = in_timm_names(backbone)
        except CheckpointError as error:
            raise CheckpointError(f"{str(path)!r}: {error}") from error
        left_out += unused
    return WeightFile(
        path=path,
        backbone=backbone,
        head=head,
        center=_center(content),
        metadata=metadata,
        hub_model=hub_model,
        left_out=tuple(left_out),
    )


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Hex digest of tensors with their names: the same in whatever file they were stored."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read(path: Path) -> tuple[Mapping[str, Any], dict[str, Any] | None]:
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
    if start.startswith((b"PK\x03\x04", b"\x80\x02")):
        content = _read_torch(path)
        return content, content.get("checkpoint_info")
    raise CheckpointError(f"{str(path)!r} {_mistaken(start)}")


def _mistaken(start: bytes) -> str:
    """What a file that starts like this is instead of weights."""
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
        found = run_folders.newest_weights(path) or hub.weights_in(path)
    else:
        found = next(reversed(run_folders.snapshots_of(path).values()), None)
    if found:
        return found
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
            metadata = None if text is None else json.loads(text)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(_damaged(path, error)) from error
    expected = (metadata or {}).get("weights_sha256")
    if expected not in (None, tensors_sha256(tensors)):
        raise CheckpointError(
            f"{str(path)!r} is damaged: its weights are not those that were saved; copy it again"
        )
    return tensors, metadata


def _read_torch(path: Path) -> Mapping[str, Any]:
    try:
        with torch.serialization.safe_globals(SAFE_TYPES):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes can make the reader raise nearly anything
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused:
            raise CheckpointError(
                f"{str(path)!r} is refused: it holds {refused[1]!r}, and loading that could run "
                "code from the file; ask its author for a plain state dict or safetensors"
            ) from error
        raise CheckpointError(_damaged(path, error)) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{str(path)!r} must hold a dict of tensors, got {type(content).__name__}"
        )
    return content


def _damaged(path: Path, error: Exception) -> str:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"{str(path)!r} is damaged or cut short ({reason}); copy or download it again"


def _network(content: Mapping[str, Any], checkpoint_key: str, path: Path) -> dict[str, Tensor]:
    """The state dict of one network, wherever the file keeps it."""
    keys = [checkpoint_key]
    if checkpoint_key == "teacher":
        keys += ["state_dict", "model"]  # how files with a single network call it
    state = next((content[key] for key in keys if isinstance(content.get(key), Mapping)), None)
    if state is None and checkpoint_key == "teacher":
        state = content
    tensors = {k: v for k, v in (state or {}).items() if isinstance(v, Tensor)}
    if state is None or not tensors or len(tensors) < len(state):
        found = ", ".join(repr(key) for key in list(content)[:5]) or "nothing"
        other = CHECKPOINT_KEYS[1 - CHECKPOINT_KEYS.index(checkpoint_key)]
        there = other == "teacher" or isinstance(content.get(other), Mapping)
        raise CheckpointError(
            f"{str(path)!r} holds no {checkpoint_key} weights; it holds {found}"
            + (" ..." if len(content) > 5 else "")
            + (f"; give checkpoint_key {other!r}" if there else "")
        )
    return tensors


def _center(content: Mapping[Any, Any]) -> Tensor | None:
    """The centre where our snapshots keep it, or where the original's training states do."""
    for owner in ("center", "dino_loss"):
        state = content.get(owner)
        center = state.get("center") if isinstance(state, Mapping) else None
        if isinstance(center, Tensor) and center.is_floating_point():
            return center.flatten()
    return None


def _split(
    state: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, Tensor], list[str]]:
    """Backbone and head under their original names, and the names of what is neither."""
    state = {_stripped(name, WRAPPERS): tensor for name, tensor in state.items()}
    if not any(name.startswith("backbone.") for name in state):
        dropped = sorted(CLASSIFIER & state.keys())
        plain = {_stripped(k, BACKBONE_PREFIXES): v for k, v in state.items() if k not in dropped}
        return plain, {}, dropped
    head, backbone, others = {}, {}, []
    for name, tensor in state.items():
        if name.startswith(HEAD_PREFIXES):
            plain_name = _stripped(name, (*WRAPPERS, *HEAD_PREFIXES))
            head[HEAD_NAMES.get(plain_name, plain_name)] = tensor
        elif name.startswith(OTHER_HEADS):
            others.append(name)
        else:
            backbone[_stripped(name, BACKBONE_PREFIXES)] = tensor
    return backbone, head, others


def _stripped(name: str, prefixes: tuple[str, ...]) -> str:
    """The name without any of the prefixes, however often they are repeated."""
    while found := next((prefix for prefix in prefixes if name.startswith(prefix)), None):
        name = name.removeprefix(found)
    return name
