"""Deterministic DDIM sampling (Song et al. 2021, eq. 12 with sigma = 0), from t = T down to 0.

    z_s = sqrt(alpha_bar_s) z_0_hat + sqrt(1 - alpha_bar_s) eps_hat

The pairs (t, s) are explicit, so the denoiser's t is exactly the noise level of its input.
"""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from textdiffseg.diffusion.schedule import Schedule


def step_pairs(timesteps: int, steps: int) -> tuple[tuple[int, int], ...]:
    """(t, s) pairs from T to 0 with equal spacing. Raises `ValueError` unless `steps` lies between 1 and T."""
    if not 1 <= steps <= timesteps:
        raise ValueError(f"steps must lie between 1 and {timesteps}, found {steps}")
    times = [round(timesteps * (steps - i) / steps) for i in range(steps + 1)]
    return tuple(itertools.pairwise(times))


def sample(denoise: Callable[[Tensor, Tensor], Tensor], z_T: Tensor, schedule: Schedule, steps: int) -> Tensor:
    """The estimate of z_0 (B, k, d, h, w) after `steps` DDIM steps from pure noise.

    One step gives the denoiser's posterior mean at T.

    Args:
        denoise: (z_t (B, k, d, h, w), t (B,) int64) -> z_0_hat or eps_hat (`schedule.predicts`), (B, k, d, h, w).
        z_T: standard normal noise (B, k, d, h, w).
        schedule: alpha_bar_t.
        steps: 1 to T.
    """
    z_t = z_T
    for time, next_time in step_pairs(schedule.timesteps, steps):
        t = torch.full((len(z_T),), time, dtype=torch.int64, device=z_T.device)
        predicted = denoise(z_t, t).float()
        z_0 = predicted if schedule.predicts == "z_0" else schedule.clean(z_t, predicted, t)
        if next_time == 0:
            return z_0
        eps = schedule.epsilon(z_t, z_0, t)
        z_t = schedule.diffuse(z_0, eps, torch.full_like(t, next_time))
    raise AssertionError("step_pairs ends at 0")
