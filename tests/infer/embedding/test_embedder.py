"""Embedding does not depend on how it is run, and reports what it cannot read."""

import hashlib
import io
import os

import numpy as np
import pytest
import torch
from PIL import Image

from dino_infer.embedding.embedder import Embedder
from dino_infer.embedding.pooling import FEATURES
from dino_infer.errors import CheckpointError, DinoError, ImageError
from dino_infer.images.preprocess import Preprocess
from dino_infer.networks.build import build_backbone
from dino_infer.sources.image_list import list_images
from dino_infer.weights.checkpoints import save_checkpoint
from dino_infer.weights.info import CheckpointInfo
from tests.infer.pixel_engine import PixelEngine, pixel_embedder

COSINE = 1 - 1e-6  # fp32 sums differ in order between batch sizes
JPEG_COSINE = 1 - 1e-4  # turned blocks of a JPEG are rounded otherwise
UNIT = 1e-6  # of float32, around a length of 1
ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    return build_backbone("vit_micro", patch_size=8, image_size=32).eval()


def embedder(backbone, **options):
    options = {"workers": 0, "precision": "fp32"} | options
    preprocess = options.pop("preprocess", Preprocess(size=32))
    return Embedder(backbone, preprocess, device="cpu", **options)


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
    file = embedding.files[7]
    path = photos / images.name(7)
    assert (file.height, file.width) == picture.shape[:2]
    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (file.bytes, file.modified_ns) == (path.stat().st_size, path.stat().st_mtime_ns)


@pytest.mark.parametrize(
    "options", [{"batch_size": 1}, {"batch_size": 5}, {"workers": 2, "batch_size": 3}]
)
def test_rows_do_not_depend_on_batch_size_or_workers(backbone, photos, options):
    images = list_images([photos])
    expected = embedder(backbone).embed(images)
    got = embedder(backbone, **options).embed(images)
    assert (cosines(got.features, expected.features) > COSINE).all()
    assert got.files == expected.files


def test_two_runs_give_the_same_bits(backbone, photos):
    images = list_images([photos])
    first, second = (
        embedder(backbone, workers=2, batch_size=3).embed(images).features for _ in range(2)
    )
    assert np.array_equal(first, second)


def test_rows_do_not_depend_on_the_images_beside_them(backbone, photos):
    images = list_images([photos])
    everything = embedder(backbone).embed(images).features
    chosen = [9, 2, 2, 11, 0]
    some = embedder(backbone, batch_size=2).embed(images.select(chosen)).features
    assert (cosines(some, everything[chosen]) > COSINE).all()


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


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_tell_the_places_of_their_rows(photos, tmp_path, workers):
    for i, path in enumerate(sorted(photos.glob("cat/*.png"))):
        (tmp_path / f"{i}.png").write_bytes(b"" if i in (1, 2, 3) else path.read_bytes())
    images = list_images([tmp_path])
    batches = list(pixel_embedder(batch_size=2, workers=workers).batches(images, start=2))
    assert [batch.places for batch in batches] == [range(2, 4), range(4, 6)]
    assert [batch.indices.tolist() for batch in batches] == [[], [4, 5]]
    assert [sorted(batch.failures) for batch in batches] == [[2, 3], []]
    assert batches[0].features.shape == (0, 16)


def test_whole_images_of_several_shapes_share_a_batch(backbone, photos):
    preprocess = Preprocess(size=32, crop="none", patch_size=8)
    images = list_images([photos])
    together = embedder(backbone, preprocess=preprocess).embed(images)
    alone = embedder(backbone, preprocess=preprocess, batch_size=1).embed(images)
    assert (cosines(together.features, alone.features) > COSINE).all()
    picture = np.asarray(Image.open(photos / images.name(9)))
    shown = preprocess(picture)[None]
    assert shown.shape == (1, 3, 32, 32) and picture.shape == (120, 120, 3)
    assert preprocess(np.ascontiguousarray(picture[:, :90])).shape == (3, 40, 32)
    expected = backbone(shown).detach().numpy()
    assert cosines(together.features[9:10], expected) > COSINE


@pytest.mark.parametrize("shape", [(40, 400), (400, 40), (33, 57)])
def test_any_aspect_ratio_is_seen_whole(backbone, shape):
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    preprocess = Preprocess(size=32, crop="none", patch_size=8)
    vectors = embedder(backbone, preprocess=preprocess)([picture, picture[::-1].copy()])
    assert vectors.shape == (2, 128) and cosines(vectors[:1], vectors[1:]) < COSINE
    expected = backbone(preprocess(picture)[None]).detach().numpy()
    assert cosines(vectors[:1], expected) > COSINE


def oriented(picture, orientation):
    """The pixels to store so that a reader of EXIF sees the picture."""
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = picture if orientation == 1 else picture.transpose(back[orientation])
    return stored, exif


@pytest.mark.parametrize(("suffix", "cosine"), [("png", COSINE), ("jpg", JPEG_COSINE)])
def test_all_eight_orientations_embed_as_the_upright_file(backbone, tmp_path, suffix, cosine):
    from skimage import data

    picture = Image.fromarray(data.chelsea()[:160, 100:340])
    for orientation in range(1, 9):
        stored, exif = oriented(picture, orientation)
        stored.save(tmp_path / f"{orientation}.{suffix}", exif=exif, **JPEG_BEST[suffix])
    whole = Preprocess(size=32, crop="none", patch_size=8)
    embedding = embedder(backbone, preprocess=whole).embed(list_images([tmp_path]))
    assert {(file.height, file.width) for file in embedding.files} == {(160, 240)}
    upright = np.repeat(embedding.features[:1], 8, axis=0)
    assert (cosines(embedding.features, upright) > cosine).all()
    turned = embedder(backbone, preprocess=whole)([np.rot90(np.asarray(picture)).copy()])
    assert cosines(turned, upright[:1]) < cosine  # or the test would show nothing
    opened = [Image.open(tmp_path / f"{orientation}.{suffix}") for orientation in range(1, 9)]
    assert (cosines(embedder(backbone, preprocess=whole)(opened), upright) > cosine).all()


JPEG_BEST = {"png": {}, "jpg": {"quality": 100, "subsampling": 0}}


def test_pictures_in_memory_embed_as_their_files_do(backbone, tmp_path):
    from skimage import data

    photo = Image.fromarray(data.chelsea())
    modes = [photo.convert(mode) for mode in ("RGB", "L", "RGBA", "P", "CMYK", "1")]
    rotated = Image.open(io.BytesIO(_turned(photo)))
    for i, picture in enumerate([*modes, rotated]):
        exif = picture.getexif() if picture is rotated else None
        picture.save(tmp_path / f"{i}.tiff", **({"exif": exif} if exif else {}))
    from_files = embedder(backbone).embed(list_images([tmp_path])).features
    from_memory = embedder(backbone)([*modes, rotated])
    assert (cosines(from_files, from_memory) > COSINE).all()
    path = tmp_path / "0.tiff"
    mixed = embedder(backbone, batch_size=2)([path, np.asarray(photo), str(path), photo])
    assert (cosines(mixed, np.repeat(from_memory[:1], 4, axis=0)) > COSINE).all()
    tensors = torch.stack([Preprocess(size=32)(np.asarray(photo))] * 3)
    from_tensors = embedder(backbone, batch_size=2)(tensors)
    assert (cosines(from_tensors, np.repeat(from_memory[:1], 3, axis=0)) > COSINE).all()


def _turned(photo):
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    photo.save(buffer, "PNG", exif=exif)
    return buffer.getvalue()


def test_no_pictures_have_no_rows(backbone):
    of_none = embedder(backbone)
    width = of_none.feature_shape[0]
    assert of_none([]).shape == of_none(torch.zeros(0, 3, 32, 32)).shape == (0, width)


def test_a_path_that_cannot_be_read_is_an_error_in_memory(backbone, tmp_path):
    (tmp_path / "x.jpg").write_text("no image")
    for path, kind in ((tmp_path / "x.jpg", "unsupported"), (tmp_path / "y.jpg", "missing")):
        with pytest.raises(ImageError) as caught:
            embedder(backbone)([path])
        assert (caught.value.path, caught.value.kind) == (str(path), kind)


def test_every_feature_is_its_formula(backbone, photos):
    images = list_images([photos]).select([0, 8])
    paths = [photos / images.name(place) for place in range(2)]
    pixels = torch.stack([Preprocess(size=32)(np.asarray(Image.open(path))) for path in paths])
    with torch.no_grad():
        tokens, blocks = backbone.tokens(pixels), backbone.class_tokens(pixels, last=4)
    cls, patches = tokens.cls.numpy(), tokens.patches.numpy()
    expected = {
        "cls": cls,
        "mean": patches.mean(1),
        "cls+mean": np.concatenate([cls, patches.mean(1)], axis=1),
        "gem": (gem := (np.maximum(patches, 1e-6) ** 4).mean(1) ** 0.25),
        "cls+gem": np.concatenate([cls, gem], axis=1),
        "last4": np.concatenate([blocks[:, i].numpy() for i in range(4)], axis=1),
        "patches": patches,
    }
    assert set(expected) == set(FEATURES)
    for feature, rows in expected.items():
        chosen = embedder(backbone, feature=feature)
        got = chosen.embed(images).features
        assert got.shape == (2, *chosen.feature_shape) == rows.shape
        assert (cosines(got.reshape(2, -1), rows.reshape(2, -1)) > COSINE).all()
        assert chosen.description()["feature"] == feature


def test_normalised_rows_have_length_1(backbone, photos):
    images = list_images([photos])
    plain = embedder(backbone).embed(images).features
    unit = embedder(backbone, normalize=True).embed(images).features
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=UNIT)
    assert (cosines(unit, plain) > COSINE).all()
    patches = embedder(backbone, normalize=True, feature="patches").embed(images).features
    np.testing.assert_allclose(np.linalg.norm(patches, axis=2), 1, atol=UNIT)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_stays_close(backbone, photos, precision):
    images = list_images([photos])
    exact = embedder(backbone).embed(images).features
    rough = embedder(backbone, precision=precision).embed(images).features
    assert rough.dtype == np.float32
    assert (cosines(rough, exact) > 0.999).all()
    assert not np.array_equal(rough, exact)
    assert {weight.dtype for weight in backbone.parameters()} == {torch.float32}


@pytest.mark.parametrize("memory_images", [1, 3, 4])
def test_batches_are_halved_until_they_fit(photos, memory_images):
    images = list_images([photos])
    expected = pixel_embedder(batch_size=8).embed(images).features
    engine = PixelEngine(memory_images=memory_images)
    tight = pixel_embedder(engine, batch_size=8)
    assert np.array_equal(tight.embed(images).features, expected)
    largest = max(engine.batches)
    assert largest == {1: 1, 3: 2, 4: 4}[memory_images]
    engine.memory_images = None  # the limit stays, so that no later batch fails first
    assert np.array_equal(tight.embed(images).features, expected)
    assert max(engine.batches) == largest


def test_an_image_too_large_for_the_memory_is_an_error(photos):
    with pytest.raises(DinoError, match="one image of .* is too much for the memory of cpu"):
        pixel_embedder(PixelEngine(memory_images=0)).embed(list_images([photos]))


def test_threads_of_torch_are_as_before(photos):
    images = list_images([photos])
    before = torch.get_num_threads()
    pixel_embedder(workers=3, batch_size=2).embed(images)
    assert torch.get_num_threads() == before
    with pytest.raises(KeyboardInterrupt):
        pixel_embedder(PixelEngine(stop_after=1), workers=3, batch_size=2).embed(images)
    assert torch.get_num_threads() == before
    for _ in pixel_embedder(workers=3, batch_size=2).batches(images):
        break
    assert torch.get_num_threads() == before


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


def test_patches_of_images_that_are_not_cropped_have_no_shape(backbone, tmp_path):
    info = CheckpointInfo(arch="vit_micro", patch_size=8, image_size=32)
    save_checkpoint(tmp_path / "b.safetensors", backbone, info)
    with pytest.raises(ValueError, match="'patches' needs images of one size"):
        Embedder.load(tmp_path / "b.safetensors", feature="patches", crop="none", device="cpu")
    with pytest.raises(ValueError, match="engine 'onnx' runs .onnx weights, got .*export them"):
        Embedder.load(tmp_path / "b.safetensors", engine="onnx", device="cpu")
    with pytest.raises(ValueError, match=r"engine 'torch' runs PyTorch weights, got 'x.onnx'"):
        Embedder.load("x.onnx", engine="torch", device="cpu")


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


def test_an_embedder_says_in_one_line_what_it_runs(backbone):
    embedder = Embedder(backbone, Preprocess(size=32), device="cpu", precision="fp32")
    said = repr(embedder)
    assert said.startswith("Embedder(TorchEngine(ViTBackbone('vit_micro', patch_size=8, ")
    assert said.endswith(
        "feature='cls', precision='fp32', device='cpu'), size=32, crop='center', batch_size=16, "
        "normalize=False)"
    )
