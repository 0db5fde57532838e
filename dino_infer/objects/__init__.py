"""Objects without labels: masks that patches fall into by themselves, or that follow a video."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
