"""Deterministic DDIM sampling (Song et al. 2021, eq. 12 with sigma = 0), from the noisiest latent to a clean one.

    z_s = a_s z_0_hat + sigma_s eps_hat

The levels are explicit, so the denoiser's t is exactly the noise level of its input.
"""

from collections.abc import Callable
from itertools import zip_longest

import torch
from torch import Tensor

from textdiffseg.diffusion.schedule import Schedule

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(z_t (B, k, d, h, w), t (B,) from 0 to 1) -> the network's prediction (B, k, d, h, w)."""


def sample(denoise: Denoise, z_T: Tensor, schedule: Schedule, steps: int) -> Tensor:
    """The estimate of z_0 (B, k, d, h, w) after `steps` DDIM steps from pure noise.

    Args:
        denoise: the network.
        z_T: standard normal noise (B, k, d, h, w).
        schedule: a_t, sigma_t and the meaning of the prediction.
        steps: 1 or more.
    """
    levels = schedule.levels(steps)
    z_t = z_0 = z_T
    for level, next_level in zip_longest(levels, levels[1:]):
        t = torch.full((len(z_T),), level, device=z_T.device)
        z_0 = schedule.clean(z_t, denoise(z_t, t).float(), t)
        if next_level is not None:
            z_t = schedule.diffuse(z_0, schedule.epsilon(z_t, z_0, t), torch.full_like(t, next_level))
    return z_0
