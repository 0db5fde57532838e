"""Attention and tokens equal what timm computes with whole matrices, for every kind of ViT."""

import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed

from dino_infer.networks import vit
from dino_infer.networks.build import ViTShape, build_backbone
from dino_infer.networks.positions import resampled_positions
from dino_infer.networks.rotary import RotaryViTBackbone
from dino_infer.networks.vit import ViTBackbone

TOLERANCE = 2e-6  # float32: sums in another order
GRADIENT_TOLERANCE = 1e-5  # of the largest entry
ROLLOUT_TOLERANCE = 1e-6  # of shares, which are about 1/patches

PLAIN = ViTShape(embed_dim=32, depth=4, num_heads=2)
REGISTERS = ViTShape(embed_dim=32, depth=4, num_heads=2, registers=3, layer_scale=True)


def _vit(shape):
    return build_backbone("vit", shape=shape, patch_size=8, image_size=48)


def _rotary():
    network = timm.create_model(
        "vit_small_patch16_dinov3", embed_dim=128, depth=3, num_heads=2, img_size=64,
        num_classes=0, global_pool="token",
    )  # fmt: skip
    return RotaryViTBackbone(network, arch="rotary", patch_size=16, image_size=64)


def _timm(**options):
    network = timm.models.vision_transformer.VisionTransformer(
        img_size=48, patch_size=8, embed_dim=32, depth=3, num_heads=2, num_classes=0, **options
    )
    return ViTBackbone(network, arch="other", patch_size=8, image_size=48)


KINDS = {"plain": lambda: _vit(PLAIN), "registers": lambda: _vit(REGISTERS), "rotary": _rotary}
RARE = {  # blocks of a kind that has to be computed in full, and settings that change a plain one
    "parallel": lambda: _timm(block_fn=timm.models.vision_transformer.ParallelScalingBlock),
    "norms after": lambda: _timm(block_fn=timm.models.vision_transformer.ResPostBlock),
    "normed queries": lambda: _timm(qk_norm=True, scale_attn_norm=True),
    "without biases": lambda: _timm(qkv_bias=False, proj_bias=False),
    "dropout": lambda: _timm(attn_drop_rate=0.2, proj_drop_rate=0.2),
}


@pytest.fixture
def double_precision():
    """Logits are up to 40 here: in float32 their rounding, by processor, passes the tolerance."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(params=KINDS)
def backbone(request):
    """A small ViT whose attention is far from uniform."""
    torch.manual_seed(0)
    backbone = KINDS[request.param]().eval()
    for name, weight in backbone.named_parameters():
        if "qkv.weight" in name:
            torch.nn.init.normal_(weight, std=0.3)
        elif "gamma" in name:
            torch.nn.init.constant_(weight, 0.5)
    return backbone


def images_of(backbone, height=None, width=None):
    """Two images, of the size that the positions are for by default."""
    side = backbone.image_size
    return torch.randn(2, 3, height or side, width or side)


def whole_matrices(backbone, run, images):
    """Attention of every block, (batch, heads, tokens, tokens), as timm forms it unfused."""
    matrices = []
    for block in backbone.network.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda m, i, o: matrices.append(o))
    with torch.no_grad():
        run(images)
    return matrices


def close(got, expected, tolerance=TOLERANCE):
    torch.testing.assert_close(got, expected, atol=tolerance, rtol=tolerance)


def test_attention_of_every_block_is_the_row_of_timm_s_matrix(backbone):
    images, prefix = images_of(backbone), backbone.num_prefix_tokens
    with torch.no_grad():
        by_layer = backbone.cls_attention_by_layer(images)
        single = [backbone.cls_attention(images, layer=i) for i in range(backbone.depth)]
    matrices = whole_matrices(backbone, backbone.network.forward_features, images)
    assert len(matrices) == backbone.depth and by_layer.shape[1] == backbone.depth
    for layer, matrix in enumerate(matrices):
        assert matrix[:, :, 0].amax() > 2 / matrix.shape[-1]  # not uniform
        close(by_layer[:, layer], matrix[:, :, 0, prefix:])
        close(single[layer], matrix[:, :, 0, prefix:])


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("layer", [0, -1])
def test_attention_of_patches_is_their_rows_of_timm_s_matrix(backbone, layer):
    images, prefix = images_of(backbone), backbone.num_prefix_tokens
    chosen = [5, 0, 5, 11]
    with torch.no_grad():
        got = backbone.patch_attention(images, chosen, layer=layer)
    matrix = whole_matrices(backbone, backbone.network.forward_features, images)[layer]
    rows = [prefix + patch for patch in chosen]
    close(got, matrix[:, :, rows, prefix:])


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("layer", [0, -1])
def test_keys_are_those_that_the_block_makes_before_positions_turn_them(backbone, layer):
    images, prefix = images_of(backbone), backbone.num_prefix_tokens
    made, block = [], backbone.network.blocks[layer]
    block.norm1.register_forward_hook(lambda m, i, o: made.append(o))
    with torch.no_grad():
        got = backbone.keys(images, layer=layer)
        backbone.tokens(images)
    dim = backbone.embed_dim
    bias = block.attn.qkv.bias
    expected = made[-1] @ block.attn.qkv.weight[dim : 2 * dim].T
    if bias is not None:
        expected = expected + bias[dim : 2 * dim]
    close(got, expected[:, prefix:])


def test_a_patch_that_does_not_exist_is_named(backbone):
    side = backbone.image_size // backbone.patch_size
    message = rf"\[0, {side**2 - 1}\] on a grid of {side} x {side}, got {side**2}"
    with pytest.raises(ValueError, match=message):
        backbone.patch_attention(images_of(backbone), [0, side**2])


@pytest.mark.parametrize(("height", "width"), [(None, None), (37, 50), (70, 33)])
@pytest.mark.parametrize("rows_bytes", [None, 1, 4000])
def test_rollout_is_the_product_of_whole_matrices(backbone, monkeypatch, height, width, rows_bytes):
    images, prefix = images_of(backbone, height, width), backbone.num_prefix_tokens
    if rows_bytes is not None:
        monkeypatch.setattr(vit, "ATTENTION_ROWS_BYTES", rows_bytes)
    with torch.no_grad():
        got = backbone.attention_rollout(images)
    rollout = None
    for matrix in whole_matrices(backbone, backbone.tokens, images):
        mixed = 0.5 * matrix.mean(1) + 0.5 * torch.eye(matrix.shape[-1])
        rollout = mixed if rollout is None else mixed @ rollout
    close(got, rollout[:, 0, prefix:], ROLLOUT_TOLERANCE)
    grid = backbone.grid_of(*images.shape[-2:])
    assert got.shape == (2, grid[0] * grid[1])
    assert (got.sum(1) < 1).all() and (got > 0).all()


@pytest.mark.parametrize("kind", [*KINDS, *RARE])
def test_a_class_token_computed_alone_is_that_among_all_tokens(kind):
    torch.manual_seed(0)
    backbone = (KINDS | RARE)[kind]().eval()
    images = images_of(backbone, 40, 56 if backbone.patch_size == 8 else 48)
    alone, among = backbone(images), backbone.tokens(images).cls
    close(alone, among)
    weights = [weight for weight in backbone.parameters() if weight.requires_grad]
    direction = torch.randn_like(among)  # squares would sum to the same for any weights
    pairs = (torch.autograd.grad((out * direction).sum(), weights) for out in (alone, among))
    for ours, theirs in zip(*pairs, strict=True):
        close(ours, theirs, GRADIENT_TOLERANCE * theirs.abs().max().clamp_min(1).item())


def test_stochastic_depth_drops_the_same_images():
    backbone = build_backbone(
        "vit", shape=PLAIN, patch_size=8, image_size=48, drop_path_rate=0.5
    ).train()
    images = torch.randn(16, 3, 48, 48)
    torch.manual_seed(1)
    alone = backbone(images)
    torch.manual_seed(1)
    close(alone, backbone.tokens(images).cls)


@pytest.mark.parametrize("size", [(None, None), (37, 50)])
def test_tokens_of_odd_sizes_are_those_of_whole_patches(backbone, size):
    images = images_of(backbone, *size)
    with torch.no_grad():
        tokens, attention = backbone.tokens(images), backbone.cls_attention(images)
    patch = backbone.patch_size
    grid = (images.shape[-2] // patch, images.shape[-1] // patch)
    assert tokens.grid == grid
    assert tokens.patches.shape == (2, grid[0] * grid[1], backbone.embed_dim)
    assert tokens.registers.shape[1] == backbone.num_prefix_tokens - 1
    assert attention.shape[-1] == grid[0] * grid[1]


def test_tokens_of_the_learned_size_are_timm_s(backbone):
    images = images_of(backbone)
    with torch.no_grad():
        tokens, expected = backbone.tokens(images), backbone.network.forward_features(images)
        close(backbone(images), expected[:, 0])
    got = torch.cat([tokens.cls[:, None], tokens.registers, tokens.patches], dim=1)
    close(got, expected)


def test_class_tokens_are_the_normed_first_tokens_of_the_last_blocks(backbone):
    images, outputs = images_of(backbone), []
    for block in backbone.network.blocks:
        block.register_forward_hook(lambda m, i, o: outputs.append(o))
    with torch.no_grad():
        backbone.network.forward_features(images)
        expected = [backbone.network.norm(x)[:, 0] for x in outputs]
        for last in (1, backbone.depth):
            got = backbone.class_tokens(images, last=last)
            close(got, torch.stack(expected[-last:], dim=1))
        close(got[:, -1], backbone(images))
    with pytest.raises(ValueError, match=rf"last must lie in \[1, {backbone.depth}\]"):
        backbone.class_tokens(images, last=backbone.depth + 1)


@pytest.mark.parametrize("grid", [(3, 7), (9, 4), (5, 5)])
def test_antialiased_positions_are_those_of_timm(grid):
    positions = torch.randn(1, 36, 5)
    expected = resample_abs_pos_embed(
        positions, list(grid), num_prefix_tokens=0, interpolation="bicubic", antialias=True
    )
    close(resampled_positions(positions, grid, how="antialiased"), expected)
    plain = resampled_positions(positions, grid, how="dino")
    assert (plain - expected).abs().max() > 0.01


def test_positions_that_form_no_square_are_refused():
    with pytest.raises(ValueError, match="must form a square, got 35"):
        resampled_positions(torch.randn(1, 35, 5), (3, 3))


def test_a_batch_of_no_image_has_empty_answers():
    backbone = build_backbone("vit_micro", patch_size=8, image_size=32).eval()
    none = torch.zeros(0, 3, 32, 32)
    with torch.no_grad():
        assert backbone(none).shape == (0, backbone.embed_dim)
        patches = backbone.tokens(none).patches.shape[1]
        assert backbone.attention_rollout(none).shape == (0, patches)
        assert backbone.cls_attention(none).shape[::2] == (0, patches)
