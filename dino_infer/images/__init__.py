"""Bytes of image files to upright RGB, and RGB to a network's input."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
