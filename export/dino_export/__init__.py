"""Backbones as ONNX and other exported files, and as weights of other projects.

::

    from dino_export import ExportSettings, export
    from dino_infer import load_backbone

    settings = ExportSettings(format="onnx", outputs=("cls",), size=(224, 224))
    export("model.onnx", *load_backbone("runs/photos"), settings)

Nothing here says success before the result has been run and compared with PyTorch. Importing the
package is light; each name loads its module when it is first used.
"""

import lazy_loader

from dino_infer import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
