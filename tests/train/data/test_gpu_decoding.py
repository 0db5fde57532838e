"""Files that travel to the device undecoded; torchvision decodes them on a CPU in these tests."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from dino_infer.errors import TrainingError
from dino_infer.sources.image_list import ImageList, list_images
from dino_train.crops.spec import CropSpec
from dino_train.data import gpu_decoding
from dino_train.data.dataset import Batch, CropDataset
from dino_train.data.gpu_decoding import is_for_gpu
from dino_train.data.loader import make_crops
from tests.train.photos import PHOTOS, photo

CPU = torch.device("cpu")
# Crops so large that the workers too decode every pixel.
SPEC = CropSpec(global_crops_size=48, local_crops_size=32, local_crops_number=2)
TORCHVISION = gpu_decoding._by_torchvision
KEYS = [(0, index) for index in range(6)]


@pytest.fixture
def images(tmp_path) -> ImageList:
    """0 to 3 plain JPEGs, 4 lies on its side, 5 is a PNG."""
    for number, name in enumerate(PHOTOS):
        photo(name).resize((80 + number, 60)).save(tmp_path / f"{number}.jpg", quality=90)
    exif = Image.Exif()
    exif[0x0112] = 6
    photo("coffee.png").resize((80, 60)).save(tmp_path / "4.jpg", quality=90, exif=exif)
    photo("coffee.png").resize((70, 90)).save(tmp_path / "5.png")
    return list_images(tmp_path)


def batch_of(images: ImageList, decoder: str) -> Batch:
    dataset = CropDataset(images, SPEC, executor="device", seed=0, decoder=decoder)
    return dataset.__getitems__(KEYS)


def assert_same_crops(one: Batch, other: Batch) -> None:
    pairs = zip(make_crops(one, CPU).groups(), make_crops(other, CPU).groups(), strict=True)
    for crops, other_crops in pairs:
        torch.testing.assert_close(crops, other_crops, atol=1e-4, rtol=0)


def test_only_plain_upright_whole_jpegs_are_for_the_gpu(images):
    data = [images.read(index) for index in range(len(images))]
    assert [is_for_gpu(one) for one in data] == [True] * 4 + [False] * 2
    assert not is_for_gpu(data[0][:-2])
    assert not is_for_gpu(b"")


def test_batches_decoded_on_the_device_are_those_of_the_workers(images):
    encoded = batch_of(images, "gpu")
    assert encoded.payload is None and encoded.encoded.rows == (0, 1, 2, 3)
    assert_same_crops(batch_of(images, "cpu"), encoded)


def test_a_batch_without_any_plain_jpeg_is_decoded_too(images):
    images = images.select([4, 5, 5, 4, 4, 5])
    assert_same_crops(batch_of(images, "cpu"), batch_of(images, "gpu"))


def damage(images: ImageList, index: int) -> None:
    """Cut pixels out, and keep the end marker, so that only a decoder notices."""
    path = Path(images.location(index))
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"\xff\xda") + 12] + b"\xff\xd9")


def test_a_file_that_fails_on_the_device_is_told_and_replaced_in_the_batch(images):
    whole = make_crops(batch_of(images, "gpu"), CPU).global_crops
    damage(images, 1)
    holed = batch_of(images, "gpu").to(CPU)
    assert holed.indices.tolist() == [0, 2, 2, 3, 4, 5]
    assert [failure.path for failure in holed.failures] == [images.location(1)]
    made = make_crops(holed, CPU).global_crops
    torch.testing.assert_close(made[:, 2:], whole[:, 2:], atol=1e-4, rtol=0)
    torch.testing.assert_close(made[:, 1], whole[:, 2], atol=1e-4, rtol=0)


def test_a_batch_of_damaged_files_stops_the_run(images):
    images = images.select([0] * 6)
    damage(images, 0)
    with pytest.raises(TrainingError, match="none of the images can be read"):
        make_crops(batch_of(images, "gpu"), CPU)


def test_decoding_on_the_gpu_needs_the_crops_there_too(images):
    with pytest.raises(ValueError, match="needs the executor 'device'"):
        CropDataset(images, SPEC, executor="worker", seed=0, decoder="gpu")


@pytest.fixture
def checked():
    """The choice of a decoder on the CPU, made anew and forgotten again."""
    gpu_decoding._decoder.cache_clear()
    yield lambda: gpu_decoding._decoder(CPU)
    gpu_decoding._decoder.cache_clear()


def torchcodec(monkeypatch, decode) -> None:
    """Install a package of this name that decodes by the function."""
    monkeypatch.setitem(sys.modules, "torchcodec", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", SimpleNamespace(decode_jpeg=decode))


def right(files, mode, device):
    assert mode == "RGB"
    return TORCHVISION(files, device)


def swapped(files, mode, device):
    return [one.flip(0) for one in right(files, mode, device)]


def test_jpegs_are_left_to_torchcodec_where_it_decodes_rightly(monkeypatch, checked):
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    assert checked() is gpu_decoding._by_torchvision
    gpu_decoding._decoder.cache_clear()
    torchcodec(monkeypatch, right)
    assert checked() is gpu_decoding._by_torchcodec
    gpu_decoding._decoder.cache_clear()
    torchcodec(monkeypatch, swapped)
    assert checked() is gpu_decoding._by_torchvision


def test_wrong_decoders_are_switched_off_with_a_line(monkeypatch, checked, images, caplog):
    torchcodec(monkeypatch, swapped)
    monkeypatch.setattr(
        gpu_decoding, "_by_torchvision", lambda files, device: swapped(files, "RGB", device)
    )
    assert checked() is None
    (said,) = caplog.messages
    assert said.startswith("JPEGs are decoded by one core") and said.count("differs") == 2
    assert_same_crops(batch_of(images, "cpu"), batch_of(images, "gpu"))


@pytest.mark.gpu
def test_a_decoder_passes_its_check_on_a_gpu():
    assert gpu_decoding._decoder(torch.device("cuda")) is not None
