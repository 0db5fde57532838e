"""Description of a checkpoint's weights, as a record and as JSON."""

import dataclasses
import json
import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from dino_infer.errors import CheckpointError
from dino_infer.images.preprocess import IMAGENET_MEAN, IMAGENET_STD
from dino_infer.networks.build import ViTShape

FORMAT_VERSION = 1

MAX_SIDE = 4096  # of images, in pixels; no published network takes more
MAX_COUNT = 2**63 - 1

Positions = Literal["dino", "antialiased", "rotary"]


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """Description of a checkpoint's weights; the metadata of the file."""

    arch: str
    """A name that ``build_backbone`` knows; "vit" where only ``shape`` tells."""
    patch_size: int
    """Side of a patch in pixels; the total stride of a convnet."""
    image_size: int = 224
    """Side in pixels that the position embeddings were learned for."""
    input_size: int | None = None
    """Side in pixels of the images to feed, where that is not ``image_size``: DINOv2 learned
    positions for 518 px, and its published features are those of 224 px."""
    shape: ViTShape | None = None
    """Shape of the Vision Transformer, where ``arch`` does not tell."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Mean that is subtracted from RGB in [0, 1]."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Standard deviation that divides RGB after the mean is subtracted."""
    small_stem: bool = False
    """A ResNet that starts with a 3x3 convolution of stride 1."""
    recipe: str | None = None
    """Name of the training recipe, where known."""
    step: int | None = None
    """Optimizer updates done, where known."""
    epoch: int | float | None = None
    """Epochs done, where known."""
    data_fingerprint: str | None = None
    """Fingerprint of the list of training images, where known."""
    code_version: str | None = None
    """Version of this package that wrote the file."""
    format_version: int = FORMAT_VERSION
    """Version of the file layout."""
    position_embedding: Positions = "dino"
    """Resampling of positions, see ``resampled_positions``; "rotary" needs none."""

    @property
    def view_size(self) -> int:
        """Side in pixels of the images to feed."""
        return self.input_size or self.image_size

    def __repr__(self) -> str:
        told = [
            f"{field.name}={value!r}"
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) != field.default
        ]
        return f"CheckpointInfo({', '.join(told)})"

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
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise CheckpointError(
                f"the checkpoint has format version {reprlib.repr(version)}, this package reads up "
                f"to {FORMAT_VERSION}; upgrade it"
            )
        if missing := {"arch", "patch_size"} - metadata.keys():
            raise CheckpointError(f"the checkpoint's metadata lacks {', '.join(sorted(missing))}")
        known = checked_fields(metadata, INFO_RULES)
        for name in {"mean", "std"} & known.keys():
            known[name] = tuple(known[name])
        if known.get("shape") is not None:
            if missing := {"embed_dim", "depth", "num_heads"} - known["shape"].keys():
                raise CheckpointError(f"the checkpoint's shape lacks {', '.join(sorted(missing))}")
            known["shape"] = ViTShape(**checked_fields(known["shape"], SHAPE_RULES))
        positions = known.get("position_embedding", "dino")
        if positions not in get_args(Positions):
            raise CheckpointError(
                f"the checkpoint's position_embedding must be one of {get_args(Positions)}, "
                f"got {positions!r}; upgrade this package"
            )
        return cls(**known)


def parsed_metadata(text: str | bytes) -> dict[str, Any]:
    """A JSON object out of a file that may be damaged or made to harm.

    Raises:
        ValueError: The text is no JSON, no object, or nested too deeply.
    """
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("its JSON is nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError(f"it must hold a JSON object, got {type(value).__name__}")
    return value


@dataclass(frozen=True)
class _Rule:
    """The values that a field may have."""

    words: str
    allows: Callable[[Any], bool]


def _whole(least: int, most: int) -> _Rule:
    return _Rule(
        f"a whole number from {least} to {most}",
        lambda value: type(value) is int and least <= value <= most,
    )


def _numbers(least: float, most: float) -> _Rule:
    return _Rule(
        f"three numbers from {least:g} to {most:g}",
        lambda value: (
            isinstance(value, list | tuple)
            and len(value) == 3
            and all(type(number) in (int, float) and least <= number <= most for number in value)
        ),
    )


def _or_none(rule: _Rule) -> _Rule:
    return _Rule(f"{rule.words} or null", lambda value: value is None or rule.allows(value))


_FLAG = _Rule("true or false", lambda value: type(value) is bool)
_TEXT = _Rule(
    "a text of at most 1000 characters", lambda value: isinstance(value, str) and len(value) <= 1000
)
_AMOUNT = _Rule(
    "a number from 0",
    lambda value: type(value) in (int, float) and 0 <= value <= MAX_COUNT and math.isfinite(value),
)
MEAN, STD, SIDE = _numbers(-100, 100), _numbers(1e-6, 100), _whole(1, MAX_SIDE)
HEADS = _whole(1, 2**10)
INFO_RULES = {
    "arch": _TEXT,
    "patch_size": SIDE,
    "image_size": SIDE,
    "input_size": _or_none(SIDE),
    "shape": _or_none(_Rule("an object", lambda value: isinstance(value, Mapping))),
    "mean": MEAN,
    "std": STD,
    "small_stem": _FLAG,
    "recipe": _or_none(_TEXT),
    "step": _or_none(_whole(0, MAX_COUNT)),
    "epoch": _or_none(_AMOUNT),
    "data_fingerprint": _or_none(_TEXT),
    "code_version": _or_none(_TEXT),
    "format_version": _whole(1, FORMAT_VERSION),
    "position_embedding": _TEXT,
}
SHAPE_RULES = {
    "embed_dim": _whole(1, 2**16),
    "depth": _whole(1, 256),
    "num_heads": HEADS,
    "hidden_dim": _or_none(_whole(1, 2**18)),
    "gated": _FLAG,
    "registers": _whole(0, 2**10),
    "layer_scale": _FLAG,
    "qkv_bias": _FLAG,
    "rotary": _FLAG,
}


def checked_fields(
    values: Mapping[str, Any], rules: Mapping[str, _Rule], *, subject: str = "the checkpoint's"
) -> dict[str, Any]:
    """The fields that have a rule, each within its bounds: they decide how much memory is taken.

    Raises:
        CheckpointError: A value is out of bounds.
    """
    known = {name: values[name] for name in rules if name in values}
    for name, value in known.items():
        if not rules[name].allows(value):
            raise CheckpointError(
                f"{subject} {name} must be {rules[name].words}, got {reprlib.repr(value)}; "
                "copy or download the file again"
            )
    return known
