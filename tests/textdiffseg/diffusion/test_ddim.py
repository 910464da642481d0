from itertools import pairwise

import pytest
import torch

from textdiffseg.diffusion.ddim import sample, step_pairs
from textdiffseg.diffusion.schedule import Schedule


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 10, 999, 1000])
def test_pairs_lead_from_T_to_0_without_gaps(steps):
    pairs = step_pairs(1000, steps)
    assert len(pairs) == steps
    assert pairs[0][0] == 1000
    assert pairs[-1][1] == 0
    assert all(t > s for t, s in pairs)
    assert all(first[1] == second[0] for first, second in pairwise(pairs))


@pytest.mark.parametrize("steps", [0, 1001])
def test_invalid_step_counts_are_refused(steps):
    with pytest.raises(ValueError, match="between 1 and 1000"):
        step_pairs(1000, steps)


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_sampling_with_a_perfect_denoiser_returns_z_0_and_its_t_is_the_noise_level(steps):
    schedule = Schedule(1000)
    generator = torch.Generator().manual_seed(1)
    z_0, z_T = torch.randn(2, 3, 4, 5, 6, 7, generator=generator)

    def oracle(z_t, t):
        torch.testing.assert_close(z_t, schedule.diffuse(z_0, z_T, t), atol=1e-4, rtol=1e-4)
        return z_0

    torch.testing.assert_close(sample(oracle, z_T, schedule, steps), z_0)


def test_sampling_transports_a_gaussian():
    """For z_0 ~ N(m, s^2) the posterior mean is known; many DDIM steps then give samples with that mean and spread."""
    schedule, m, s = Schedule(1000), 2.0, 0.5

    def posterior_mean(z_t, t):
        a, b = schedule.signal(t, z_t), schedule.noise(t, z_t)
        return m + a * s**2 / (a**2 * s**2 + b**2) * (z_t - a * m)

    z_T = torch.randn(4, 1, 20, 20, 20, generator=torch.Generator().manual_seed(2))
    samples = sample(posterior_mean, z_T, schedule, 200)
    assert samples.mean().item() == pytest.approx(m, abs=0.02)
    assert samples.std().item() == pytest.approx(s, abs=0.02)
    assert sample(posterior_mean, z_T, schedule, 1).std().item() < 1e-3  # one step is the mean, not a sample


@pytest.mark.parametrize("steps", [2, 10])
def test_sampling_with_a_perfect_noise_predictor_returns_z_0(steps):
    schedule = Schedule(1000, predicts="eps")
    z_0, z_T = torch.randn(2, 3, 1, 6, 6, 6, generator=torch.Generator().manual_seed(1))
    z_0 = torch.nn.functional.layer_norm(z_0, z_0.shape[1:])

    def oracle(z_t, t):
        return schedule.epsilon(z_t, z_0, t)

    torch.testing.assert_close(sample(oracle, z_T, schedule, steps), z_0, atol=1e-3, rtol=1e-3)
