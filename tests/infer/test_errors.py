"""Errors keep what they say."""

import pickle

from dino_infer.errors import ImageError


def test_an_image_error_crosses_process_borders():
    error = pickle.loads(pickle.dumps(ImageError("a.jpg", "corrupt", "cut")))
    assert (error.path, error.kind, error.reason) == ("a.jpg", "corrupt", "cut")
