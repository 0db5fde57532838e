"""Look at images with DINO backbones: features, k-NN, [CLS] attention.

::

    from dino_infer import Embedder, list_images

    features = Embedder.load("runs/photos").embed(list_images(["photos/"])).features

Importing the package is light; each name below loads its module when it is first used.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
