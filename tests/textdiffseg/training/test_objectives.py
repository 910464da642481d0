"""What a training step minimises, and which parts learn from it."""

import itertools
from dataclasses import replace

import pytest
import torch

from textdiffseg.data.loader import batch_keys
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


def test_shapes_that_do_not_change_change_no_loss(setting):
    """An estimate of every sample is used where it was drawn to be, and padded slots are asked for by nobody."""
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


def test_the_autoencoder_learns_from_the_samples_drawn_and_from_them_alone(setting):
    model, losses, image, slots, queries = setting
    draws = draw_for(model.plan, 3, batch_keys(0, 0, BATCH))
    assert len(set(draws.reconstructed.tolist())) == BATCH * model.plan.diffusion.reconstruction
    plain = losses(image, slots, queries, draws).reconstruction
    others = torch.ones(BATCH, dtype=torch.bool).index_fill(0, draws.reconstructed, False).view(-1, 1, 1, 1)
    assert losses(image, slots ^ others, queries, draws).reconstruction == plain
    assert losses(image, slots ^ ~others, queries, draws).reconstruction != plain


def test_what_the_diffusion_reads_of_the_latent_sends_no_gradient_to_its_encoder(setting):
    model, losses, image, slots, queries = setting
    found = losses(image, slots, queries, draw_for(model.plan, 3, batch_keys(0, 0, BATCH)))
    weights = tuple(model.label_encoder.parameters())
    for loss in (found.estimate, found.latent):
        assert torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True) == (None,) * len(weights)
    assert all(one.abs().max() > 0 for one in torch.autograd.grad(found.reconstruction, weights))
