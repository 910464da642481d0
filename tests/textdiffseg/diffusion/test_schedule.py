from itertools import pairwise
from math import log

import pytest
import torch

from textdiffseg.diffusion.schedule import CosineSchedule, LogSnrSchedule, schedule_of

LOW, HIGH = -7.0, 5.0
SCHEDULES = pytest.mark.parametrize("schedule", [LogSnrSchedule(LOW, HIGH), CosineSchedule(1000)])


@pytest.fixture
def latents():
    """z_0 and eps (4, 8, 16, 16, 16)."""
    return torch.randn(2, 4, 8, 16, 16, 16, generator=torch.Generator().manual_seed(0))


@SCHEDULES
def test_signal_and_noise_have_unit_energy_at_every_level(schedule, latents):
    t = torch.linspace(0, 1, 11)
    a, sigma = schedule.coefficients(t, torch.empty(11, 1, 1))
    assert a.shape == sigma.shape == (11, 1, 1)
    assert a.dtype == torch.float32
    torch.testing.assert_close(a.square() + sigma.square(), torch.ones(11, 1, 1))
    assert (a.flatten().diff() < 0).all()
    assert torch.equal(a.flatten(), schedule.signal(t))
    z_0, eps = latents
    z_t = schedule.diffuse(z_0, eps, t[[1, 4, 7, 10]])
    torch.testing.assert_close(z_t.flatten(1).var(1), torch.ones(4), atol=0.03, rtol=0)


@pytest.mark.parametrize(("t", "expected"), [(0.0, HIGH), (0.5, -1.0), (1.0, LOW)])
def test_log_snr_falls_linearly_from_the_plan_s_highest_to_its_lowest(t, expected):
    a = LogSnrSchedule(LOW, HIGH).signal(torch.tensor([t], dtype=torch.float64)).item()
    assert log(a**2 / (1 - a**2)) == pytest.approx(expected, abs=1e-6)


def test_a_plan_s_schedule_has_its_levels(make_plan):
    diffusion = make_plan("default").diffusion
    schedule = schedule_of(make_plan("default"))
    assert (schedule.min_log_snr, schedule.max_log_snr) == (diffusion.min_log_snr, diffusion.max_log_snr) == (-3, 5)
    assert schedule_of(make_plan("unet")) is None


@SCHEDULES
def test_epsilon_inverts_diffuse(schedule, latents):
    z_0, eps = latents
    t = torch.tensor([0.1, 0.25, 0.7, 1.0])
    torch.testing.assert_close(schedule.epsilon(schedule.diffuse(z_0, eps, t), z_0, t), eps, atol=2e-3, rtol=1e-3)


def test_the_true_velocity_gives_z_0_back_from_every_level(latents):
    schedule, (z_0, eps) = LogSnrSchedule(LOW, HIGH), latents
    t = torch.tensor([0.0, 0.3, 0.7, 1.0])
    found = schedule.clean(schedule.diffuse(z_0, eps, t), schedule.velocity(z_0, eps, t), t)
    torch.testing.assert_close(found, z_0, atol=1e-4, rtol=1e-4)


def test_an_error_of_the_velocity_is_the_error_of_z_0_weighted_by_1_plus_snr(latents):
    schedule, (z_0, eps) = LogSnrSchedule(LOW, HIGH), latents
    t = torch.tensor([0.1, 0.4, 0.8, 1.0])
    v = schedule.velocity(z_0, eps, t)
    v_hat = v + 0.3 * torch.randn(v.shape, generator=torch.Generator().manual_seed(1))
    z_0_hat = schedule.clean(schedule.diffuse(z_0, eps, t), v_hat, t)
    weight = 1 + (HIGH + t * (LOW - HIGH)).exp()
    found = weight * (z_0_hat - z_0).square().flatten(1).mean(1)
    torch.testing.assert_close(found, (v_hat - v).square().flatten(1).mean(1), rtol=1e-3, atol=1e-5)


def test_levels_lead_from_the_noisiest_to_the_cleanest():
    schedule = LogSnrSchedule(LOW, HIGH)
    assert schedule.levels(1) == (1.0,)
    assert schedule.levels(2) == (1.0, 0.0)
    assert schedule.levels(5) == pytest.approx((1.0, 0.75, 0.5, 0.25, 0.0))
    with pytest.raises(ValueError, match="at least 1"):
        schedule.levels(0)


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 999, 1000])
def test_the_publication_s_levels_are_whole_time_steps_above_0(steps):
    levels = CosineSchedule(1000).levels(steps)
    assert len(levels) == steps
    assert levels[0] == 1
    assert levels[-1] == pytest.approx(1 / steps, abs=5e-4)
    assert all(round(1000 * level, 9) == round(1000 * level) for level in levels)
    assert all(before > after for before, after in pairwise(levels))


@pytest.mark.parametrize("steps", [0, 1001])
def test_invalid_step_counts_are_refused(steps):
    with pytest.raises(ValueError, match="between 1 and 1000"):
        CosineSchedule(1000).levels(steps)


def test_no_timesteps_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        CosineSchedule(0)


def test_the_cosine_table_keeps_some_signal_at_T():
    alpha_bar = CosineSchedule(1000).alpha_bar
    assert alpha_bar[0] == 1
    assert alpha_bar[-1] > 0
    assert alpha_bar.dtype == torch.float32
    assert (alpha_bar.diff() < 0).all()
    assert (1 - alpha_bar[1:].double() / alpha_bar[:-1]).max() <= 0.999 + 1e-6
    t = (torch.arange(901) / 1000 + 0.008) / 1.008 * torch.pi / 2
    start = torch.tensor(0.008 / 1.008 * torch.pi / 2)
    torch.testing.assert_close(alpha_bar[:901], t.cos().square() / start.cos().square(), atol=1e-4, rtol=0)


def test_t_is_a_share_of_the_publication_s_time_steps():
    schedule = CosineSchedule(1000)
    assert torch.equal(schedule.signal(torch.tensor([0.0, 0.25, 1.0])), schedule.alpha_bar[[0, 250, 1000]].sqrt())


def test_the_true_noise_gives_the_standardised_z_0_if_there_is_signal():
    generator = torch.Generator().manual_seed(0)
    z_0, eps = torch.randn(2, 3, 1, 8, 8, 8, generator=generator)
    z_0 = torch.nn.functional.layer_norm(z_0, z_0.shape[1:])
    schedule, t = CosineSchedule(1000), torch.tensor([0.001, 0.3, 0.7])
    found = schedule.clean(schedule.diffuse(z_0, eps, t), eps, t)
    torch.testing.assert_close(found, z_0, atol=1e-3, rtol=1e-3)
    at_T = schedule.clean(eps, 0.5 * eps, torch.ones(3))
    assert at_T.abs().max() < 10  # an error of the noise is not magnified
