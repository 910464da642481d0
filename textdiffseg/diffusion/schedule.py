"""The noise schedule: z_t = sqrt(alpha_bar_t) z_0 + sqrt(1 - alpha_bar_t) eps  (eq. 3 of the paper).

alpha_bar is the cosine schedule (Nichol and Dhariwal 2021, eq. 17).

Where z_0 is predicted, the terminal signal is zero (Lin et al. 2024): alpha_bar_0 = 1 and alpha_bar_T = 0 exactly.
Sampling then starts at a noise level that training has covered.

Where the noise is predicted, beta_t is at most 0.999 as in the original. Without any signal eps_hat would not
determine z_0.

The table is float32, also under autocast.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from plans.network_plan import DiffusionPlan

OFFSET, MAX_BETA = 0.008, 0.999  # Nichol and Dhariwal 2021, section 3.2


class Schedule:
    """alpha_bar_t for t = 0..T, on `device`. Raises `ValueError` if `timesteps` (T) is below 1."""

    def __init__(
        self,
        timesteps: int = 1000,
        predicts: Literal["z_0", "eps"] = "z_0",
        device: torch.device | str = "cpu",
    ):
        if timesteps < 1:
            raise ValueError(f"timesteps must be at least 1, found {timesteps}")
        t = torch.linspace(0, 1, timesteps + 1, dtype=torch.float64)
        cosine = torch.cos((t + OFFSET) / (1 + OFFSET) * math.pi / 2) ** 2
        if predicts == "z_0":
            alpha_bar = (cosine - cosine[-1]) / (cosine[0] - cosine[-1])
        else:
            alpha = (cosine[1:] / cosine[:-1]).clamp(min=1 - MAX_BETA)
            alpha_bar = torch.cat((torch.ones(1, dtype=torch.float64), alpha.cumprod(0)))
        self.timesteps, self.predicts = timesteps, predicts
        self.alpha_bar = alpha_bar.float().to(device)  # (T + 1,)

    @classmethod
    def of(cls, diffusion: DiffusionPlan, device: torch.device | str = "cpu") -> "Schedule":
        """The schedule of a plan."""
        return cls(diffusion.timesteps, predicts=diffusion.predicts, device=device)

    def signal(self, t: Tensor, like: Tensor) -> Tensor:
        """sqrt(alpha_bar_t) for t (B,) int64, with the axes of `like` (B, ...)."""
        return self._at(self.alpha_bar.sqrt(), t, like)

    def noise(self, t: Tensor, like: Tensor) -> Tensor:
        """sqrt(1 - alpha_bar_t) for t (B,) int64, with the axes of `like` (B, ...)."""
        return self._at((1 - self.alpha_bar).sqrt(), t, like)

    def diffuse(self, z_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """z_t (B, k, d, h, w) from z_0 and eps of the same shape at t (B,): eq. 3."""
        return self.signal(t, z_0) * z_0 + self.noise(t, z_0) * eps

    def epsilon(self, z_t: Tensor, z_0: Tensor, t: Tensor) -> Tensor:
        """The noise eps in z_t, given z_0, at t (B,) > 0: eq. 3 solved for eps."""
        return (z_t - self.signal(t, z_t) * z_0) / self.noise(t, z_t)

    def clean(self, z_t: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """z_0_hat from z_t and the noise eps in it at t (B,): eq. 3 solved for z_0, then standardised over the patch.

        z_0 is standardised too, so the factor 1 / sqrt(alpha_bar_t) cancels. That factor, 20,000 at T, would magnify
        errors. LDSeg's sampler also standardises after every step.
        """
        return F.layer_norm(z_t - self.noise(t, z_t) * eps, z_t.shape[1:])

    @staticmethod
    def _at(table: Tensor, t: Tensor, like: Tensor) -> Tensor:
        return table.to(like.device)[t].view(-1, *[1] * (like.dim() - 1))
