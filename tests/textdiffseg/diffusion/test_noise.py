"""Smooth noise has variance 1 and is correlated over a few latent positions."""

import pytest
import torch

from textdiffseg.diffusion.noise import smooth_noise, white_noise


@pytest.fixture(scope="module")
def field():
    return smooth_noise((200, 32, 16, 16), torch.Generator().manual_seed(0)).double()


def test_the_mean_is_0_and_the_variance_1(field):
    assert field.mean().item() == pytest.approx(0, abs=0.05)
    assert field.var().item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("size", [(17, 9, 10), (1, 8, 8), (2, 3, 20)])
def test_the_variance_is_1_at_every_position(size):
    """Also at the nodes of the coarse fields and between them."""
    drawn = smooth_noise((20_000, *size), torch.Generator().manual_seed(1))
    assert (drawn.var(0) - 1).abs().max() < 0.06


def test_near_positions_are_alike_and_far_ones_are_not(field):
    def correlation(distance):
        return (field[:, distance:] * field[:, : 32 - distance]).mean().item()

    near, middle, far = (correlation(distance) for distance in (1, 4, 16))
    assert 0.6 < near < 0.95
    assert 0.15 < middle < near
    assert abs(far) < 0.06


def test_channels_are_independent(field):
    flat = field.flatten(1)
    products = (flat @ flat.T / flat.shape[1]).fill_diagonal_(0)
    assert products.mean().abs() < 0.01


@pytest.mark.parametrize("draw", [smooth_noise, white_noise])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 2, 5, 9), (2, 8, 1, 16)])
def test_any_shape_is_drawn_and_depends_on_the_generator(draw, shape):
    one, same, other = (draw(shape, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert one.shape == shape
    assert one.isfinite().all()
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
