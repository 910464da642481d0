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
