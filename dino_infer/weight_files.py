"""Tensors out of any weights file, without running anything that the file says.

Known layouts:

- our ``.safetensors``: tensors under the original names, metadata JSON under the key "dino";
- our snapshots: ``{"teacher": ..., "student": ..., "checkpoint_info": ...}``;
- published DINO files: the backbone alone, or a full training state
  ``{"student": ..., "teacher": ..., "args": Namespace, ...}`` with ``module.`` prefixes;
- any other plain state dict, also under ``state_dict`` or ``model``.
"""

import argparse
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from dino_infer.errors import CheckpointError

logger = logging.getLogger(__name__)

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
CLASSIFIER = {"head.weight", "head.bias", "fc.weight", "fc.bias"}
HEAD_NAMES = {
    "last_layer.parametrizations.weight.original0": "last_layer.weight_g",
    "last_layer.parametrizations.weight.original1": "last_layer.weight_v",
}


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """What a weights file holds.

    Attributes:
        path: Where it was read; the file inside when a run folder was given.
        backbone: Tensors under the original names, prefixes removed.
        head: Tensors of the projection head (``mlp.*``, ``last_layer.*``), or empty.
        metadata: What our own files say about themselves, or None.
    """

    path: Path
    backbone: dict[str, Tensor]
    head: dict[str, Tensor]
    metadata: dict[str, Any] | None


def read_weight_file(weights: str | Path, *, checkpoint_key: str = "teacher") -> WeightFile:
    """Read a weights file or a run folder.

    Args:
        weights: A file, or a run folder of ours.
        checkpoint_key: Which network of a file that holds both: "teacher" or "student".

    Raises:
        CheckpointError: The file is missing, damaged, of no known layout, without that network,
            or would need pickled code to run.
        ValueError: ``checkpoint_key`` is neither of the two.
    """
    if checkpoint_key not in CHECKPOINT_KEYS:
        raise ValueError(f"checkpoint_key must be one of {CHECKPOINT_KEYS}, got {checkpoint_key!r}")
    path = _file_of(Path(weights), checkpoint_key)
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise CheckpointError(f"cannot read weights {str(path)!r}: {error.strerror}") from error
    if start[8:9] == b"{":
        tensors, metadata = _read_safetensors(path)
        content: Mapping[str, Any] = tensors
    elif start.startswith((b"PK\x03\x04", b"\x80\x02")):
        content = _read_torch(path)
        metadata = content.get("checkpoint_info")
    else:
        raise CheckpointError(
            f"{str(path)!r} is no weights file: expected safetensors or a PyTorch .pth, "
            f"but it starts with {start!r}"
        )
    backbone, head = _split(_network(content, checkpoint_key, path))
    return WeightFile(path=path, backbone=backbone, head=head, metadata=metadata)


def _file_of(path: Path, checkpoint_key: str) -> Path:
    """The file to read: in a run folder the checkpoint, or the newest snapshot for a student."""
    if not path.is_dir():
        if not path.exists():
            raise CheckpointError(
                f"no weights at {str(path)!r}; give a run folder, a .safetensors or .pth file, "
                "or timm:NAME"
            )
        return path
    checkpoint = path / "checkpoint.safetensors"
    if checkpoint_key == "teacher" and checkpoint.is_file():
        return checkpoint
    snapshots = sorted((path / "snapshots").glob("step-*.pt"))
    if snapshots:
        return snapshots[-1]
    wanted = checkpoint.name if checkpoint_key == "teacher" else "snapshots/step-*.pt"
    raise CheckpointError(f"folder {str(path)!r} holds no {wanted}; is it the --out of a run?")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
            metadata = None if text is None else json.loads(text)
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(_damaged(path, error)) from error


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
        raise CheckpointError(
            f"{str(path)!r} holds no {checkpoint_key} weights; it holds {found}"
            + (" ..." if len(content) > 5 else "")
        )
    return tensors


def _split(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Backbone and head under their original names."""
    state = {_stripped(name, WRAPPERS): tensor for name, tensor in state.items()}
    if not any(name.startswith("backbone.") for name in state):
        dropped = sorted(CLASSIFIER & state.keys())
        if dropped:
            logger.info("left out the classifier: %s", ", ".join(dropped))
        plain = {_stripped(k, BACKBONE_PREFIXES): v for k, v in state.items() if k not in dropped}
        return plain, {}
    head = {
        _stripped(name, (*WRAPPERS, "head.")): tensor
        for name, tensor in state.items()
        if name.startswith("head.")
    }
    backbone = {
        _stripped(name, BACKBONE_PREFIXES): tensor
        for name, tensor in state.items()
        if not name.startswith("head.")
    }
    return backbone, {HEAD_NAMES.get(name, name): tensor for name, tensor in head.items()}


def _stripped(name: str, prefixes: tuple[str, ...]) -> str:
    """The name without any of the prefixes, however often they are repeated."""
    while found := next((prefix for prefix in prefixes if name.startswith(prefix)), None):
        name = name.removeprefix(found)
    return name
