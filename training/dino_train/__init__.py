"""Pretraining: self-distillation with no labels. Start at ``dino_train.train``."""

from dino_infer import __version__ as __version__
