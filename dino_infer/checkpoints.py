"""Backbones from weights, and weights to a checkpoint file.

One loader for our run folders, checkpoints and snapshots, published DINO files and timm's; one
writer (safetensors with a JSON description). Loading is strict: every tensor must fit.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dino_infer.backbones import ARCHS, Backbone, build_backbone, imported_timm
from dino_infer.errors import CheckpointError
from dino_infer.files import whole_file
from dino_infer.preprocess import IMAGENET_MEAN, IMAGENET_STD
from dino_infer.weight_files import METADATA_KEY, WeightFile, read_weight_file

FORMAT_VERSION = 1
NAMES_SHOWN = 3  # tensor names in a mismatch message


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """What a checkpoint says about its weights; the metadata of the file."""

    arch: str
    """A name that ``build_backbone`` knows."""
    patch_size: int
    """Side of a patch in pixels; the total stride of a convnet."""
    image_size: int = 224
    """Side in pixels that the position embeddings were learned for."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Subtracted from RGB in [0, 1]."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Divides RGB after the mean is subtracted."""
    small_stem: bool = False
    """A ResNet that starts with a 3x3 convolution of stride 1."""
    recipe: str | None = None
    """Name of the training recipe, where known."""
    step: int | None = None
    """Optimizer updates done, where known."""
    epoch: int | float | None = None
    """Epochs done, where known."""
    data_fingerprint: str | None = None
    """Identifies the list of training images, where known."""
    code_version: str | None = None
    """Version of this package that wrote the file."""
    format_version: int = FORMAT_VERSION
    """Of the file layout."""
    position_embedding: str = "dino"
    """How position embeddings are resampled to other sizes."""

    def as_metadata(self) -> dict[str, Any]:
        """Plain values that survive JSON and ``weights_only`` loading."""
        return dataclasses.asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> "CheckpointInfo":
        """The opposite of ``as_metadata``; fields of later versions are ignored.

        Raises:
            CheckpointError: A field that is needed is missing, or the format is newer than this.
        """
        version = metadata.get("format_version", FORMAT_VERSION)
        if version > FORMAT_VERSION:
            raise CheckpointError(
                f"the checkpoint has format version {version!r}, this package reads up to "
                f"{FORMAT_VERSION}; upgrade it"
            )
        names = {field.name for field in dataclasses.fields(cls)}
        known = {name: value for name, value in metadata.items() if name in names}
        for name in {"mean", "std"} & known.keys():
            known[name] = tuple(known[name])
        if missing := {"arch", "patch_size"} - known.keys():
            raise CheckpointError(f"the checkpoint's metadata lacks {', '.join(sorted(missing))}")
        return cls(**known)


def save_checkpoint(path: str | Path, backbone: Backbone, info: CheckpointInfo) -> None:
    """Write a backbone as safetensors; the same weights and info give the same bytes.

    Args:
        path: File to create or replace; its folder must exist.
        backbone: Its ``network``'s state dict is what is written.
        info: Goes into the file's metadata.

    Raises:
        CheckpointError: It cannot be written; an older file at ``path`` stays.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {name: t.detach().cpu().contiguous() for name, t in _state(backbone).items()}
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
        weights: A run folder, ``.safetensors`` or snapshot of ours; a published DINO ``.pth``,
            backbone alone or full training state; or ``timm:NAME``, which may download.
        checkpoint_key: Which network of a file that holds both: "teacher" or "student".
        arch: What the weights are for, where the file does not tell; see ``build_backbone``.
        patch_size: Side of a patch in pixels, if it should not be read from the weights.

    Raises:
        CheckpointError: The weights are missing, damaged, or do not fit the architecture.
        ValueError: ``arch`` or ``checkpoint_key`` is unknown.
    """
    if str(weights).startswith("timm:"):
        return _load_timm(str(weights).removeprefix("timm:"))
    file = read_weight_file(weights, checkpoint_key=checkpoint_key)
    info = _described(file, arch=arch, patch_size=patch_size)
    backbone = build_backbone(
        info.arch,
        patch_size=info.patch_size,
        image_size=info.image_size,
        small_stem=info.small_stem,
    )
    load_weights(backbone, file.backbone, source=str(file.path))
    expected = (file.metadata or {}).get("weights_sha256")
    if expected not in (None, weights_sha256(backbone)):
        raise CheckpointError(
            f"{str(file.path)!r} is damaged: its weights are not those that were saved; "
            "copy it again"
        )
    return backbone.eval(), dataclasses.replace(info, patch_size=backbone.patch_size)


def read_training_weights(
    weights: str | Path, checkpoint_key: str = "teacher"
) -> dict[str, dict[str, Tensor]]:
    """State dicts to start a training run from.

    Args:
        weights: As for ``load_backbone``.
        checkpoint_key: "teacher" or "student".

    Returns:
        ``backbone`` under the original names, and where the file has one ``head`` (``mlp.*``,
        ``last_layer.weight_g``, ``last_layer.weight_v``).

    Raises:
        CheckpointError: The weights are missing or damaged.
    """
    if str(weights).startswith("timm:"):
        return {"backbone": _state(_load_timm(str(weights).removeprefix("timm:"))[0])}
    file = read_weight_file(weights, checkpoint_key=checkpoint_key)
    return {"backbone": file.backbone} | ({"head": file.head} if file.head else {})


def load_weights(backbone: Backbone, state: Mapping[str, Tensor], *, source: str) -> None:
    """Copy weights into a backbone; all of them must fit.

    Args:
        backbone: Changed in place.
        state: Tensors under the original names.
        source: Where they come from, for the message.

    Raises:
        CheckpointError: Tensors are missing, unexpected or of another shape; the message counts
            them, names the first, and says what the weights are for.
    """
    wanted = _state(backbone)
    missing = [name for name in wanted if name not in state]
    unexpected = [name for name in state if name not in wanted]
    both = [name for name in wanted if name in state]
    wrong = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in both
        if state[name].shape != wanted[name].shape
    ]
    if missing or unexpected or wrong:
        raise CheckpointError(
            f"{source!r} does not fit {backbone.arch!r} with patch size {backbone.patch_size}: "
            f"{len(both) - len(wrong)} tensors matched, {_counted('missing', missing)}, "
            f"{_counted('unexpected', unexpected)}, {_counted('of another shape', wrong)}; "
            + _remedy(state)
        )
    backbone.network.load_state_dict(dict(state))


def weights_sha256(backbone: Backbone) -> str:
    """Hex digest of all tensors with their names: the same in whatever file they were stored."""
    digest = hashlib.sha256()
    for name, tensor in sorted(_state(backbone).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _state(backbone: Backbone) -> dict[str, Tensor]:
    network: nn.Module = backbone.network
    return dict(network.state_dict())


def _counted(what: str, names: list[str]) -> str:
    shown = ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")
    return f"{len(names)} {what}" + (f" ({shown})" if names else "")


def _remedy(state: Mapping[str, Tensor]) -> str:
    likely = inferred_info(state)
    if likely is None:
        return "pass the --arch that the weights were made for"
    vit = likely.arch in ARCHS
    size = f" at {likely.image_size} px" if vit else ""
    flags = f"--arch {likely.arch}" + (f" --patch-size {likely.patch_size}" if vit else "")
    return f"the weights look like {likely.arch}/{likely.patch_size}{size}: pass {flags}"


def _described(file: WeightFile, *, arch: str | None, patch_size: int | None) -> CheckpointInfo:
    """What the file says about itself, or what its shapes tell; the caller's word goes first."""
    if file.metadata is not None:
        info = CheckpointInfo.from_metadata(file.metadata)
    elif likely := inferred_info(file.backbone):
        info = likely
    elif arch is not None:
        info = CheckpointInfo(arch=arch, patch_size=16)
    else:
        raise CheckpointError(
            f"cannot tell the architecture of {str(file.path)!r} from its tensors; "
            f"pass --arch: one of {', '.join(ARCHS)} or a timm model name"
        )
    return dataclasses.replace(
        info, arch=arch or info.arch, patch_size=patch_size or info.patch_size
    )


def inferred_info(state: Mapping[str, Tensor]) -> CheckpointInfo | None:
    """The architecture that tensors of these shapes belong to, or None if it is none we know."""
    if [_blocks(state, f"layer{i}") for i in range(1, 5)] == [3, 4, 6, 3]:
        if "layer1.0.conv3.weight" not in state or "conv1.weight" not in state:
            return None
        small_stem = state["conv1.weight"].shape[-1] == 3
        return CheckpointInfo(arch="resnet50", patch_size=32, small_stem=small_stem)
    if not {"patch_embed.proj.weight", "pos_embed", "cls_token"} <= state.keys():
        return None
    embed_dim, _, patch_size, _ = state["patch_embed.proj.weight"].shape
    side = math.isqrt(state["pos_embed"].shape[1] - 1)
    for arch, shape in ARCHS.items():
        if (shape.embed_dim, shape.depth) == (embed_dim, _blocks(state, "blocks")):
            return CheckpointInfo(arch=arch, patch_size=patch_size, image_size=side * patch_size)
    return None


def _blocks(state: Mapping[str, Tensor], stage: str) -> int:
    """How many ``stage.N.*`` there are."""
    return len({name.split(".")[1] for name in state if name.startswith(f"{stage}.")})


def _load_timm(name: str) -> tuple[Backbone, CheckpointInfo]:
    """Pretrained weights from timm's hub, through its cache."""
    timm = imported_timm()
    try:
        network = timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # a download can fail in as many ways as there are networks
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"cannot get 'timm:{name}' ({reason}); offline, pass --weights with a run folder, a "
            ".safetensors or a .pth file"
        ) from error
    return backbone_of_timm(network, name)


def backbone_of_timm(network: nn.Module, name: str) -> tuple[Backbone, CheckpointInfo]:
    """A timm network as our backbone; DINO ViTs as the arch that reads the original's files."""
    config: Any = network.pretrained_cfg
    state = network.state_dict()
    info = inferred_info(state) if name.endswith(".dino") else None
    if info is None:
        arch, image_size = name.split(".")[0], int(config["input_size"][-1])
        info = CheckpointInfo(arch=arch, patch_size=16, image_size=image_size)
    backbone = build_backbone(info.arch, patch_size=info.patch_size, image_size=info.image_size)
    load_weights(backbone, state, source=f"timm:{name}")
    mean, std = tuple(config["mean"]), tuple(config["std"])
    info = dataclasses.replace(info, patch_size=backbone.patch_size, mean=mean, std=std)
    return backbone.eval(), info
