"""Pretraining: self-distillation with no labels. Start at ``dino_train.train``."""
