"""The losses of a training step, and the modules that learn from them."""

import itertools
from dataclasses import replace

import pytest
import torch

from textdiffseg.data.batch import batch_keys
from textdiffseg.networks.model import build_model
from textdiffseg.queries import Queries
from textdiffseg.segmenter import Segmenter
from textdiffseg.training.draws import draw, draw_for
from textdiffseg.training.objectives import objective_of

BATCH = 4


@pytest.fixture
def setting(shapes_plan):
    """A model, its losses, and images, slots and queries."""
    torch.manual_seed(0)
    plan = shapes_plan("default")
    queries = Queries(
        torch.tensor([[1], [2], [2], [1]]),
        torch.randn(BATCH, 1, 8),
        torch.randn(BATCH, 3, 8),
        torch.ones(BATCH, 3, dtype=torch.bool),
    )
    image, slots = torch.randn(BATCH, 1, 16, 16, 16), torch.randint(0, 2, (BATCH, 16, 16, 16))
    model = build_model(plan)
    return model, objective_of(Segmenter.of(model)).losses, image, slots, queries


def test_constant_input_shapes_do_not_change_the_losses(setting):
    """Only drawn samples use an estimate of z_0, and padded slots do not count."""
    model, losses, image, slots, queries = setting
    diffusion = model.plan.diffusion.model_copy(update={"terminal_share": 0.5})
    drawn = (draw(diffusion, (4, 8, 8, 8), seed, batch_keys(0, 0, BATCH)) for seed in itertools.count())
    draws = next(one for one in drawn if len(one.estimated) == 1)
    assert len(draws.of_one_size(diffusion).estimated) == 2
    plain = losses(image, slots, queries, draws)
    fixed = losses(image, slots, queries.padded(2), draws.of_one_size(diffusion))
    torch.testing.assert_close(fixed.named(), plain.named())
    never = losses(image, slots, queries, replace(draws, recycled=draws.recycled & False))
    assert never.latent != plain.latent


def test_the_autoencoder_learns_only_from_the_drawn_samples(setting):
    model, losses, image, slots, queries = setting
    draws = draw_for(model.plan, 3, batch_keys(0, 0, BATCH))
    assert len(set(draws.reconstructed.tolist())) == BATCH * model.plan.diffusion.reconstruction
    plain = losses(image, slots, queries, draws).reconstruction
    others = torch.ones(BATCH, dtype=torch.bool).index_fill(0, draws.reconstructed, False).view(-1, 1, 1, 1)
    assert losses(image, slots ^ others, queries, draws).reconstruction == plain
    assert losses(image, slots ^ ~others, queries, draws).reconstruction != plain


def test_the_diffusion_loss_gives_the_label_encoder_no_gradient(setting):
    model, losses, image, slots, queries = setting
    found = losses(image, slots, queries, draw_for(model.plan, 3, batch_keys(0, 0, BATCH)))
    weights = tuple(model.label_encoder.parameters())
    for loss in (found.estimate, found.latent):
        assert torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True) == (None,) * len(weights)
    assert all(one.abs().max() > 0 for one in torch.autograd.grad(found.reconstruction, weights))
