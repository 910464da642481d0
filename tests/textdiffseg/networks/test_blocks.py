import pytest
import torch

from textdiffseg.networks.blocks import Attention, positions


@pytest.mark.parametrize("width", [64, 96, 16])
def test_positions_tell_all_places_of_a_grid_apart(width):
    told = positions(torch.zeros(1, width, 10, 14, 10)).flatten(1).T
    assert told.shape[1] == width
    assert torch.cdist(told, told).fill_diagonal_(1).min() > 0.05


def test_self_attention_knows_where_it_is_and_attention_to_words_does_not():
    torch.manual_seed(0)
    grid = torch.randn(1, 32, 4, 5, 6)
    moved = grid.roll(2, dims=3)
    tokens = torch.randn(1, 7, 12)
    words, itself = Attention(32, text_width=12), Attention(32)
    torch.testing.assert_close(words(moved, tokens), words(grid, tokens).roll(2, dims=3))
    assert not torch.allclose(itself(moved), itself(grid).roll(2, dims=3), atol=1e-3)
