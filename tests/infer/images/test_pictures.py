"""One picture or many, in every form, for whatever looks at pictures."""

import io
from inspect import unwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dino_infer.attention.maps import attention_by_layer, attention_maps, rollout_maps
from dino_infer.attention.patches import patch_tokens
from dino_infer.embedding.embedder import Embedder
from dino_infer.errors import ImageError
from dino_infer.images.pictures import picture_list, rgb_picture
from dino_infer.images.preprocess import Preprocess
from dino_infer.images.read import load_image, read_image
from dino_infer.networks.build import build_backbone
from dino_infer.sources.image_list import list_images

ROUNDING = 1e-5  # of float32 products in batches of another size


@pytest.fixture(scope="module")
def backbone():
    return build_backbone("vit_micro", patch_size=8, image_size=32).eval()


@pytest.fixture(scope="module")
def embedder(backbone):
    return Embedder(backbone, Preprocess(size=32), device="cpu", precision="fp32", batch_size=4)


@pytest.fixture(scope="module")
def levels():
    return np.random.default_rng(0).integers(256, size=(40, 48, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def path(levels, tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "a.png"
    Image.fromarray(levels).save(path)
    return path


@pytest.fixture(scope="module")
def forms(levels, path):
    """The same picture in every form."""
    data = path.read_bytes()
    opaque = np.concatenate([levels, np.full((40, 48, 1), 255, np.uint8)], axis=2)
    frozen = levels.copy()
    frozen.flags.writeable = False
    return {
        "str": str(path),
        "Path": path,
        "bytes": data,
        "bytearray": bytearray(data),
        "memoryview": memoryview(data),
        "Pillow": Image.fromarray(levels),
        "array": levels,
        "read-only": frozen,
        "mirrored twice": np.ascontiguousarray(levels[:, ::-1])[:, ::-1],
        "RGBA": opaque,
        "tensor": torch.from_numpy(levels).permute(2, 0, 1),
    }


def test_every_form_of_a_picture_gives_its_pixels(forms, levels):
    for form, picture in forms.items():
        np.testing.assert_array_equal(rgb_picture(picture), levels, err_msg=form)


def test_one_picture_has_one_feature_and_many_have_rows(embedder, forms):
    expected = embedder([forms["array"]])
    assert expected.shape == (1, *embedder.feature_shape)
    for form, picture in forms.items():
        got = embedder(picture)
        assert got.shape == embedder.feature_shape, form
        np.testing.assert_allclose(got, expected[0], atol=ROUNDING, err_msg=form)
    for many in (list(forms.values()), tuple(forms.values()), iter(forms.values())):
        rows = embedder(many)
        np.testing.assert_allclose(rows, np.repeat(expected, len(forms), axis=0), atol=ROUNDING)


def test_grey_levels_are_the_same_with_or_without_a_channel(embedder, levels):
    grey = levels[..., 0]
    expected = embedder(np.stack([grey] * 3, axis=2))
    for picture in (grey, grey[..., None], torch.from_numpy(grey), torch.from_numpy(grey)[None]):
        np.testing.assert_allclose(embedder(picture), expected, atol=ROUNDING)
    stack = np.stack([grey[..., None]] * 5)
    np.testing.assert_allclose(embedder(stack), np.stack([expected] * 5), atol=ROUNDING)
    tensors = torch.from_numpy(levels).permute(2, 0, 1).expand(2, -1, -1, -1)
    np.testing.assert_allclose(embedder(tensors), [embedder(levels)] * 2, atol=ROUNDING)


def test_clear_pixels_are_laid_on_white():
    assert (rgb_picture(np.zeros((4, 5, 4), np.uint8)) == 255).all()
    assert (rgb_picture(Image.new("RGBA", (5, 4), (255, 0, 0, 0))) == 255).all()


def test_pillow_images_follow_the_rules_for_files():
    deep = rgb_picture(Image.new("I;16", (5, 4), 40_000))
    assert deep.shape == (4, 5, 3) and deep[0, 0, 0] == 156
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (5, 4)).save(file, "PNG", exif=exif)
    assert rgb_picture(Image.open(file)).shape == (5, 4, 3)


def test_normalised_images_are_one_or_many(embedder):
    images = torch.randn(5, 3, 32, 32)
    rows = embedder(images)
    assert rows.shape == (5, *embedder.feature_shape)
    np.testing.assert_allclose(embedder(images[2]), rows[2], atol=ROUNDING)
    assert embedder(images[:0]).shape == (0, *embedder.feature_shape)
    for wrong in (images[0, 0], images[:, :2]):
        with pytest.raises(ValueError, match=r"normalised images of shape \(3, height, width\)"):
            embedder(wrong)


@pytest.mark.parametrize("look", [attention_maps, attention_by_layer, rollout_maps, patch_tokens])
def test_attention_and_patches_take_one_picture_or_many(look, backbone, forms, tmp_path):
    options = {"backbone": backbone, "preprocess": Preprocess(size=32)}

    def values(result):
        maps = result if isinstance(result, list) else [result]
        return np.concatenate([one[1].ravel() for one in maps])

    expected = values(look(forms["array"], **options))
    for form in ("str", "Path", "bytes", "Pillow", "RGBA", "tensor"):
        got = values(look(forms[form], **options))
        np.testing.assert_allclose(got, expected, atol=ROUNDING, err_msg=form)
    grey = values(look(np.zeros((40, 48), np.uint8), **options))
    assert grey.shape == expected.shape
    several = look([forms["Path"], forms["Pillow"]], **options)
    assert isinstance(several, list) and len(several) == 2
    np.testing.assert_allclose(values(several[1]), expected, atol=ROUNDING)
    with pytest.raises(ImageError, match="missing.png"):
        look(tmp_path / "missing.png", **options)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (None, "got None"),
        (7, "got int 7"),
        ({"a.jpg": 1}, "got dict"),
        ({"a.jpg"}, "got set"),  # rows would come in no order
        (np.float32(3), "got float32"),
    ],
)
def test_what_is_no_picture_is_named(wrong, says):
    with pytest.raises(TypeError, match=f"expected a path, the bytes .* {says}"):
        picture_list(wrong)
    with pytest.raises(TypeError, match=f"picture 2 must be a path, the bytes .* {says}"):
        unwrap(rgb_picture)(wrong, name="picture 2")


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((4, 5, 3), np.float32),
        np.zeros((4, 5), np.bool_),
        np.zeros((4, 5, 3), np.uint16),
        torch.zeros(3, 4, 5, dtype=torch.int64),
        torch.zeros(3, 4, 5),
    ],
)
def test_levels_of_another_type_say_how_to_convert_them(embedder, wrong):
    with pytest.raises(ValueError, match=r"picture 1 must hold uint8 levels .* got .* by 255"):
        embedder([np.zeros((4, 5, 3), np.uint8), wrong])


@pytest.mark.parametrize("shape", [(4, 5, 2), (3, 4, 5), (0, 5, 3), (4, 0), (7,)])
def test_arrays_of_another_shape_are_refused(embedder, shape):
    with pytest.raises(ValueError, match=r"must be uint8 of shape \(height, width\)"):
        embedder([np.zeros(shape, np.uint8)])
    with pytest.raises(ValueError, match="must be uint8 of shape"):
        rgb_picture(torch.zeros(5, 4, 3, dtype=torch.uint8))


def test_pictures_that_cannot_be_read_are_named(embedder, path, tmp_path):
    with pytest.raises(ImageError, match="'picture 1': "):
        embedder([path, b"no image"])
    (tmp_path / "cut.png").write_bytes(path.read_bytes()[:900])
    with (
        Image.open(tmp_path / "cut.png") as cut,
        pytest.raises(ImageError, match="'picture'"),
    ):
        embedder(cut)
    with pytest.raises(ImageError, match="no such file"):
        embedder("p")
    assert embedder([]).shape == (0, *embedder.feature_shape)
    small = Embedder(embedder.engine, Preprocess(size=32), max_file_bytes=100)
    for picture in (path, path.read_bytes()):
        with pytest.raises(ImageError, match="at most 100 bytes"):
            small(picture)


def test_a_list_of_files_is_for_embed(embedder, path):
    with pytest.raises(TypeError, match=r"got an ImageList; call embed\(images\)"):
        unwrap(Embedder.__call__)(embedder, list_images([path.parent]))


def test_files_and_bytes_are_told_apart(path, levels):
    np.testing.assert_array_equal(load_image(Path(path)), levels)
    np.testing.assert_array_equal(read_image(bytearray(path.read_bytes())), levels)
    with pytest.raises(TypeError, match="load_image expects a path, got bytes; read_image"):
        unwrap(load_image)(path.read_bytes())
    with pytest.raises(TypeError, match="read_image expects the bytes of a file, got str"):
        unwrap(read_image)(str(path))
