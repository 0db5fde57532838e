"""Learned backbones leave PyTorch and come back: exported files and converted weights.

Nothing here says success before the result has been run and compared with PyTorch.
"""

from dino_infer import __version__ as __version__
