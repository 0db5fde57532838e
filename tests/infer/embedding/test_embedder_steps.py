"""Decoding and embedding as two steps, for callers that queue images themselves."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from dino_infer.embedding.embedder import Embedder
from dino_infer.errors import CheckpointError, ImageError
from dino_infer.images.preprocess import Preprocess
from dino_infer.networks.build import build_backbone

SAME = 1e-6  # float32 in batches of other sizes


@pytest.fixture
def embedder():
    backbone = build_backbone("vit_micro", patch_size=8, image_size=32)
    return Embedder(backbone, Preprocess(size=32), device="cpu", max_pixels=10_000)


def _encoded(height, width):
    pixels = np.random.default_rng(height).integers(0, 255, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_two_steps_give_what_one_does(embedder):
    files = [_encoded(40 + i, 50) for i in range(3)]
    pixels = [embedder.decoded(data) for data in files]
    expected = embedder([Image.open(io.BytesIO(data)) for data in files])
    np.testing.assert_allclose(embedder.features(pixels), expected, atol=SAME)


def test_images_of_several_sizes_keep_their_places():
    backbone = build_backbone("vit_micro", patch_size=8, image_size=32)
    whole = Preprocess(size=32, crop="none", patch_size=8)
    embedder = Embedder(backbone, whole, device="cpu")
    pixels = [embedder.decoded(_encoded(*size)) for size in ((32, 64), (64, 32), (32, 66))]
    together = embedder.features(pixels)
    alone = np.concatenate([embedder.features([one]) for one in pixels])
    np.testing.assert_allclose(together, alone, atol=SAME)


def test_what_cannot_be_decoded_is_named_and_limits_hold(embedder):
    with pytest.raises(ImageError, match="upload") as error:
        embedder.decoded(b"no image", name="upload")
    assert error.value.kind == "unsupported"
    with pytest.raises(ImageError, match="10000 pixels"):
        embedder.decoded(_encoded(101, 100))
    small = Embedder(embedder.engine, embedder.preprocess, max_file_bytes=100)
    with pytest.raises(ImageError, match="100 bytes"):
        small.decoded(_encoded(40, 40))


def test_features_that_are_not_finite_are_refused():
    backbone = build_backbone("vit_micro", patch_size=8, image_size=32)
    with torch.no_grad():
        next(backbone.parameters()).fill_(float("nan"))
    embedder = Embedder(backbone, Preprocess(size=32), device="cpu")
    with pytest.raises(CheckpointError, match="finite"):
        embedder.features([embedder.decoded(_encoded(40, 40))])
