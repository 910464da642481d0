"""What a block promises beyond the shapes that `test_model.py` sees."""

import pytest
import torch

from textdiffseg.networks.blocks import TextProjection


@pytest.mark.parametrize("width", [64, 768])
def test_a_text_layer_starts_at_variance_one_and_moves_as_slowly_as_other_layers(width):
    rate = 1e-2
    vectors = torch.randn(200, width, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    layer = TextProjection(width, 100)
    before = layer(vectors).detach()
    assert before.std().item() == pytest.approx(1, rel=0.1)
    optimiser = torch.optim.AdamW(layer.parameters(), rate, weight_decay=0)
    layer(vectors[:1]).sum().backward()
    optimiser.step()
    moved = (layer(vectors) - before).abs()
    assert moved[0].max().item() < 2.5 * rate  # its weights and its bias, about a rate each
    assert moved[1:].mean().item() < 1.5 * rate  # other words by little more than the bias
