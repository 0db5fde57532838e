"""Settings of runs: published recipes, and what is derived from the data."""

from dino_train.recipes.derived import auto, auto_for, continued
from dino_train.recipes.explained import explain_auto, warnings_about, what_outlasts
from dino_train.recipes.published import (
    RECIPES,
    imagenet_vitb16,
    imagenet_vits16,
    imagenet_vits16_800,
    resnet50,
    small,
    tiny_cpu,
    unknown_recipe,
)

__all__ = [
    "RECIPES",
    "auto",
    "auto_for",
    "continued",
    "explain_auto",
    "imagenet_vitb16",
    "imagenet_vits16",
    "imagenet_vits16_800",
    "resnet50",
    "small",
    "tiny_cpu",
    "unknown_recipe",
    "warnings_about",
    "what_outlasts",
]
