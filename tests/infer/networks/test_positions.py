"""Position embeddings are resampled as the original does."""

import torch
import torch.nn.functional as F

from dino_infer.networks.positions import resampled_positions
from tests.infer.networks.small import small_vit


def test_positions_are_resampled_by_scale_factors_with_the_offset():
    positions = torch.randn(1, 16, 5)
    square = positions.reshape(1, 4, 4, 5).permute(0, 3, 1, 2)
    ours = resampled_positions(positions, (3, 7)).reshape(1, 3, 7, 5).permute(0, 3, 1, 2)
    scale = ((3 + 0.1) / 4, (7 + 0.1) / 4)
    expected = F.interpolate(square, scale_factor=scale, mode="bicubic", align_corners=False)
    torch.testing.assert_close(ours, expected)
    plain = F.interpolate(square, size=(3, 7), mode="bicubic", align_corners=False)
    assert (ours - plain).abs().max() > 0.01


def test_the_learned_grid_is_used_as_it_is_for_square_images_only():
    backbone = small_vit()
    square, wide = torch.randn(1, 3, 16, 16), torch.randn(1, 3, 16, 19)
    backbone(square)  # both have a 4 x 4 grid
    cropped = wide[..., :16]
    assert not torch.equal(backbone(wide), backbone(cropped))
