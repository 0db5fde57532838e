"""The attention object is what the functions below it give, for one picture and for many."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from dino_infer import Embedder, attention_maps, find_objects, rollout_maps
from dino_infer.attention.grids import whole_image
from dino_infer.errors import CheckpointError
from dino_infer.images.preprocess import Preprocess
from dino_infer.networks.build import build_backbone
from tests.infer.pixel_engine import PixelEngine

TOLERANCE = 1e-6  # float32 sums in another order


@pytest.fixture(scope="module")
def embedder(weights):
    return Embedder.load(weights, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def cat():
    from skimage import data

    return data.chelsea()[::3, ::3]


def network(embedder, size=64):
    return {
        "backbone": embedder.engine.backbone,
        "preprocess": whole_image(embedder.preprocess, size=size, patch_size=8),
    }


def test_maps_and_masks_are_those_of_the_functions(embedder, cat):
    found = embedder.attention(cat, size=64, layer=0, mass=0.5)
    expected = attention_maps(cat, **network(embedder), layer=0, mass=0.5)
    assert np.array_equal(found.maps, expected.heads)
    assert np.array_equal(found.masks, expected.masks)
    asked = embedder.attention(cat, size=64, query=(80, 40))
    assert asked.look.query == asked.view.patch_at(80, 40)
    rollout = embedder.attention(cat, size=64, rollout=True)
    assert np.array_equal(rollout.maps, rollout_maps(cat, **network(embedder)).heads)
    with pytest.raises(ValueError, match="no `layer` or `query`"):
        embedder.attention(cat, rollout=True, layer=2)


def test_many_pictures_give_a_list_that_a_path_names_itself_in(embedder, cat, tmp_path):
    Image.fromarray(cat).save(tmp_path / "cat.png")
    path = str(tmp_path / "cat.png")
    one, other = embedder.attention([path, Image.fromarray(cat[:, ::-1])], size=64)
    assert (one.path, other.path) == (path, "picture 1")
    assert np.allclose(one.maps, embedder.attention(path, size=64).maps, atol=TOLERANCE)
    assert not np.array_equal(one.maps, other.maps)
    assert embedder.attention([], size=64) == []


@pytest.mark.parametrize("how", [{"layer": 0}, {"query": (80, 40)}, {"rollout": True}])
def test_pictures_of_one_size_share_forward_passes_and_keep_their_order(embedder, cat, how):
    large = cat.repeat(2, axis=0).repeat(2, axis=1)  # seen as large, asked elsewhere by a query
    pictures = [cat, cat[:, :90], cat[::-1], large, cat[::-1, :90]]
    asked, passes = [2, 2, 1] if "query" in how else [3, 2], []
    counting = embedder.engine.backbone.network.patch_embed.proj.register_forward_hook(
        lambda _, args, __: passes.append(len(args[0]))
    )
    with counting:
        together = embedder.attention(pictures, size=64, **how)
    assert sorted(passes, reverse=True) == asked
    for picture, found in zip(pictures, together, strict=True):
        alone = embedder.attention(picture, size=64, **how)
        assert np.array_equal(found.look.picture, alone.look.picture)
        assert found.look.query == alone.look.query
        assert np.allclose(found.maps, alone.maps, atol=TOLERANCE)


def test_overlay_sheet_and_notebook_show_the_picture(embedder, cat):
    found = embedder.attention(cat, size=64)
    overlay = found.overlay()
    assert overlay.size == found.look.picture.shape[1::-1]
    assert found.overlay("all").width > 2 * overlay.width
    assert found.sheet().width > found.sheet().height
    shown = np.asarray(Image.open(io.BytesIO(found._repr_png_())))
    assert np.array_equal(shown, np.asarray(overlay))
    assert repr(found) == "Attention('picture', 4 heads of [CLS] over 8 x 12 patches)"


def test_boxes_and_objects_lie_in_pixels_of_the_picture(embedder, cat):
    found = embedder.attention(cat, size=64)
    height, width = cat.shape[:2]
    boxes = found.boxes()
    assert boxes and all(0 <= box.x0 < box.x1 <= width for box in boxes)
    assert all(0 <= box.y0 < box.y1 <= height for box in boxes)
    objects = found.objects("lost")
    expected = find_objects(cat, **network(embedder), method="lost")
    assert np.array_equal(objects.masks, expected.masks)
    assert repr(objects) == "ObjectMasks(1 objects in 8 x 12 patches)"
    assert objects.overlay().size == Image.open(io.BytesIO(objects._repr_png_())).size


def test_networks_without_attention_are_refused():
    with pytest.raises(CheckpointError, match="needs weights in PyTorch"):
        Embedder(PixelEngine(), Preprocess(size=32)).attention(np.zeros((32, 32, 3), np.uint8))
    torch.manual_seed(0)
    convnet = build_backbone("resnet_micro")
    convnet_embedder = Embedder(convnet, Preprocess(size=32), device="cpu")
    with pytest.raises(CheckpointError, match="needs a Vision Transformer"):
        convnet_embedder.attention(np.zeros((32, 32, 3), np.uint8))
