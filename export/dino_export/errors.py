"""Errors of exporting and converting."""

from dino_infer.errors import DinoError


class ExportError(DinoError):
    """A file cannot be exported or converted, or does not compute what PyTorch does."""
