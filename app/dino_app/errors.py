"""Errors raised when vectors are stored, searched and served."""

from dino_infer.errors import DinoError


class StoreError(DinoError):
    """An index is missing, damaged, or cannot be written."""


class StoreLockedError(StoreError):
    """Another process writes to this index."""


class ModelMismatchError(StoreError):
    """The weights or the preprocessing differ from those that made the vectors of an index."""
