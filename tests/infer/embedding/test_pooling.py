"""Features are what their names say, and a backbone is asked only for those that it has."""

import pytest
import torch

from dino_infer.embedding.pooling import FEATURES, check_feature, feature_of, pooled
from dino_infer.networks.build import build_backbone, vision_transformer


@pytest.fixture
def tokens():
    torch.manual_seed(0)
    return torch.randn(2, 5), torch.randn(2, 7, 5)


def test_the_generalised_mean_lies_between_mean_and_maximum(tokens):
    cls, patches = tokens
    positive = patches.abs() + 0.1
    gem = pooled(cls, positive, "gem")
    assert (gem > positive.mean(1)).all() and (gem < positive.amax(1)).all()
    by_hand = sum(positive[:, i] ** 4 for i in range(7)).div(7) ** 0.25
    torch.testing.assert_close(gem, by_hand)


def test_the_generalised_mean_of_negative_tokens_is_a_number(tokens):
    cls, patches = tokens
    assert torch.isfinite(pooled(cls, -patches.abs(), "gem")).all()


def test_the_generalised_mean_is_float32_whatever_the_tokens_are(tokens):
    cls, patches = tokens
    half = pooled(cls.half(), (20 * patches.abs()).half(), "gem")  # 20**4 overflows float16
    assert half.dtype == torch.float32 and torch.isfinite(half).all()


def test_tokens_of_the_last_block_do_not_make_up_every_feature(tokens):
    cls, patches = tokens
    assert torch.equal(pooled(cls, patches, "cls"), cls)
    assert torch.equal(pooled(cls, patches, "patches"), patches)
    assert pooled(cls, patches, "cls+mean").shape == (2, 10)
    both = torch.cat([cls, pooled(cls, patches, "gem")], dim=1)
    assert torch.equal(pooled(cls, patches, "cls+gem"), both)
    with pytest.raises(ValueError, match="'last4' is not made of the last block's tokens"):
        pooled(cls, patches, "last4")


def test_a_network_of_fewer_blocks_has_no_last4():
    backbone = vision_transformer(embed_dim=24, depth=3, num_heads=3, patch_size=4, image_size=16)
    with pytest.raises(ValueError, match=r"last must lie in \[1, 3\], blocks of"):
        feature_of(backbone.eval(), torch.zeros(1, 3, 16, 16), "last4")


@pytest.mark.parametrize("last", [1, 2, 3])
def test_the_class_tokens_of_the_last_blocks_come_before_the_mean_patch(last):
    # The original interleaves them, and with several blocks it ends with an error.
    torch.manual_seed(0)
    vit = vision_transformer(embed_dim=24, depth=3, num_heads=3, patch_size=4, image_size=16).eval()
    images = torch.randn(2, 3, 16, 16)
    rows = feature_of(vit, images, f"last{last}+mean")
    assert rows.shape == (2, 24 * (last + 1))
    tokens, blocks = vit.tokens(images), vit.class_tokens(images, last=last)
    torch.testing.assert_close(rows[:, 24 * (last - 1) : 24 * last], tokens.cls)
    torch.testing.assert_close(rows[:, -24:], tokens.patches.mean(1))
    torch.testing.assert_close(rows[:, : 24 * last].unflatten(1, (last, 24)), blocks)
    assert torch.equal(feature_of(vit, images, f"last{last}"), rows[:, : 24 * last])


@pytest.mark.parametrize("feature", ["last0", "last", "last04", "last4+", "mean+last4", "last-1"])
def test_blocks_are_counted_from_one(feature):
    with pytest.raises(ValueError, match="or lastN or lastN.mean for the last N blocks, got"):
        check_feature(feature, arch="vit", has_patches=True)


def test_more_blocks_than_a_network_has_are_refused_before_it_runs():
    with pytest.raises(ValueError, match="'last13.mean' needs 13 blocks, and 'vit' has 12"):
        check_feature("last13+mean", arch="vit", has_patches=True, depth=12)
    check_feature("last12+mean", arch="vit", has_patches=True, depth=12)


def test_a_convnet_has_its_pooled_features_alone():
    resnet = build_backbone("resnet_micro").eval()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(feature_of(resnet, images, "cls"), resnet(images))
    for feature in {*FEATURES, "last1", "last2+mean"} - {"cls"}:
        with pytest.raises(ValueError, match="tokens, and 'resnet_micro' has none; use 'cls'"):
            check_feature(feature, arch="resnet_micro", has_patches=False)


def test_an_unknown_feature_is_told_the_known_ones():
    with pytest.raises(ValueError, match="one of cls, mean, .*, patches, or lastN"):
        check_feature("max", arch="vit", has_patches=True)
