"""Models in Hugging Face's layout: downloads, and what the files beside the weights say."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dino_infer.errors import CheckpointError, first_line
from dino_infer.images.preprocess import IMAGENET_MEAN, IMAGENET_STD
from dino_infer.weights.info import HEADS, MEAN, SIDE, STD, checked_fields, parsed_metadata

logger = logging.getLogger(__name__)

PREFIX = "hf:"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
CONFIG, PREPROCESSING = "config.json", "preprocessor_config.json"
MODEL_TYPES = ("vit", "dinov2", "dinov2_with_registers", "dinov3_vit")
ROPE_THETA = 100.0  # of every DINOv3 ViT


@dataclass(frozen=True, kw_only=True)
class HubModel:
    """Settings that a repository has for its model besides the weights."""

    num_heads: int | None = None
    """Attention heads; None where the shapes have to tell."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Mean that is subtracted from RGB in [0, 1]."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Standard deviation that divides RGB after the mean is subtracted."""
    input_size: int | None = None
    """Side in pixels of the images to feed."""


def download(name: str) -> Path:
    """Get a repository, unless its files are in the cache, and return its local folder.

    Args:
        name: ``ORG/NAME`` or ``ORG/NAME@REVISION``.

    Raises:
        CheckpointError: There is no such repository, no network, or no weights in it.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError

    logger.info("getting %s%s, from the cache or the network", PREFIX, name)
    repository, _, revision = name.partition("@")

    def fetched(file: str) -> Path:
        return Path(hf_hub_download(repository, file, revision=revision or None))

    try:
        folder = fetched(CONFIG).parent
        with suppress(EntryNotFoundError):
            fetched(PREPROCESSING)
        try:
            fetched(WEIGHTS[0])
        except EntryNotFoundError:  # also when offline, and then the other may be in the cache
            fetched(WEIGHTS[1])
    except GatedRepoError as error:
        raise CheckpointError(
            f"'{PREFIX}{name}' is behind a form: accept its licence at "
            f"https://huggingface.co/{repository}, then run `hf auth login`"
        ) from error
    except (OSError, ValueError, EntryNotFoundError) as error:
        reason = first_line(error)
        raise CheckpointError(
            f"cannot get '{PREFIX}{name}' ({reason}); offline, give a folder that "
            f"holds its {CONFIG} and {WEIGHTS[0]}, a run folder, or a .safetensors or .pth file"
        ) from error
    return folder


def weights_in(folder: Path) -> Path | None:
    """The weights in a folder that holds a copy of a repository, or None if there are none."""
    return next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)


def described_model(weights: Path) -> HubModel | None:
    """Settings in the files beside a repository's weights, or None if they come from elsewhere.

    Raises:
        CheckpointError: The files are damaged, or the model is none that can be read.
    """
    config_file = weights.with_name(CONFIG)
    if weights.name not in WEIGHTS or not config_file.is_file():
        return None
    config = _read_json(config_file)
    if "pretrained_cfg" in config:  # a repository of timm
        settings = config["pretrained_cfg"]
        return HubModel(**_normalisation(settings, config_file, mean="mean", std="std"))
    if "model_type" not in config:
        return None
    _check(config, config_file)
    heads = config["num_attention_heads"]
    preprocessing = weights.with_name(PREPROCESSING)
    if not preprocessing.is_file():
        logger.warning("no %s beside the weights: taking ImageNet's mean and std", PREPROCESSING)
        return HubModel(num_heads=heads)
    settings = _read_json(preprocessing)
    normalisation = _normalisation(settings, preprocessing, mean="image_mean", std="image_std")
    size = _input_size(settings)
    if size is not None:
        checked_fields({"size": size}, {"size": SIDE}, subject=f"{str(preprocessing)!r}:")
    return HubModel(num_heads=heads, input_size=size, **normalisation)


def _normalisation(settings: Any, path: Path, *, mean: str, std: str) -> dict[str, Any]:
    """Mean and std under our names, where they are given."""
    if not isinstance(settings, Mapping):
        raise CheckpointError(f"{str(path)!r} must hold settings as an object; download it again")
    fields = checked_fields(settings, {mean: MEAN, std: STD}, subject=f"{str(path)!r}:")
    return {
        word: tuple(fields[name]) for word, name in (("mean", mean), ("std", std)) if name in fields
    }


def _check(config: Mapping[str, Any], path: Path) -> None:
    """Refuse what the weights alone would not show to be something else."""
    expected = {
        "model_type": MODEL_TYPES,
        "hidden_act": ("silu",) if config.get("use_gated_mlp") else ("gelu",),
        "rope_theta": (ROPE_THETA,),
    }
    wrong = [
        f"{name} must be {' or '.join(map(repr, values))}, got {config.get(name)!r}"
        for name, values in expected.items()
        if config.get(name, values[0]) not in values
    ]
    if wrong:
        raise CheckpointError(f"{str(path)!r}: {wrong[0]}; for other models give timm:NAME")
    if "num_attention_heads" not in config:
        raise CheckpointError(f"{str(path)!r} lacks num_attention_heads; download it again")
    checked_fields(config, {"num_attention_heads": HEADS}, subject=f"{str(path)!r}:")


def _input_size(settings: Mapping[str, Any]) -> int | None:
    """The side of what comes out of preprocessing: of the crop if there is one."""
    size = settings.get("size")
    if settings.get("do_center_crop") and "crop_size" in settings:
        size = settings["crop_size"]
    if isinstance(size, Mapping):
        size = size.get("height", size.get("shortest_edge"))
    return size if isinstance(size, int) else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return parsed_metadata(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {str(path)!r}: {error}; download it again") from error
