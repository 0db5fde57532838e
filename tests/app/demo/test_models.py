import numpy as np
import pytest
import torch
from skimage import data

from dino_app.demo.models import LOOKS, Models, pixel_hash
from dino_infer.attention.maps import attention_maps
from dino_infer.attention.patches import patch_tokens
from dino_infer.attention.views import MAX_PATCHES
from dino_infer.errors import CheckpointError, ImageError
from tests.app.demo.tiny import noise, weights_file

EXACT = 1e-6  # of attention and tokens in float32


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    return [weights_file(folder, seed=3), weights_file(folder, "resnet_micro")]


@pytest.fixture
def model(weights):
    models = Models(weights, "cpu")
    return models.model(models.names[0])


@pytest.fixture
def passes(model):
    """How many forward passes have begun."""
    count = []
    hook = model.backbone.network.patch_embed.proj.register_forward_hook(lambda *_: count.append(1))
    yield count
    hook.remove()


def test_a_look_is_what_the_library_says_of_the_image(model):
    cat = data.chelsea()
    look = model.look(cat, size=64)
    shared = {"backbone": model.backbone, "preprocess": model.preprocess(64)}
    for layer in (0, -1):
        expected = attention_maps(cat, layer=layer, **shared)
        assert np.allclose(look.attention[layer], expected.heads, atol=EXACT)
    assert np.array_equal(look.picture, expected.picture)
    assert np.allclose(look.tokens, patch_tokens(cat, **shared).tokens, atol=1e3 * EXACT)
    assert look.attention.shape == (6, 4, look.view.rows, look.view.columns)
    assert look.shown.shape == (480, 722, 3)


def test_attention_and_tokens_cost_one_pass_each_and_no_second_one(model, passes):
    image = noise(64, 64)
    for _ in range(3):
        look = model.look(image.copy(), size=64)
        assert look.attention.any() and look.tokens.any()
    assert len(passes) == 2
    assert model.look(image, size=72).attention.any()  # another resolution is another look
    assert len(passes) == 3


def test_only_the_pictures_seen_last_are_remembered(model):
    first = model.look(noise(16, 16), size=16)
    for seed in range(1, LOOKS + 1):
        model.look(noise(16, 16, seed=seed), size=16)
    assert model.look(noise(16, 16, seed=LOOKS), size=16) is not first
    assert model.look(noise(16, 16), size=16) is not first
    assert len(model._looks) == LOOKS


def test_pictures_with_the_same_pixels_in_another_shape_are_told_apart():
    image = noise(4, 6)
    assert pixel_hash(image) != pixel_hash(image.reshape(6, 4, 3))
    assert pixel_hash(image) == pixel_hash(image.copy())


def test_too_many_patches_are_refused_before_a_pass(model, passes):
    with pytest.raises(ImageError, match=f"more than the {MAX_PATCHES} that are looked at"):
        model.look(noise(8, 60_000), size=8 * 2)
    assert not passes


def test_an_untrained_network_is_the_same_each_time_and_another_one(weights, model):
    names = Models(weights[:1], "cpu").names_with_untrained
    assert names == ("vit_micro_3.safetensors", "vit_micro_3.safetensors (untrained)")
    one, two = (Models(weights[:1], "cpu").model(names[1]) for _ in range(2))
    image = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(one.backbone(image), two.backbone(image))
        assert not torch.equal(one.backbone(image), model.backbone(image))


def test_the_generator_of_the_caller_is_left_alone_by_an_untrained_network(weights):
    models = Models(weights[:1], "cpu")
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    models.model(models.names_with_untrained[1])
    assert torch.equal(torch.rand(1), expected)


def test_only_the_first_network_is_loaded_at_once(weights, tmp_path):
    models = Models([weights[0], str(tmp_path / "missing.safetensors")], "cpu")
    with pytest.raises(CheckpointError):
        models.model("missing.safetensors")
    with pytest.raises(CheckpointError):
        Models([str(tmp_path / "missing.safetensors"), weights[0]], "cpu")
    with pytest.raises(ValueError, match=r"model must be one of \['vit_micro_3.*got 'other'"):
        models.model("other")
    with pytest.raises(ValueError, match="at least one"):
        Models([], "cpu")


def test_names_are_the_shortest_endings_that_tell_networks_apart(weights, tmp_path):
    others = ["runs/a/checkpoint.safetensors", "runs/b/checkpoint.safetensors", "x/run", "y/run",
              "timm:vit_small_patch16_224.dino", weights[0]]  # fmt: skip
    assert Models([weights[0], *others], "cpu").names == (
        "vit_micro_3.safetensors", "a/checkpoint.safetensors", "b/checkpoint.safetensors", "x/run",
        "y/run", "vit_small_patch16_224.dino",
    )  # fmt: skip


def test_small_networks_are_shown_smaller_pictures(model):
    assert model.default_size == 256  # learned on 32 px


def test_a_convnet_has_no_attention_and_no_heads(weights):
    models = Models(weights[::-1], "cpu")
    convnet = models.model(models.names[0])
    assert (convnet.has_attention, convnet.heads) == (False, 0)
