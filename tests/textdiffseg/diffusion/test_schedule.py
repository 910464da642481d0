import pytest
import torch

from textdiffseg.diffusion.schedule import Schedule


def test_signal_falls_from_one_to_exactly_zero():
    alpha_bar = Schedule(1000).alpha_bar
    assert alpha_bar[0] == 1
    assert alpha_bar[-1] == 0
    assert (alpha_bar.diff() < 0).all()
    assert alpha_bar.dtype == torch.float32


def test_diffuse_keeps_unit_variance_and_epsilon_inverts_it():
    generator = torch.Generator().manual_seed(0)
    z_0, eps = torch.randn(2, 4, 8, 16, 16, 16, generator=generator)
    schedule, t = Schedule(1000), torch.tensor([1, 250, 700, 1000])
    z_t = schedule.diffuse(z_0, eps, t)
    torch.testing.assert_close(z_t.flatten(1).var(1), torch.ones(4), atol=0.03, rtol=0)
    torch.testing.assert_close(z_t[3], eps[3])  # nothing of z_0 is left at T
    torch.testing.assert_close(schedule.epsilon(z_t, z_0, t), eps, atol=1e-3, rtol=1e-3)


def test_no_timesteps_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        Schedule(0)


def test_noise_prediction_keeps_some_signal_at_T():
    alpha_bar = Schedule(1000, predicts="eps").alpha_bar
    assert alpha_bar[0] == 1
    assert alpha_bar[-1] > 0
    assert (alpha_bar.diff() < 0).all()
    assert (1 - alpha_bar[1:].double() / alpha_bar[:-1]).max() <= 0.999 + 1e-6
    torch.testing.assert_close(alpha_bar[:900], Schedule(1000).alpha_bar[:900], atol=1e-4, rtol=0)


def test_the_true_noise_gives_the_standardised_z_0_if_there_is_signal():
    generator = torch.Generator().manual_seed(0)
    z_0, eps = torch.randn(2, 3, 1, 8, 8, 8, generator=generator)
    z_0 = torch.nn.functional.layer_norm(z_0, z_0.shape[1:])
    schedule, t = Schedule(1000, predicts="eps"), torch.tensor([1, 300, 700])
    found = schedule.clean(schedule.diffuse(z_0, eps, t), eps, t)
    torch.testing.assert_close(found, z_0, atol=1e-3, rtol=1e-3)
    at_T = schedule.clean(eps, 0.5 * eps, torch.full((3,), 1000))
    assert at_T.abs().max() < 10  # an error of the noise is not magnified
