"""What runs on top of features: a retrieval index, an HTTP server and a demo in the browser."""

from dino_infer import __version__ as __version__
