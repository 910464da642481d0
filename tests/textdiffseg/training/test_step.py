"""What a training step draws, in the shapes that a device likes."""

import itertools
from dataclasses import replace

import pytest
import torch

from plans.plan import DiffusionPlan
from textdiffseg.data.loader import batch_keys
from textdiffseg.diffusion.schedule import Schedule
from textdiffseg.networks.model import build_model
from textdiffseg.queries import Queries
from textdiffseg.training.step import draw, draw_for, losses, most_recycled

BATCH = 4


@pytest.fixture
def setting(shapes_plan):
    """A model, its schedule, and images, slots and queries."""
    torch.manual_seed(0)
    plan = shapes_plan("default")
    queries = Queries(
        torch.tensor([[1], [2], [2], [1]]),
        torch.randn(BATCH, 1, 8),
        torch.randn(BATCH, 3, 8),
        torch.ones(BATCH, 3, dtype=torch.bool),
    )
    image, slots = torch.randn(BATCH, 1, 16, 16, 16), torch.randint(0, 2, (BATCH, 16, 16, 16))
    return build_model(plan), Schedule.of(plan.diffusion), image, slots, queries


def test_shapes_that_do_not_change_change_no_loss(setting):
    """An estimate of every sample is used where it was drawn to be, and padded slots are asked for by nobody."""
    model, schedule, image, slots, queries = setting
    diffusion = model.plan.diffusion.model_copy(update={"terminal_share": 0.5})
    drawn = (draw(diffusion, (4, 8, 8, 8), seed, batch_keys(0, 0, BATCH)) for seed in itertools.count())
    draws = next(one for one in drawn if len(one.estimated) == 1)
    assert len(draws.of_one_size(diffusion).estimated) == 2
    plain = losses(model, schedule, image, slots, queries, draws)
    fixed = losses(model, schedule, image, slots, queries.padded(2), draws.of_one_size(diffusion))
    torch.testing.assert_close(fixed.named(), plain.named())
    never = losses(model, schedule, image, slots, queries, replace(draws, recycled=draws.recycled & False))
    assert never.latent != plain.latent


def test_no_more_samples_are_recycled_than_shapes_have_room_for():
    plan = DiffusionPlan(terminal_share=0.5, recycling=0.5)
    drawn = [draw(plan, (2, 4, 4, 4), seed, batch_keys(0, 0, 6)) for seed in range(200)]
    counts = [int(one.recycled.sum()) for one in drawn]
    assert max(counts) == most_recycled(plan, 6) == 3
    assert 1.2 < sum(counts) / len(counts) < 1.6, "a quarter of six, less what found no room"
    for one in drawn:
        assert one.recycled[one.estimated].all()
        assert one.recycled.sum() == len(one.estimated)
        assert set(one.estimated.tolist()) <= set(one.of_one_size(plan).estimated.tolist())


def test_the_autoencoder_learns_from_the_samples_drawn_and_from_them_alone(setting):
    model, schedule, image, slots, queries = setting
    draws = draw_for(model, 3, batch_keys(0, 0, BATCH))
    assert len(set(draws.reconstructed.tolist())) == BATCH * model.plan.diffusion.reconstruction
    plain = losses(model, schedule, image, slots, queries, draws).reconstruction
    others = torch.ones(BATCH, dtype=torch.bool).index_fill(0, draws.reconstructed, False).view(-1, 1, 1, 1)
    assert losses(model, schedule, image, slots ^ others, queries, draws).reconstruction == plain
    assert losses(model, schedule, image, slots ^ ~others, queries, draws).reconstruction != plain


def test_what_the_diffusion_reads_of_the_latent_sends_no_gradient_to_its_encoder(setting):
    model, schedule, image, slots, queries = setting
    found = losses(model, schedule, image, slots, queries, draw_for(model, 3, batch_keys(0, 0, BATCH)))
    weights = tuple(model.label_encoder.parameters())
    for loss in (found.estimate, found.latent):
        assert torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True) == (None,) * len(weights)
    assert all(one.abs().max() > 0 for one in torch.autograd.grad(found.reconstruction, weights))
