"""Objects without labels: the masks that the patches of an image fall into by themselves."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
