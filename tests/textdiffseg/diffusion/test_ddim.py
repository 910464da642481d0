import math

import pytest
import torch

from textdiffseg.diffusion.ddim import Known, sample
from textdiffseg.diffusion.schedule import CosineSchedule, LogSnrSchedule


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_sampling_with_a_perfect_denoiser_returns_z_0_and_its_t_is_the_noise_level(steps):
    schedule, seen = LogSnrSchedule(-8, 5), []
    z_0, eps = torch.randn(2, 3, 4, 5, 6, 7, generator=torch.Generator().manual_seed(1))
    z_T = schedule.diffuse(z_0, eps, torch.ones(3))

    def oracle(z_t, t):
        seen.append(t)
        torch.testing.assert_close(z_t, schedule.diffuse(z_0, eps, t), atol=1e-4, rtol=1e-4)
        return schedule.velocity(z_0, eps, t)

    torch.testing.assert_close(sample(oracle, z_T, schedule, steps), z_0, atol=1e-4, rtol=1e-4)
    assert [t.tolist() for t in seen] == [pytest.approx([level] * 3) for level in schedule.levels(steps)]


def test_sampling_transports_a_gaussian():
    """For z_0 ~ N(m, s^2) the posterior mean is known; many DDIM steps then give samples with that mean and spread."""
    schedule, m, s = LogSnrSchedule(-10, 10), 2.0, 0.5

    def of_posterior_mean(z_t, t):
        a, sigma = schedule.coefficients(t, z_t)
        z_0 = m + a * s**2 / (a**2 * s**2 + sigma**2) * (z_t - a * m)
        return schedule.velocity(z_0, schedule.epsilon(z_t, z_0, t), t)

    z_T = torch.randn(4, 1, 20, 20, 20, generator=torch.Generator().manual_seed(2))
    samples = sample(of_posterior_mean, z_T, schedule, 200)
    assert samples.mean().item() == pytest.approx(m, abs=0.02)
    assert samples.std().item() == pytest.approx(s, abs=0.02)
    assert sample(of_posterior_mean, z_T, schedule, 1).std().item() < 0.01  # one step is the mean, not a sample


def test_a_known_part_has_its_noise_level_and_new_noise_at_each_step():
    schedule, seen = LogSnrSchedule(-8, 5), []
    z_0, *noise = torch.randn(5, 3, 4, 5, 6, 7, generator=torch.Generator().manual_seed(1))
    where = torch.zeros(5, 6, 7, dtype=torch.bool)
    where[:3] = True
    known = Known(torch.where(where, z_0, torch.nan), where, noise)

    def denoise(z_t, t):
        a, sigma = schedule.coefficients(t, z_t)
        seen.append(((z_t - a * z_0) / sigma)[..., where])
        return z_t / 2

    found = sample(denoise, noise[0], schedule, 4, known)
    assert torch.equal(found[..., where], z_0[..., where])
    for step, eps in enumerate(seen):
        torch.testing.assert_close(eps, noise[step][..., where], atol=1e-3, rtol=1e-3)
    nothing = Known(z_0, torch.zeros_like(where), noise)
    assert torch.equal(sample(denoise, noise[0], schedule, 4, nothing), sample(denoise, noise[0], schedule, 4))


def test_the_rest_follows_a_known_half():
    """z_0 is +1 or -1 everywhere. The denoiser knows this, and half of z_0 is known to be +1."""
    positions = 8 * 4 * 4 * 4
    schedule = LogSnrSchedule(2 - math.log(positions), 5)

    def of_posterior_mean(z_t, t):
        a, sigma = schedule.coefficients(t, z_t)
        z_0 = (z_t * a / sigma.square()).sum((1, 2, 3, 4), keepdim=True).tanh().expand_as(z_t)
        return schedule.velocity(z_0, schedule.epsilon(z_t, z_0, t), t)

    noise, *new = torch.randn(8, 500, 8, 4, 4, 4, generator=torch.Generator().manual_seed(3))
    where = torch.zeros(4, 4, 4, dtype=torch.bool)
    where[:2] = True
    free = sample(of_posterior_mean, noise, schedule, 8)
    given = sample(of_posterior_mean, noise, schedule, 8, Known(torch.ones_like(noise), where, [noise, *new]))
    assert 0.4 < (free.mean((1, 2, 3, 4)) > 0).float().mean() < 0.6
    assert (given.mean((1, 2, 3, 4)) > 0.9).float().mean() > 0.95


@pytest.mark.parametrize("steps", [2, 10])
def test_sampling_with_a_perfect_noise_predictor_returns_z_0(steps):
    schedule = CosineSchedule(1000)
    z_0, z_T = torch.randn(2, 3, 1, 6, 6, 6, generator=torch.Generator().manual_seed(1))
    z_0 = torch.nn.functional.layer_norm(z_0, z_0.shape[1:])

    def oracle(z_t, t):
        return schedule.epsilon(z_t, z_0, t)

    torch.testing.assert_close(sample(oracle, z_T, schedule, steps), z_0, atol=1e-3, rtol=1e-3)
