"""Muon: the weights that it updates, and the size and direction of its updates."""

import pytest
import torch
from torch import nn

from textdiffseg.training.optimisers import UPDATE_RMS, Muon, optimisers_of, orthogonal


@pytest.mark.parametrize("shape", [(12, 60), (8, 200), (200, 8), (1, 30)])
def test_singular_values_become_nearly_one_and_singular_vectors_stay(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    (found,) = orthogonal([matrix])
    assert torch.linalg.svdvals(found).min() > 0.6
    assert torch.linalg.svdvals(found).max() < 1.3
    turned = left.mT @ found @ right.mT
    off = turned - turned.diagonal().diag()
    assert off.abs().max() < 1e-3


def test_the_factored_iteration_equals_the_published_one():
    x = torch.randn(20, 70, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x[-1] *= 1e-3  # a direction that is hardly there
    expected = x / x.norm()
    for _ in range(5):
        square = expected @ expected.mT
        expected = 3.4445 * expected + (-4.7750 * square + 2.0315 * square @ square) @ expected
    (found,) = orthogonal([x.float()])
    assert torch.allclose(found.double(), expected, atol=2e-4)


def test_weights_without_a_gradient_do_not_change():
    assert orthogonal([torch.zeros(5, 9)])[0].eq(0).all()
    weight = nn.Parameter(torch.ones(4, 6))
    optimiser = Muon([weight], lr=0.1, weight_decay=0.0)
    optimiser.step()
    weight.grad = torch.zeros(4, 6)
    optimiser.step()
    assert weight.eq(1).all()


def test_a_closure_computes_the_gradients_and_its_loss_is_returned():
    generator = torch.Generator().manual_seed(4)
    weight = nn.Parameter(torch.randn(4, 6, generator=generator))
    alike = nn.Parameter(weight.detach().clone())
    optimiser, other = Muon([weight], lr=0.1, weight_decay=0.1), Muon([alike], lr=0.1, weight_decay=0.1)

    def closure():
        loss = weight.square().sum()
        loss.backward()
        return loss.item()

    expected = alike.square().sum()
    expected.backward()
    assert other.step() is None
    assert optimiser.step(closure) == expected.item()
    assert torch.equal(weight, alike)


@pytest.mark.parametrize("shape", [(32, 16, 3, 3, 3), (16, 1, 3, 3, 3), (64, 1, 1, 3, 3), (64, 64), (8, 40)])
def test_the_size_of_an_update_does_not_depend_on_the_shape(shape):
    weight = nn.Parameter(torch.zeros(shape))
    weight.grad = torch.randn(shape, generator=torch.Generator().manual_seed(2)) * 1e-3
    Muon([weight], lr=0.01, weight_decay=0.0).step()
    assert weight.square().mean().sqrt().item() == pytest.approx(0.01 * UPDATE_RMS, rel=0.25)
    assert (weight * weight.grad).sum() < 0, "downhill"


def test_weights_that_are_updated_together_change_as_if_alone():
    generator = torch.Generator().manual_seed(3)
    shapes = (6, 4, 3), (6, 30), (20, 6), (6, 4, 3), (5, 6)
    together = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    alone = [nn.Parameter(weight.detach().clone()) for weight in together]
    optimisers = Muon(together, lr=0.1, weight_decay=0.1), *(Muon([one], lr=0.1, weight_decay=0.1) for one in alone)
    for _ in range(3):
        for weight, other in zip(together, alone, strict=True):
            weight.grad = torch.randn(weight.shape, generator=generator)
            other.grad = weight.grad.clone()
        for optimiser in optimisers:
            optimiser.step()
    for weight, other in zip(together, alone, strict=True):
        assert torch.allclose(weight, other, atol=1e-5)


def test_matrices_go_to_muon_and_the_rest_to_adamw(shapes_plan):
    model = nn.Sequential(nn.Conv3d(2, 8, 3), nn.GroupNorm(2, 8), nn.Linear(8, 4))
    training = shapes_plan("default").training
    muon, adamw = optimisers_of(model, training)
    assert [tuple(one.shape) for one in muon.param_groups[0]["params"]] == [(8, 2, 3, 3, 3), (4, 8)]
    assert sum(one.numel() for one in adamw.param_groups[0]["params"]) == 8 + 8 + 8 + 4
    (only,) = optimisers_of(model, training.model_copy(update={"optimiser": "adamw"}))
    assert len(only.param_groups[0]["params"]) == len(list(model.parameters()))


def test_decay_shrinks_a_weight_without_a_gradient_by_the_rate_times_the_plan_s_decay(shapes_plan):
    """Decoupled, in Muon and in AdamW."""
    model, training = nn.Linear(6, 4), shapes_plan("default").training.model_copy(update={"weight_decay": 0.3})
    before = [weight.detach().clone() for weight in model.parameters()]
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimisers = optimisers_of(model, training)
    assert len(optimisers) == 2
    for optimiser in optimisers:
        optimiser.param_groups[0]["lr"] = 0.02
        for _ in range(2):
            optimiser.step()
    for weight, old in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(weight.detach(), old * (1 - 0.02 * 0.3) ** 2)


def test_decay_does_not_depend_on_the_gradient():
    """The same step with and without decay differs by what the decay takes from the weight."""
    grad = torch.randn(4, 6, generator=torch.Generator().manual_seed(4))
    for kind in (Muon, torch.optim.AdamW):
        ends = []
        for decay in (0.0, 0.5):
            weight = nn.Parameter(torch.ones(4, 6))
            weight.grad = grad.clone()
            kind([weight], lr=0.1, weight_decay=decay).step()
            ends.append(weight.detach())
        torch.testing.assert_close(ends[0] - ends[1], torch.full((4, 6), 0.1 * 0.5))


def test_momentum_of_nine_tenths_carries_the_first_gradient_into_the_second_update(shapes_plan):
    """average <- .9 average + .1 gradient; the update follows .1 gradient + .9 average (Nesterov)."""
    first, second = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(5))
    model, training = nn.Linear(6, 4), shapes_plan("default").training.model_copy(update={"weight_decay": 0.0})
    muon, _ = optimisers_of(model, training)
    (weight,) = muon.param_groups[0]["params"]
    muon.param_groups[0]["lr"], average = 0.01, torch.zeros(4, 6)
    for gradient in (first, second):
        before = weight.detach().clone()
        weight.grad = gradient.clone()
        muon.step()
        average = 0.9 * average + 0.1 * gradient
        (direction,) = orthogonal([0.1 * gradient + 0.9 * average])
        torch.testing.assert_close(weight.detach() - before, -0.01 * UPDATE_RMS * 6**0.5 * direction)
