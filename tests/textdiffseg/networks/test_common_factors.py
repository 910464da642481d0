"""The loadings of a sample's common factors."""

import pytest
import torch

from plans.network_plan import NetworkPlan, Stage
from textdiffseg.networks.common_factors import CommonFactors, weighted
from textdiffseg.networks.label_latent import LatentPosterior

STAGES = [Stage(stride=stride, kernel=(3, 3, 3), width=8, blocks=1) for stride in ((1, 1, 1), (2, 2, 2))]


@pytest.fixture
def common():
    torch.manual_seed(0)
    return CommonFactors(STAGES, width=5, channels=2, n_factors=3, network=NetworkPlan())


def flat_posterior(scale: float = 0.5) -> LatentPosterior:
    return LatentPosterior(torch.zeros(1, 2, 8, 8, 8), torch.full((1, 2, 8, 8, 8), scale))


@torch.no_grad()
def test_loadings_have_the_scale_of_the_latent(common):
    g_1 = torch.randn(1, 5, 8, 8, 8)
    loadings = common(flat_posterior(), g_1)
    assert loadings.shape == (1, 3, 2, 8, 8, 8)
    assert loadings.abs().max() > 0
    posterior = flat_posterior()
    posterior.scale[..., :4] = 0  # where the mask is sure
    assert common(posterior, g_1)[..., :4].abs().max() == 0


@torch.no_grad()
def test_two_equal_structures_are_told_apart_by_their_place(common):
    """The U-Net reads m and s of two channels each, then the place along z, y and x, from -1 to 1."""
    read = []
    common.unet.register_forward_pre_hook(lambda _, inputs: read.append(torch.cat(inputs[0], dim=1)))
    posterior = flat_posterior()
    common(posterior, torch.zeros(1, 5, 8, 8, 8))
    assert torch.equal(read[0][:, 2:4], posterior.scale)
    for axis in range(3):
        along = read[0][0, 4 + axis].movedim(axis, 0).flatten(1)
        torch.testing.assert_close(along, torch.linspace(-1, 1, 8)[:, None].expand(-1, 64))


@torch.no_grad()
def test_the_first_draws_are_near_the_mask(common):
    loadings = common(flat_posterior(), torch.randn(1, 5, 8, 8, 8))
    assert loadings.square().sum(1).mean().sqrt() < 0.2 * 0.5, "of s"
    weight = torch.nn.init.kaiming_uniform_(torch.empty_like(common.unet.out.weight), a=5**0.5)
    assert common.unet.out.weight.std() < 0.2 * weight.std()


@torch.no_grad()
def test_the_loadings_of_a_patch_do_not_depend_on_the_others(common):
    m, s, g_1 = torch.randn(2, 2, 8, 8, 8), torch.rand(2, 2, 8, 8, 8), torch.randn(2, 5, 8, 8, 8)
    both = common(LatentPosterior(m, s), g_1)
    torch.testing.assert_close(both[1:], common(LatentPosterior(m[1:], s[1:]), g_1[1:]), atol=1e-5, rtol=1e-4)


def test_the_weighted_sum_is_that_of_each_row():
    factors, loadings = torch.randn(2, 3), torch.randn(2, 3, 1, 2, 2, 2)
    for row in range(2):
        expected = sum(factors[row, i] * loadings[row, i] for i in range(3))
        torch.testing.assert_close(weighted(factors, loadings)[row], expected)
