"""Objects of photographs, from a network to masks and boxes."""

import numpy as np
import pytest
import torch

from dino_infer.attention.grids import whole_image
from dino_infer.attention.views import view_of
from dino_infer.choices import OBJECT_METHODS
from dino_infer.errors import CheckpointError
from dino_infer.images.preprocess import Preprocess
from dino_infer.networks.build import build_backbone
from dino_infer.objects.find import find_objects, objects_in, patch_keys
from dino_infer.objects.lost import lost
from dino_infer.objects.maskcut import mask_cut
from dino_infer.objects.tokencut import token_cut
from tests.infer.networks.small import small_vit

IMAGE = np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8)


@pytest.fixture
def network():
    torch.manual_seed(0)
    backbone = small_vit(embed_dim=24)
    preprocess = whole_image(Preprocess(), size=24, patch_size=4)
    return {"backbone": backbone, "preprocess": preprocess}


@pytest.mark.parametrize("method", OBJECT_METHODS)
def test_each_method_finds_objects_in_the_whole_image(network, method):
    found = find_objects(IMAGE, method=method, **network)
    assert found.grid == (6, 8) and found.picture.shape == (24, 32, 3)
    assert found.masks.shape == (len(found.objects), 6, 8)
    keys = patch_keys(IMAGE, **network).keys
    one = token_cut(keys)
    direct = {"tokencut": [one] if one else [], "lost": [lost(keys)], "maskcut": mask_cut(keys)}
    assert [one.mask.tolist() for one in found.objects] == [
        one.mask.tolist() for one in direct[method]
    ]


def test_the_box_of_an_object_is_in_pixels_of_the_image(network):
    view = view_of(37, 50, preprocess=network["preprocess"], patch_size=4)
    (one,) = find_objects(IMAGE, method="lost", **network).objects
    box = one.box(view)
    rows, columns = (places.tolist() for places in np.nonzero(one.mask))
    assert box[:4] == view.box(min(rows), min(columns), max(rows) + 1, max(columns) + 1)
    assert 0 <= box.x0 < box.x1 <= 50 and 0 <= box.y0 < box.y1 <= 37


def test_keys_of_another_block_can_be_asked_for(network):
    first, last = (patch_keys(IMAGE, layer=layer, **network).keys for layer in (0, -1))
    assert first.shape == last.shape == (6, 8, 24) and abs(first - last).max() > 0.01


def test_an_image_without_an_object_has_no_masks(network):
    keys = np.ones((3, 4, 2), dtype=np.float32)
    assert objects_in(keys, "tokencut") == objects_in(keys, "maskcut") == ()


def test_damaged_weights_are_named(network):
    with torch.no_grad():
        network["backbone"].network.blocks[0].mlp.fc1.weight[0, 0] = float("nan")
    with pytest.raises(CheckpointError, match="keys of 'a.jpg' hold NaN .* weights are damaged"):
        find_objects(IMAGE, path="a.jpg", **network)


def test_a_network_without_patches_is_refused(network):
    with pytest.raises(CheckpointError, match="needs a Vision Transformer"):
        find_objects(IMAGE, backbone=build_backbone("resnet18"), preprocess=Preprocess(size=32))
