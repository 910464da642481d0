"""Muon: which weights it moves, how far, and in which direction."""

import pytest
import torch
from torch import nn

from textdiffseg.training.optimisers import UPDATE, Muon, optimisers_of, orthogonal


@pytest.mark.parametrize("shape", [(12, 60), (8, 200), (200, 8), (1, 30)])
def test_singular_values_come_near_one_and_singular_vectors_stay(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    (found,) = orthogonal([matrix])
    assert torch.linalg.svdvals(found).min() > 0.6
    assert torch.linalg.svdvals(found).max() < 1.3
    turned = left.mT @ found @ right.mT
    off = turned - turned.diagonal().diag()
    assert off.abs().max() < 1e-3


def test_the_short_way_agrees_with_the_iteration_as_published():
    x = torch.randn(20, 70, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x[-1] *= 1e-3  # a direction that is hardly there
    expected = x / x.norm()
    for _ in range(5):
        square = expected @ expected.mT
        expected = 3.4445 * expected + (-4.7750 * square + 2.0315 * square @ square) @ expected
    (found,) = orthogonal([x.float()])
    assert torch.allclose(found.double(), expected, atol=2e-4)


def test_no_gradient_moves_nothing():
    assert orthogonal([torch.zeros(5, 9)])[0].eq(0).all()
    weight = nn.Parameter(torch.ones(4, 6))
    optimiser = Muon([weight], lr=0.1, weight_decay=0.0)
    optimiser.step()
    weight.grad = torch.zeros(4, 6)
    optimiser.step()
    assert weight.eq(1).all()


@pytest.mark.parametrize("shape", [(32, 16, 3, 3, 3), (16, 1, 3, 3, 3), (64, 1, 1, 3, 3), (64, 64), (8, 40)])
def test_an_update_is_as_large_whatever_the_shape(shape):
    weight = nn.Parameter(torch.zeros(shape))
    weight.grad = torch.randn(shape, generator=torch.Generator().manual_seed(2)) * 1e-3
    Muon([weight], lr=0.01, weight_decay=0.0).step()
    assert weight.square().mean().sqrt().item() == pytest.approx(0.01 * UPDATE, rel=0.25)
    assert (weight * weight.grad).sum() < 0, "downhill"


def test_weights_whose_shorter_sides_are_equal_move_as_each_would_alone():
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
