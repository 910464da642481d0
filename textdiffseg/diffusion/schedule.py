"""The noise schedule: z_t = sqrt(alpha_bar_t) z_0 + sqrt(1 - alpha_bar_t) eps  (eq. 3 of the paper).

alpha_bar is the cosine schedule (Nichol and Dhariwal 2021, eq. 17) with a zero terminal signal
(Lin et al. 2024): alpha_bar_0 = 1 and alpha_bar_T = 0 exactly, so that sampling starts from what
training has seen. The table is float32 whatever the precision around it.
"""

import math

import torch
from torch import Tensor


class Schedule:
    """alpha_bar_t for t = 0..T."""

    def __init__(self, timesteps: int = 1000, offset: float = 0.008):
        if timesteps < 1:
            raise ValueError(f"timesteps must be at least 1, found {timesteps}")
        t = torch.linspace(0, 1, timesteps + 1, dtype=torch.float64)
        cosine = torch.cos((t + offset) / (1 + offset) * math.pi / 2) ** 2
        alpha_bar = (cosine - cosine[-1]) / (cosine[0] - cosine[-1])
        self.timesteps = timesteps
        self.alpha_bar = alpha_bar.float()  # (T + 1,)

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

    @staticmethod
    def _at(table: Tensor, t: Tensor, like: Tensor) -> Tensor:
        return table.to(like.device)[t].view(-1, *[1] * (like.dim() - 1))
