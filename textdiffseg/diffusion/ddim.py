"""Deterministic DDIM sampling (Song et al. 2021, eq. 12 with sigma = 0), from t = T down to 0.

    z_s = sqrt(alpha_bar_s) z_0_hat + sqrt(1 - alpha_bar_s) eps_hat

The pairs (t, s) are explicit: the denoiser is told exactly the noise level that it gets.
"""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from textdiffseg.diffusion.schedule import Schedule


def step_pairs(timesteps: int, steps: int) -> tuple[tuple[int, int], ...]:
    """(t, s) pairs from T to 0 with equal spacing; `steps` between 1 and T."""
    if not 1 <= steps <= timesteps:
        raise ValueError(f"steps must lie between 1 and {timesteps}, found {steps}")
    times = [round(timesteps * (steps - i) / steps) for i in range(steps + 1)]
    return tuple(itertools.pairwise(times))


def sample(denoise: Callable[[Tensor, Tensor], Tensor], z_T: Tensor, schedule: Schedule, steps: int) -> Tensor:
    """The estimate of z_0 after `steps` steps from pure noise.

    denoise: (z_t (B, k, d, h, w), t (B,) int64) -> what the schedule says that it predicts, z_0_hat or eps_hat,
    (B, k, d, h, w).
    z_T: standard normal noise (B, k, d, h, w). One step is the denoiser's posterior mean at T.
    """
    z_t = z_T
    for time, later in step_pairs(schedule.timesteps, steps):
        t = torch.full((len(z_T),), time, dtype=torch.int64, device=z_T.device)
        predicted = denoise(z_t, t).float()
        z_0 = predicted if schedule.predicts == "z_0" else schedule.clean(z_t, predicted, t)
        if later == 0:
            return z_0
        eps = schedule.epsilon(z_t, z_0, t)
        z_t = schedule.diffuse(z_0, eps, torch.full_like(t, later))
    raise AssertionError("step_pairs ends at 0")
