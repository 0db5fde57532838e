"""Embedding does not depend on how it is run, and reports what it cannot read."""

import io
import os

import numpy as np
import pytest
import torch
from PIL import Image

from dino_infer.backbones import build_backbone
from dino_infer.checkpoints import CheckpointInfo, save_checkpoint
from dino_infer.embed import Embedder, resolved_device
from dino_infer.errors import CheckpointError, DinoError
from dino_infer.listing import list_images
from dino_infer.preprocess import Preprocess

COSINE = 1 - 1e-6  # fp32 sums differ in order between batch sizes


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    return build_backbone("vit_micro", patch_size=8, image_size=32).eval()


def embedder(backbone, **options):
    return Embedder(backbone, Preprocess(size=32), device="cpu", **({"workers": 0} | options))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Twelve crops of real photos in two class folders, of different sizes."""
    from skimage import data

    root = tmp_path_factory.mktemp("photos")
    for name, photo in (("cat", data.chelsea()), ("coffee", data.coffee())):
        (root / name).mkdir()
        for i in range(6):
            crop = photo[20 * i : 20 * i + 120, 30 * i : 30 * i + 90 + 10 * i]
            Image.fromarray(crop).save(root / name / f"{i}.png")
    return root


def cosines(first, second):
    return (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)


def test_rows_are_the_backbone_s_features_in_the_order_of_the_list(backbone, photos):
    images = list_images([photos])
    embedding = embedder(backbone).embed(images)
    assert embedding.features.shape == (12, 128) and embedding.features.dtype == np.float32
    assert embedding.ok.all() and not embedding.failures
    picture = np.asarray(Image.open(photos / images.name(7)))
    expected = backbone(Preprocess(size=32)(picture)[None]).detach().numpy()
    assert cosines(embedding.features[7:8], expected) > COSINE
    assert tuple(embedding.sizes[7]) == picture.shape[:2]


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 5}, {"workers": 2}])
def test_rows_do_not_depend_on_batch_size_or_workers(backbone, photos, options):
    images = list_images([photos])
    expected = embedder(backbone).embed(images)
    got = embedder(backbone, **options).embed(images)
    assert (cosines(got.features, expected.features) > COSINE).all()
    assert got.sha256 == expected.sha256


def test_two_runs_give_the_same_bits(backbone, photos):
    images = list_images([photos])
    first, second = (embedder(backbone, workers=2).embed(images).features for _ in range(2))
    assert np.array_equal(first, second)


def test_rows_do_not_depend_on_the_images_beside_them(backbone, photos):
    images = list_images([photos])
    everything = embedder(backbone).embed(images).features
    some = embedder(backbone).embed(images.select(np.array([9, 2]))).features
    assert (cosines(some, everything[[9, 2]]) > COSINE).all()


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_files_are_reported_and_the_others_embedded(backbone, photos, tmp_path, workers):
    for path in photos.glob("cat/*.png"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "1a.png").write_bytes((tmp_path / "1.png").read_bytes()[:200])
    (tmp_path / "3a.png").write_bytes(b"")
    (tmp_path / "4a.jpg").write_text("not an image")
    images = list_images([tmp_path])
    embedding = embedder(backbone, batch_size=4, workers=workers).embed(images)
    assert embedding.features.shape == (6, 128)
    names = [images.name(i) for i in range(len(images))]
    assert [names[i] for i in np.flatnonzero(~embedding.ok)] == ["1a.png", "3a.png", "4a.jpg"]
    assert [(failure.path, failure.kind) for failure in embedding.failures] == [
        ("1a.png", "corrupt"),
        ("3a.png", "empty"),
        ("4a.jpg", "unsupported"),
    ]
    good = embedder(backbone).embed(list_images([photos / "cat"]))
    assert (cosines(embedding.features, good.features) > COSINE).all()


def test_whole_images_of_several_shapes_share_a_batch(backbone, photos):
    preprocess = Preprocess(size=32, crop="none", patch_size=8)
    images = list_images([photos])
    together = Embedder(backbone, preprocess, device="cpu", workers=0).embed(images)
    alone = Embedder(backbone, preprocess, device="cpu", workers=0, batch_size=1).embed(images)
    assert (cosines(together.features, alone.features) > COSINE).all()


def test_pictures_in_memory_embed_as_their_files_do(backbone, tmp_path):
    from skimage import data

    photo = Image.fromarray(data.chelsea())
    modes = [photo.convert(mode) for mode in ("RGB", "L", "RGBA", "P", "CMYK", "1")]
    rotated = Image.open(io.BytesIO(_turned(photo)))
    for i, picture in enumerate([*modes, rotated]):
        exif = picture.getexif() if picture is rotated else None
        picture.save(tmp_path / f"{i}.tiff", **({"exif": exif} if exif else {}))
    from_files = embedder(backbone).embed(list_images([tmp_path])).features
    from_memory = embedder(backbone).embed_arrays([*modes, rotated])
    assert (cosines(from_files, from_memory) > COSINE).all()
    array = embedder(backbone).embed_arrays([np.asarray(photo)])
    assert (cosines(array, from_memory[:1]) > COSINE).all()


def _turned(photo):
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    photo.save(buffer, "PNG", exif=exif)
    return buffer.getvalue()


def test_arrays_that_are_no_pictures_are_named(backbone):
    with pytest.raises(ValueError, match=r"must be uint8 .* got float64 of shape \(8, 8, 3\)"):
        embedder(backbone).embed_arrays([np.zeros((8, 8, 3))])
    with pytest.raises(ValueError, match=r"got uint8 of shape \(8, 8\)"):
        embedder(backbone).embed_arrays([np.zeros((8, 8), dtype=np.uint8)])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_stays_close(backbone, photos, precision):
    images = list_images([photos])
    exact = embedder(backbone).embed(images).features
    rough = embedder(backbone, precision=precision).embed(images).features
    assert rough.dtype == np.float32
    assert (cosines(rough, exact) > 0.999).all()
    assert not np.array_equal(rough, exact)


def test_embedding_leaves_global_random_numbers_alone(backbone, photos):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    embedder(backbone, workers=2).embed(list_images([photos]))
    assert torch.equal(torch.rand(4), expected)


def test_load_takes_size_and_normalisation_from_the_checkpoint(backbone, tmp_path):
    info = CheckpointInfo(
        arch="vit_micro", patch_size=8, image_size=32, mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0)
    )
    save_checkpoint(tmp_path / "b.safetensors", backbone, info)
    loaded = Embedder.load(tmp_path / "b.safetensors", device="cpu")
    assert loaded.preprocess == Preprocess(size=32, mean=info.mean, std=info.std)
    assert Embedder.load(tmp_path / "b.safetensors", size=64, device="cpu").preprocess.size == 64
    assert (
        loaded.description()["weights_sha256"] == embedder(backbone).description()["weights_sha256"]
    )


def test_features_that_are_not_finite_name_the_image(photos):
    broken = build_backbone("vit_micro", patch_size=8, image_size=32)
    torch.nn.init.constant_(broken.network.norm.bias, float("nan"))
    with pytest.raises(CheckpointError, match=r"features of 'cat/0.png' are not finite"):
        embedder(broken).embed(list_images([photos]))


def test_a_device_that_is_not_there_is_one_clear_line():
    assert resolved_device("cpu") == torch.device("cpu")
    for device in ("cuda:77", "quantum"):
        with pytest.raises(DinoError, match=rf"device '{device}' cannot be used .* pass --device"):
            resolved_device(device)


def test_settings_out_of_range_are_named(backbone):
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        embedder(backbone, batch_size=0)
    with pytest.raises(ValueError, match="workers must not be negative, got -1"):
        embedder(backbone, workers=-1)


def test_names_that_are_no_utf8_are_embedded(backbone, photos, tmp_path):
    odd = os.fsencode(tmp_path) + b"/caf\xe9 \n.png"
    with open(odd, "wb") as file:
        file.write((photos / "cat" / "0.png").read_bytes())
    assert embedder(backbone).embed(list_images([tmp_path])).ok.all()
