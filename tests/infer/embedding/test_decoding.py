"""Batches of a list hold pixels, or why there are none, in one process or in several."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

from dino_infer.embedding.decoding import Decoding, decoded_in_processes, stacks
from dino_infer.images.preprocess import Preprocess
from dino_infer.sources.image_list import list_images

DECODING = Decoding(preprocess=Preprocess(size=16))


@pytest.fixture
def images(tmp_path):
    """A large JPEG that lies on its side, an empty file, a PNG, text, and another PNG."""
    exif = Image.Exif()
    exif[0x0112] = 6
    noise = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    large = Image.fromarray(noise).resize((800, 600))
    large.save(tmp_path / "0.jpg", exif=exif)
    (tmp_path / "1.jpg").touch()
    Image.fromarray(noise).save(tmp_path / "2.png")
    (tmp_path / "3.jpg").write_text("no image")
    Image.fromarray(noise[:20]).save(tmp_path / "4.png")
    return list_images([tmp_path])


def test_a_failure_in_the_middle_of_a_batch_leaves_the_others(images, tmp_path):
    batch = DECODING.batch(images, range(5))
    assert batch.places == range(5) and batch.indices.tolist() == [0, 2, 4]
    kinds = {place: failure.kind for place, failure in batch.failures.items()}
    assert kinds == {1: "empty", 3: "unsupported"}
    sizes = [(file.height, file.width) for file in batch.files]
    assert sizes == [(800, 600), (30, 40), (20, 40)]  # upright, though decoded smaller
    data = (tmp_path / "2.png").read_bytes()
    assert batch.files[1].sha256 == hashlib.sha256(data).hexdigest()
    assert batch.files[1].bytes == len(data)
    [(positions, pixels)] = batch.stacks
    assert positions.tolist() == [0, 1, 2]
    expected = Preprocess(size=16).pixels(np.asarray(Image.open(tmp_path / "2.png")))
    assert torch.equal(pixels[1], expected)


def test_exact_decoding_reads_every_pixel_of_a_large_jpeg(images, tmp_path):
    exact = Decoding(preprocess=Preprocess(size=16, exact_decode=True))
    [(_, pixels)] = exact.batch(images, range(1)).stacks
    upright = np.rot90(np.asarray(Image.open(tmp_path / "0.jpg")), -1).copy()
    assert torch.equal(pixels[0], Preprocess(size=16).pixels(upright))
    [(_, smaller)] = DECODING.batch(images, range(1)).stacks
    assert not torch.equal(pixels, smaller)


def test_limits_make_failures(images):
    tight = Decoding(preprocess=Preprocess(size=16), max_pixels=1000)
    assert tight.batch(images, range(5)).indices.tolist() == [4]
    small = Decoding(preprocess=Preprocess(size=16), max_file_bytes=3000)
    kinds = {failure.kind for failure in small.batch(images, range(3)).failures.values()}
    assert kinds == {"too_large", "empty"}


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_decode_as_one_does(images, workers):
    parts = [range(2), range(2, 5)]
    batches = list(decoded_in_processes(DECODING, images, parts, workers=workers))
    assert [batch.places for batch in batches] == parts
    for batch, part in zip(batches, parts, strict=True):
        expected = DECODING.batch(images, part)
        assert isinstance(batch.indices, np.ndarray)
        assert batch.indices.tolist() == expected.indices.tolist()
        assert batch.files == expected.files and batch.failures == expected.failures
        for (_, got), (_, wanted) in zip(batch.stacks, expected.stacks, strict=True):
            assert torch.equal(got, wanted)


def test_equal_shapes_are_stacked_with_their_positions():
    shapes = [(3, 2, 2), (3, 4, 2), (3, 2, 2)]
    tensors = [torch.full(shape, i) for i, shape in enumerate(shapes)]
    found = {tuple(stack.shape): positions.tolist() for positions, stack in stacks(tensors)}
    assert found == {(2, 3, 2, 2): [0, 2], (1, 3, 4, 2): [1]}
    assert list(stacks([])) == []
