"""What a checkpoint says about its weights, as a record and as JSON."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from dino_infer.backbones import ViTShape
from dino_infer.errors import CheckpointError
from dino_infer.preprocess import IMAGENET_MEAN, IMAGENET_STD

FORMAT_VERSION = 1

Positions = Literal["dino", "antialiased", "rotary"]


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """What a checkpoint says about its weights; the metadata of the file."""

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
    """What the Vision Transformer is made of, where ``arch`` does not tell."""
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
    position_embedding: Positions = "dino"
    """How positions reach other sizes, see ``resampled_positions``; "rotary" needs nothing."""

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
        known = _fields(cls, metadata)
        for name in {"mean", "std"} & known.keys():
            known[name] = tuple(known[name])
        if known.get("shape") is not None:
            known["shape"] = ViTShape(**_fields(ViTShape, known["shape"]))
        if missing := {"arch", "patch_size"} - known.keys():
            raise CheckpointError(f"the checkpoint's metadata lacks {', '.join(sorted(missing))}")
        positions = known.get("position_embedding", "dino")
        if positions not in get_args(Positions):
            raise CheckpointError(
                f"the checkpoint's position_embedding must be one of {get_args(Positions)}, "
                f"got {positions!r}; upgrade this package"
            )
        return cls(**known)


def _fields(record: type, values: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(record)}
    return {name: value for name, value in values.items() if name in names}
