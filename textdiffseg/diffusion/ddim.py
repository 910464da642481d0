"""Deterministic DDIM sampling (Song et al. 2021, eq. 12 with sigma = 0), from the noisiest latent to a clean one.

    z_s = a_s z_0_hat + sigma_s eps_hat

The levels are explicit, so the denoiser's t is exactly the noise level of its input.

A part of z_0 may be known (RePaint, Lugmayr et al. 2022). At each step z_t is there

    z_t = a_t z_0 + sigma_t eps,   with new eps.

With the same eps at each step, the first step's errors would stay in the rest of z_t.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor

from textdiffseg.diffusion.schedule import Schedule

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(z_t (B, k, d, h, w), t (B,) from 0 to 1) -> the network's prediction (B, k, d, h, w)."""


@dataclass(frozen=True)
class Known:
    """The part of z_0 that is known."""

    z_0: Tensor  # (B, k, d, h, w); not read elsewhere
    where: Tensor  # (d, h, w) bool
    noise: Sequence[Tensor]  # of each step, (B, k, d, h, w) or broadcast to it

    def into(self, z_t: Tensor, schedule: Schedule, t: Tensor, step: int) -> Tensor:
        """z_t with the known part at t (B,), the level of a step."""
        return torch.where(self.where, schedule.diffuse(self.z_0, self.noise[step], t), z_t)


def sample(denoise: Denoise, z_T: Tensor, schedule: Schedule, steps: int, known: Known | None = None) -> Tensor:
    """The estimate of z_0 (B, k, d, h, w) after `steps` DDIM steps from pure noise.

    Args:
        denoise: the network.
        z_T: standard normal noise (B, k, d, h, w).
        schedule: a_t, sigma_t and the meaning of the prediction.
        steps: 1 or more.
        known: the part of z_0 that is known; None: nothing.
    """
    levels = schedule.levels(steps)
    z_t = z_0 = z_T
    for step, (level, next_level) in enumerate(zip_longest(levels, levels[1:])):
        t = torch.full((len(z_T),), level, device=z_T.device)
        z_t = z_t if known is None else known.into(z_t, schedule, t, step)
        z_0 = schedule.clean(z_t, denoise(z_t, t).float(), t)
        if next_level is not None:
            z_t = schedule.diffuse(z_0, schedule.epsilon(z_t, z_0, t), torch.full_like(t, next_level))
    return z_0 if known is None else torch.where(known.where, known.z_0, z_0)
