"""Look at images with DINO backbones: features, k-NN, [CLS] attention.

    from dino_infer import Embedder, list_images

    features = Embedder.load("runs/photos").embed(list_images(["photos/"])).features

Importing the package is light; each name below loads its module when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dino_infer.attention import (
        AttentionMaps,
        attention_by_layer,
        attention_maps,
        mass_mask,
        rollout_maps,
    )
    from dino_infer.backbones import Backbone, build_backbone
    from dino_infer.boxes import Box, mask_boxes
    from dino_infer.checkpoints import (
        CheckpointInfo,
        load_backbone,
        read_training_weights,
        save_checkpoint,
    )
    from dino_infer.embed import Embedder, Embedding
    from dino_infer.embed_job import embed_to_file, embed_to_folder, write_features
    from dino_infer.errors import (
        CheckpointError,
        DataError,
        DinoError,
        ImageError,
        MissingExtraError,
        OutputInUseError,
        RunError,
        TrainingError,
    )
    from dino_infer.features import Features, read_features
    from dino_infer.images import ImageFailure, load_image, read_image
    from dino_infer.knn import KNNClassifier, accuracies, nearest, nearest_others
    from dino_infer.listing import ImageList, list_images
    from dino_infer.merging import merge_shares
    from dino_infer.outputs import Output
    from dino_infer.overlays import (
        head_colors,
        heat_overlay,
        mask_overlay,
        pca_colors,
        similarity_overlay,
    )
    from dino_infer.patches import PatchPCA, best_matches, patch_pca, patch_similarity, patch_tokens
    from dino_infer.preprocess import Preprocess
    from dino_infer.render import attention_picture
    from dino_infer.shares import Share

_MODULES = {
    "AttentionMaps": "attention",
    "Backbone": "backbones",
    "Box": "boxes",
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
    "Output": "outputs",
    "OutputInUseError": "errors",
    "PatchPCA": "patches",
    "Preprocess": "preprocess",
    "RunError": "errors",
    "Share": "shares",
    "TrainingError": "errors",
    "accuracies": "knn",
    "attention_by_layer": "attention",
    "attention_maps": "attention",
    "attention_picture": "render",
    "best_matches": "patches",
    "build_backbone": "backbones",
    "embed_to_file": "embed_job",
    "embed_to_folder": "embed_job",
    "head_colors": "overlays",
    "heat_overlay": "overlays",
    "list_images": "listing",
    "load_backbone": "checkpoints",
    "load_image": "images",
    "mask_boxes": "boxes",
    "mask_overlay": "overlays",
    "mass_mask": "attention",
    "merge_shares": "merging",
    "nearest": "knn",
    "nearest_others": "knn",
    "patch_pca": "patches",
    "patch_similarity": "patches",
    "patch_tokens": "patches",
    "pca_colors": "overlays",
    "read_features": "features",
    "read_image": "images",
    "read_training_weights": "checkpoints",
    "rollout_maps": "attention",
    "save_checkpoint": "checkpoints",
    "similarity_overlay": "overlays",
    "write_features": "embed_job",
}

__all__ = [
    "AttentionMaps",
    "Backbone",
    "Box",
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
    "Output",
    "OutputInUseError",
    "PatchPCA",
    "Preprocess",
    "RunError",
    "Share",
    "TrainingError",
    "accuracies",
    "attention_by_layer",
    "attention_maps",
    "attention_picture",
    "best_matches",
    "build_backbone",
    "embed_to_file",
    "embed_to_folder",
    "head_colors",
    "heat_overlay",
    "list_images",
    "load_backbone",
    "load_image",
    "mask_boxes",
    "mask_overlay",
    "mass_mask",
    "merge_shares",
    "nearest",
    "nearest_others",
    "patch_pca",
    "patch_similarity",
    "patch_tokens",
    "pca_colors",
    "read_features",
    "read_image",
    "read_training_weights",
    "rollout_maps",
    "save_checkpoint",
    "similarity_overlay",
    "write_features",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
