"""Weights as the files of transformers, timm and the original, read back before it says success."""

import copy
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor

from dino_export.choices import Target
from dino_export.errors import ExportError
from dino_export.layouts import in_hugging_face_names, in_original_names
from dino_infer.files import whole_file, whole_folder, write_json
from dino_infer.images.preprocess import Preprocess
from dino_infer.networks.backbone import Backbone
from dino_infer.networks.build import NORM_EPS, ROTARY_NORM_EPS, ViTShape
from dino_infer.networks.vit import ViTBackbone
from dino_infer.weights.architectures import PUBLISHED, inferred_info
from dino_infer.weights.checkpoints import load_backbone, save_checkpoint
from dino_infer.weights.files import read_weight_file
from dino_infer.weights.fitting import load_weights
from dino_infer.weights.hub import CONFIG, PREPROCESSING, ROPE_THETA, WEIGHTS
from dino_infer.weights.info import CheckpointInfo
from dino_infer.weights.layouts import State

TARGETS: tuple[Target, ...] = get_args(Target)
FOLDERS: tuple[Target, ...] = ("hf", "timm")
ENDINGS: dict[Target, str] = {"dino-pth": ".pth", "safetensors": ".safetensors"}

MAX_DIFFERENCE = 1e-5  # between features before and after, in units of their root mean square
CHECKED_IMAGES = 2
MAX_MLP_RATIO = 16
BICUBIC = 3  # Pillow's number for it, which transformers uses
TIMM_ARCHS = {"vit_tiny": "tiny", "vit_small": "small", "vit_base": "base", "vit_large": "large"}


def convert_weights(
    path: str | Path, backbone: Backbone, info: CheckpointInfo, *, to: Target
) -> float:
    """Write weights for another project, unless reading them gives other features.

    Args:
        path: A folder for "hf" and "timm", which must not exist; else a file to create or replace.
        backbone: Backbone in evaluation mode.
        info: Description of the weights.
        to: "hf" for transformers, "timm", "dino-pth" for the original's modules, or "safetensors"
            for ours.

    Returns:
        The largest difference between features before and after, in units of their root mean
        square.

    Raises:
        ExportError: The target has no such network, the features would differ, or the folder
            exists.
        ValueError: ``to`` is unknown, or the file's ending is not its own.
    """
    path = Path(path)
    check_target(path, to)
    if to in FOLDERS:
        with whole_folder(path) as temporary:
            return _write_folder(temporary, backbone, info, to)
    with whole_file(path) as temporary:
        if to == "safetensors":
            save_checkpoint(temporary, backbone, info)
        else:
            torch.save(in_original_names(_tensors(backbone), _shape(backbone)), temporary)
        return _difference(backbone, info, temporary, to)


def check_target(path: Path, to: Target) -> None:
    """Refuse a path that ``convert_weights`` cannot write to.

    Raises:
        ExportError: A folder is to be made where something exists.
        ValueError: ``to`` is unknown, or the file's ending is not its own.
    """
    if to not in TARGETS:
        raise ValueError(f"`to` must be one of {', '.join(TARGETS)}, got {to!r}")
    if to in FOLDERS:
        if path.exists():
            raise ExportError(f"{str(path)!r} exists already; name a folder that does not")
    elif path.suffix != ENDINGS[to]:
        raise ValueError(f"the file for {to!r} must end in {ENDINGS[to]!r}, got {str(path)!r}")


def _write_folder(folder: Path, backbone: Backbone, info: CheckpointInfo, to: Target) -> float:
    if to == "hf":
        shape = _shape(backbone)
        if shape is None or not isinstance(backbone, ViTBackbone):
            raise ExportError(
                f"transformers has no class for {backbone.arch!r} with DINO's names; use "
                "`to='timm'` or `to='dino-pth'`"
            )
        _save(folder, in_hugging_face_names(_tensors(backbone), shape))
        write_json(folder / CONFIG, hugging_face_config(shape, info))
        write_json(folder / PREPROCESSING, _preprocessing(info))
    else:
        _save(folder, _tensors(backbone))
        write_json(folder / CONFIG, timm_config(backbone, info))
    return _difference(backbone, info, folder, to)


def _save(folder: Path, state: State) -> None:
    """Tensors as one file; parts of joint tensors are copied apart."""
    tensors = {name: tensor.clone().contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / WEIGHTS[0], metadata={"format": "pt"})


def hugging_face_config(shape: ViTShape, info: CheckpointInfo) -> dict[str, Any]:
    """``config.json`` from which transformers builds the same network.

    The LayerNorm epsilon is that of DINO, 1e-6; the default of its ViT class is another.
    """
    hidden_dim = shape.hidden_dim or 4 * shape.embed_dim
    config = {
        "hidden_size": shape.embed_dim,
        "num_hidden_layers": shape.depth,
        "num_attention_heads": shape.num_heads,
        "image_size": info.image_size,
        "patch_size": info.patch_size,
        "num_channels": 3,
        "layer_norm_eps": ROTARY_NORM_EPS if shape.rotary else NORM_EPS,
        "hidden_act": "silu" if shape.rotary and shape.gated else "gelu",
        "torch_dtype": "float32",
    }
    if shape.rotary:
        return config | {
            "model_type": "dinov3_vit",
            "architectures": ["DINOv3ViTModel"],
            "intermediate_size": hidden_dim,
            "num_register_tokens": shape.registers,
            "rope_theta": ROPE_THETA,
            "query_bias": shape.qkv_bias,
            "key_bias": False,
            "value_bias": shape.qkv_bias,
            "use_gated_mlp": shape.gated,
        }
    config["qkv_bias"] = shape.qkv_bias
    if not shape.layer_scale:
        own = {"model_type": "vit", "architectures": ["ViTModel"]}
        return config | own | {"intermediate_size": hidden_dim}
    registers = {"num_register_tokens": shape.registers} if shape.registers else {}
    kind = "WithRegisters" if shape.registers else ""
    return (
        config
        | registers
        | {
            "model_type": "dinov2_with_registers" if shape.registers else "dinov2",
            "architectures": [f"Dinov2{kind}Model"],
            "mlp_ratio": _mlp_ratio(shape, hidden_dim),
            "use_swiglu_ffn": shape.gated,
        }
    )


def _mlp_ratio(shape: ViTShape, hidden_dim: int) -> int:
    """The whole number from which DINOv2's classes form this width of the MLP."""
    for ratio in range(1, MAX_MLP_RATIO + 1):
        width = ratio * shape.embed_dim
        if shape.gated:  # two thirds, rounded up to a multiple of 8
            width = (width * 2 // 3 + 7) // 8 * 8
        if width == hidden_dim:
            return ratio
    raise ExportError(
        f"transformers has no DINOv2 of width {shape.embed_dim} with {hidden_dim} in its MLP; use "
        "`to='dino-pth'`"
    )


def _preprocessing(info: CheckpointInfo) -> dict[str, Any]:
    """The evaluation transform of DINO in the words of transformers."""
    size = info.view_size
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": round(size * Preprocess.resize_ratio)},
        "resample": BICUBIC,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(info.mean),
        "image_std": list(info.std),
    }


def timm_config(backbone: Backbone, info: CheckpointInfo) -> dict[str, Any]:
    """``config.json`` for ``timm.create_model("local-dir:FOLDER")``."""
    size = info.view_size
    name, arguments = _timm_architecture(backbone, info)
    return {
        "architecture": name,
        "num_classes": 0,
        "num_features": backbone.embed_dim,
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [3, size, size],
            "num_classes": 0,
            "mean": list(info.mean),
            "std": list(info.std),
            "interpolation": "bicubic",
            "crop_pct": 1 / Preprocess.resize_ratio,
        },
    }


def _timm_architecture(backbone: Backbone, info: CheckpointInfo) -> tuple[str, dict[str, Any]]:
    """A name that timm knows, and what differs from what it stands for."""
    shape = _shape(backbone)
    if shape is None:
        if info.small_stem or backbone.arch == "resnet_micro":
            raise ExportError(f"timm has no name for {backbone.arch!r} with its stem")
        return backbone.arch, {}
    size = {"img_size": info.image_size}
    if info.shape is None and backbone.arch not in (*TIMM_ARCHS, "vit_micro"):
        return backbone.arch, size
    if shape.gated or shape.rotary or shape.registers:
        raise ExportError(
            f"timm has no name for a Vision Transformer like {shape}; use `to='hf'` or "
            "`to='dino-pth'`"
        )
    base = TIMM_ARCHS.get(backbone.arch, "small")
    arguments: dict[str, Any] = {
        "patch_size": info.patch_size,
        "embed_dim": shape.embed_dim,
        "depth": shape.depth,
        "num_heads": shape.num_heads,
        "mlp_ratio": (shape.hidden_dim or 4 * shape.embed_dim) / shape.embed_dim,
        "qkv_bias": shape.qkv_bias,
    }
    if shape.layer_scale:
        arguments["init_values"] = 1e-5
    return f"vit_{base}_patch16_224", size | arguments


def _difference(backbone: Backbone, info: CheckpointInfo, written: Path, to: Target) -> float:
    """Largest difference between features of the backbone and of the weights written.

    Raises:
        ExportError: Too far.
    """
    if to == "hf":
        again, _ = load_backbone(written)  # its configuration must be right, too
    else:
        again = copy.deepcopy(backbone)
        load_weights(again, read_weight_file(written).backbone, source=str(written))
    images = torch.randn(
        CHECKED_IMAGES,
        3,
        info.image_size,
        info.image_size,
        generator=torch.Generator().manual_seed(0),
    )
    with torch.inference_mode():
        expected, found = backbone(images), again(images)
    difference = float((expected - found).abs().max() / expected.square().mean().sqrt())
    if not difference <= MAX_DIFFERENCE:
        raise ExportError(
            f"the converted weights give other features: expected a difference of at most "
            f"{MAX_DIFFERENCE:g}, got {difference:g}; nothing was written"
        )
    return difference


def _tensors(backbone: Backbone) -> State:
    state: dict[str, Tensor] = backbone.network.state_dict()
    return {name: tensor.detach().cpu() for name, tensor in state.items()}


def _shape(backbone: Backbone) -> ViTShape | None:
    """The shape of a Vision Transformer; None for other networks."""
    if not isinstance(backbone, ViTBackbone):
        return None
    blocks: Any = backbone.network.blocks
    info = inferred_info(_tensors(backbone), num_heads=blocks[0].attn.num_heads)
    return None if info is None else info.shape or PUBLISHED[info.arch]
