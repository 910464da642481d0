"""The loadings of a sample's common factors, and factors that continue what is known."""

import pytest
import torch

from plans.network_plan import NetworkPlan, Stage
from textdiffseg.networks.common_factors import TOLERANCE, CommonFactors, fitted_to, weighted
from textdiffseg.networks.label_latent import LatentPosterior

STAGES = [Stage(stride=stride, kernel=(3, 3, 3), width=8, blocks=1) for stride in ((1, 1, 1), (2, 2, 2))]


@pytest.fixture
def common():
    torch.manual_seed(0)
    return CommonFactors(STAGES, width=5, channels=2, factors=3, network=NetworkPlan())


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
    """In features that do not change, only the place and the border of the patch differ."""
    loadings = common(flat_posterior(), torch.zeros(1, 5, 8, 8, 8))
    inside = loadings[..., 2:6, 2:6, 2:6]
    assert inside.std((3, 4, 5)).min() > 1e-3


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


def test_factors_continue_a_known_sum_and_keep_what_it_does_not_show():
    """The third factor has no loading there."""
    torch.manual_seed(1)
    loadings, where = torch.randn(1, 3, 2, 4, 4, 4), torch.zeros(4, 4, 4, dtype=torch.bool)
    where[:2] = True
    loadings[:, 2, :, :2] = 0
    drawn_before, own = torch.tensor([[1.0, -2.0, 0.3]]), torch.tensor([[-0.4, 0.5, 1.7]])
    shift = weighted(drawn_before, loadings)
    shift[..., 2:, :, :] = torch.nan  # not read
    found = fitted_to(own, loadings, shift, where)
    torch.testing.assert_close(found, torch.tensor([[1.0, -2.0, 1.7]]), atol=0.01, rtol=0)
    torch.testing.assert_close(fitted_to(found, loadings, shift, where), found, atol=1e-3, rtol=0)


def test_fitted_factors_have_the_mean_of_the_posterior():
    """Of w ~ N(0, I), given L^T w + noise of TOLERANCE; noise of the observation itself is left out."""
    torch.manual_seed(2)
    loadings, where = 0.05 * torch.randn(1, 2, 1, 1, 2, 2), torch.ones(1, 2, 2, dtype=torch.bool)
    shift = torch.randn(1, 1, 1, 2, 2)
    own = torch.randn(20_000, 2)
    found = fitted_to(own, loadings.expand(len(own), -1, -1, -1, -1, -1), shift.expand(len(own), -1, -1, -1, -1), where)
    observed, known = shift.flatten(), loadings.flatten(2)[0]
    precision = torch.eye(2) + known @ known.T / TOLERANCE**2
    mean = torch.linalg.solve(precision, known @ observed / TOLERANCE**2)
    torch.testing.assert_close(found.mean(0), mean, atol=0.02, rtol=0)
