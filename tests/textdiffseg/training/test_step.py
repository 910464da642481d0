"""What a training step draws, in the shapes that a device likes."""

from dataclasses import replace

import torch

from textdiffseg.diffusion.schedule import Schedule
from textdiffseg.networks.model import build_model
from textdiffseg.queries import Queries
from textdiffseg.training.step import draw_for, losses

BATCH = 4


def test_shapes_that_do_not_change_change_no_loss(shapes_plan):
    """An estimate of every sample is used where it was drawn to be, and padded slots are asked for by nobody."""
    torch.manual_seed(0)
    plan = shapes_plan("default")
    model, schedule = build_model(plan), Schedule.of(plan.diffusion)
    queries = Queries(
        torch.tensor([[1], [2], [2], [1]]),
        torch.randn(BATCH, 1, 8),
        torch.randn(BATCH, 3, 8),
        torch.ones(BATCH, 3, dtype=torch.bool),
    )
    image, slots = torch.randn(BATCH, 1, 16, 16, 16), torch.randint(0, 2, (BATCH, 16, 16, 16))
    draws = draw_for(model, BATCH, torch.Generator().manual_seed(3))
    assert 0 < len(draws.estimated) < BATCH
    assert len(draws.of_one_size().estimated) == BATCH
    plain = losses(model, schedule, image, slots, queries, draws)
    fixed = losses(model, schedule, image, slots, queries.padded(2), draws.of_one_size())
    torch.testing.assert_close(fixed.named(), plain.named())
    never = losses(model, schedule, image, slots, queries, replace(draws, recycled=draws.recycled & False))
    assert never.latent != plain.latent
