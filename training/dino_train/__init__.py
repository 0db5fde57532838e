"""Pretraining: self-distillation with no labels.

::

    from dino_infer import list_images
    from dino_train import recipes, train

    images = list_images(["photos/"])
    train(recipes.auto_for(images), data=["photos/"], out="runs/photos", images=images)

The run is told in ``pretraining.py``, its step in ``learner.py``. Importing the package is light;
each name loads its module when it is first used.
"""

import lazy_loader

from dino_infer import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
