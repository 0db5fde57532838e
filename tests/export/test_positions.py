"""Position embeddings in a graph against those of PyTorch's own resampling."""

import pytest
import torch

from dino_export.positions import resampled_in_graph
from dino_infer.networks.positions import resampled_positions

GRIDS = [(4, 4), (5, 4), (1, 1), (1, 9), (12, 3), (30, 41)]

# Sampling points are float32 in both, so a random table differs by its slope times their rounding.
ROUNDING = {"rtol": 0, "atol": 2e-5}


@pytest.mark.parametrize("how", ["dino", "antialiased"])
@pytest.mark.parametrize("grid", GRIDS)
def test_any_grid_is_resampled_as_pytorch_does(how, grid):
    table = torch.randn(1, 16, 8)
    found = resampled_in_graph(table.view(4, 4, 8), grid, square=False, how=how)
    expected = resampled_positions(table, grid, how=how)
    torch.testing.assert_close(found, expected[0], **ROUNDING)


@pytest.mark.parametrize("how", ["dino", "antialiased"])
def test_a_square_image_of_the_learned_grid_gets_the_table_itself(how):
    table = torch.randn(6, 6, 8)
    found = resampled_in_graph(table, (6, 6), square=True, how=how)
    assert torch.equal(found, table.flatten(0, 1))


def test_an_oblong_image_of_the_learned_grid_is_shifted_as_the_original_does():
    table = torch.randn(6, 6, 8)
    found = resampled_in_graph(table, (6, 6), square=False, how="dino")
    assert (found - table.flatten(0, 1)).abs().max() > 0.01
