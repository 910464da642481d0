"""The noise schedule: z_t = sqrt(alpha_bar_t) z_0 + sqrt(1 - alpha_bar_t) eps  (eq. 3 of the paper).

alpha_bar is the cosine schedule (Nichol and Dhariwal 2021, eq. 17). Where z_0 is predicted it has a zero terminal
signal (Lin et al. 2024): alpha_bar_0 = 1 and alpha_bar_T = 0 exactly, so that sampling starts from what training has
seen. Noise prediction says nothing of z_0 where there is no signal, so it keeps the original's: beta_t at most 0.999.
The table is float32 whatever the precision around it.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from plans.plan import DiffusionPlan

OFFSET, LARGEST_BETA = 0.008, 0.999  # Nichol and Dhariwal 2021, section 3.2


class Schedule:
    """alpha_bar_t for t = 0..T, on `device`."""

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
            alpha = (cosine[1:] / cosine[:-1]).clamp(min=1 - LARGEST_BETA)
            alpha_bar = torch.cat((torch.ones(1, dtype=torch.float64), alpha.cumprod(0)))
        self.timesteps, self.predicts = timesteps, predicts
        self.alpha_bar = alpha_bar.float().to(device)  # (T + 1,)

    @classmethod
    def of(cls, diffusion: DiffusionPlan, device: torch.device | str = "cpu") -> "Schedule":
        """The schedule of a plan."""
        return cls(diffusion.timesteps, predicts=diffusion.predicts, device=device)

    def signal(self, t: Tensor, like: Tensor) -> Tensor:
        """sqrt(alpha_bar_t), t (B,) int64, shaped to multiply `like` (B, ...)."""
        return self._at(self.alpha_bar.sqrt(), t, like)

    def noise(self, t: Tensor, like: Tensor) -> Tensor:
        """sqrt(1 - alpha_bar_t), t (B,) int64, shaped to multiply `like` (B, ...)."""
        return self._at((1 - self.alpha_bar).sqrt(), t, like)

    def diffuse(self, z_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """z_t from z_0 and eps (both (B, k, d, h, w)) at t (B,): eq. 3."""
        return self.signal(t, z_0) * z_0 + self.noise(t, z_0) * eps

    def epsilon(self, z_t: Tensor, z_0: Tensor, t: Tensor) -> Tensor:
        """The noise that leads from z_0 to z_t at t (B,), t > 0: eq. 3 solved for eps."""
        return (z_t - self.signal(t, z_t) * z_0) / self.noise(t, z_t)

    def clean(self, z_t: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """z_0_hat from z_t and the noise in it at t (B,): eq. 3 solved for z_0, standardised over the patch as z_0 is.

        Standardising takes the factor 1 / sqrt(alpha_bar_t) out, 20,000 at T, so that it blows no error up. LDSeg's
        sampler standardises after every step, too.
        """
        return F.layer_norm(z_t - self.noise(t, z_t) * eps, z_t.shape[1:])

    @staticmethod
    def _at(table: Tensor, t: Tensor, like: Tensor) -> Tensor:
        return table.to(like.device)[t].view(-1, *[1] * (like.dim() - 1))
