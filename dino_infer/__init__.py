"""Look at images with DINO backbones: features, k-NN, [CLS] attention.

    from dino_infer import Embedder, list_images

    features = Embedder.load("runs/photos").embed(list_images(["photos/"])).features

Importing the package is light; each name below loads its module when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dino_infer.attention import AttentionMaps, attention_maps, mass_mask
    from dino_infer.backbones import Backbone, build_backbone
    from dino_infer.checkpoints import (
        CheckpointInfo,
        load_backbone,
        read_training_weights,
        save_checkpoint,
    )
    from dino_infer.embed import Embedder, Embedding
    from dino_infer.errors import (
        CheckpointError,
        DataError,
        DinoError,
        ImageError,
        MissingExtraError,
        RunError,
        TrainingError,
    )
    from dino_infer.features import Features, read_features, write_features
    from dino_infer.images import ImageFailure, load_image, read_image
    from dino_infer.knn import KNNClassifier, accuracies, nearest, nearest_others
    from dino_infer.listing import ImageList, list_images
    from dino_infer.preprocess import Preprocess
    from dino_infer.render import attention_picture

_MODULES = {
    "AttentionMaps": "attention",
    "Backbone": "backbones",
    "CheckpointError": "errors",
    "CheckpointInfo": "checkpoints",
    "DataError": "errors",
    "DinoError": "errors",
    "Embedder": "embed",
    "Embedding": "embed",
    "Features": "features",
    "ImageError": "errors",
    "ImageFailure": "images",
    "ImageList": "listing",
    "KNNClassifier": "knn",
    "MissingExtraError": "errors",
    "Preprocess": "preprocess",
    "RunError": "errors",
    "TrainingError": "errors",
    "accuracies": "knn",
    "attention_maps": "attention",
    "attention_picture": "render",
    "build_backbone": "backbones",
    "list_images": "listing",
    "load_backbone": "checkpoints",
    "load_image": "images",
    "mass_mask": "attention",
    "nearest": "knn",
    "nearest_others": "knn",
    "read_features": "features",
    "read_image": "images",
    "read_training_weights": "checkpoints",
    "save_checkpoint": "checkpoints",
    "write_features": "features",
}

__all__ = [
    "AttentionMaps",
    "Backbone",
    "CheckpointError",
    "CheckpointInfo",
    "DataError",
    "DinoError",
    "Embedder",
    "Embedding",
    "Features",
    "ImageError",
    "ImageFailure",
    "ImageList",
    "KNNClassifier",
    "MissingExtraError",
    "Preprocess",
    "RunError",
    "TrainingError",
    "accuracies",
    "attention_maps",
    "attention_picture",
    "build_backbone",
    "list_images",
    "load_backbone",
    "load_image",
    "mass_mask",
    "nearest",
    "nearest_others",
    "read_features",
    "read_image",
    "read_training_weights",
    "save_checkpoint",
    "write_features",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
