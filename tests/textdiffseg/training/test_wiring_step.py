"""The denoiser reads its noisy residual, its level of noise and its conditions, in every block that should."""

from itertools import pairwise

import pytest
import torch

from textdiffseg.data.batch import batch_keys
from textdiffseg.networks.blocks import ResidualBlock
from textdiffseg.networks.model import build_model
from textdiffseg.queries import Queries
from textdiffseg.training.objectives import objective_of


@pytest.fixture
def setting(shapes_plan):
    """A model far from its start, and the inputs of a step on four samples."""
    torch.manual_seed(0)
    plan = shapes_plan("default").model_copy(update={"patch": (8, 8, 8)})
    model = build_model(plan)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    words = torch.randn(4, 1, 8), torch.randn(4, 3, 8), torch.ones(4, 3, dtype=torch.bool)
    queries = Queries(torch.tensor([[1], [2], [2], [1]]), *words)
    return model, torch.randn(4, 1, 8, 8, 8), torch.randint(0, 2, (4, 8, 8, 8)), queries


def latents():
    """r_t, m and the mask's features."""
    return torch.randn(1, 4, 4, 4, 4), torch.randn(1, 4, 4, 4, 4), torch.randn(1, 8, 4, 4, 4)


def timed_blocks(model) -> list[ResidualBlock]:
    return [part for part in model.denoiser.modules() if getattr(part, "film", None) is not None]


@torch.no_grad()
def test_the_output_of_each_time_conditioned_block_depends_on_t(setting):
    """If only one block reads t, the whole output depends on it."""
    model, (r_t, m, g_1) = setting[0], latents()
    parts = timed_blocks(model)
    assert len(parts) == 3, "two stages down, one up"
    for part in parts:
        for other in parts:
            other.film.weight.normal_(0, 0.3) if other is part else other.film.weight.zero_()
        found = [model.denoise(r_t, torch.tensor([t]), (m, g_1)) for t in (0.0, 0.002, 0.5, 0.502, 0.998, 1.0)]
        for one, later in pairwise(found):
            assert (one - later).abs().max() > 1e-4


def test_every_time_conditioned_block_learns_to_read_t(setting):
    model = build_model(setting[0].plan)
    assert not model.denoiser.out.weight.any(), "the output starts at 0"
    torch.nn.init.normal_(model.denoiser.out.weight)  # as after the first step
    objective = objective_of(model, samples=True)
    objective.losses(*setting[1:], objective.draw(0, batch_keys(0, 0, 4))).total.backward()
    assert len(timed_blocks(model)) == 3
    for part in timed_blocks(model):
        assert not part.film.weight.any()
        assert not part.film.bias.any()
        assert part.film.weight.grad.abs().max() > 0


@torch.no_grad()
@pytest.mark.parametrize("changed", [0, 1, 2], ids=["residual", "mask", "image"])
def test_the_denoiser_reads_each_of_its_inputs(setting, changed):
    model, given, t = setting[0], list(latents()), torch.tensor([0.5])
    plain = model.denoise(given[0], t, given[1:])
    given[changed] = given[changed] + torch.randn_like(given[changed])
    assert (model.denoise(given[0], t, given[1:]) - plain).abs().max() > 1e-2


def test_the_estimator_has_no_time(setting):
    model = setting[0]
    assert model.estimator.time is None
    assert not [part for part in model.estimator.modules() if getattr(part, "film", None) is not None]
