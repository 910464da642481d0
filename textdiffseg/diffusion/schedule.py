"""Noise schedules: z_t = a_t z_0 + sigma_t eps with a_t^2 + sigma_t^2 = 1  (eq. 3 of the paper, a_t^2 = alpha_bar_t).

`LogSnrSchedule` is that of preset `default`: log SNR = ln(a_t^2 / sigma_t^2) is linear in t. The network predicts
v = a_t eps - sigma_t z_0 (Salimans and Ho 2022). The error of z_0 weighted by 1 + SNR is then the plain error of v.

`CosineSchedule` is the publication's (Nichol and Dhariwal 2021, eq. 17). The network predicts the noise eps.
"""

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from plans.plan import Plan
from textdiffseg.diffusion.noise import smooth_noise, white_noise

OFFSET, MAX_BETA = 0.008, 0.999  # Nichol and Dhariwal 2021, section 3.2


class Schedule(ABC):
    """The signal a_t and the noise sigma_t, for t from 0 (clean) to 1 (noisiest)."""

    @abstractmethod
    def signal(self, t: Tensor) -> Tensor:
        """a_t for t (B,), float32."""

    @abstractmethod
    def levels(self, steps: int) -> tuple[float, ...]:
        """t of each of `steps` DDIM steps, from 1 down. Raises `ValueError` if there cannot be so many."""

    @abstractmethod
    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """The noise (k, d, h, w) with which sampling starts, on the generator's device."""

    @abstractmethod
    def clean(self, z_t: Tensor, predicted: Tensor, t: Tensor) -> Tensor:
        """z_0_hat from z_t and the network's output, (B, k, d, h, w), at t (B,)."""

    def diffuse(self, z_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """z_t (B, k, d, h, w) from z_0 and eps of the same shape at t (B,): eq. 3."""
        a, sigma = self.coefficients(t, z_0)
        return a * z_0 + sigma * eps

    def epsilon(self, z_t: Tensor, z_0: Tensor, t: Tensor) -> Tensor:
        """The noise eps in z_t, given z_0, at t (B,) > 0: eq. 3 solved for eps."""
        a, sigma = self.coefficients(t, z_t)
        return (z_t - a * z_0) / sigma

    def coefficients(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """a_t and sigma_t for t (B,), with the axes of `like` (B, ...)."""
        a = self.signal(t.to(like.device)).view(-1, *[1] * (like.dim() - 1))
        return a, (1 - a.square()).sqrt()


class LogSnrSchedule(Schedule):
    """log SNR falls linearly from `max_log_snr` at t = 0 to `min_log_snr` at t = 1."""

    def __init__(self, min_log_snr: float, max_log_snr: float):
        self.min_log_snr, self.max_log_snr = min_log_snr, max_log_snr

    def signal(self, t: Tensor) -> Tensor:
        return (self.max_log_snr + t * (self.min_log_snr - self.max_log_snr)).sigmoid().sqrt()

    def levels(self, steps: int) -> tuple[float, ...]:
        """Evenly spaced from 1 to 0. One step starts and ends at t = 1."""
        if steps < 1:
            raise ValueError(f"steps must be at least 1, found {steps}")
        return tuple(1 - step / max(1, steps - 1) for step in range(steps))

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return smooth_noise(shape, generator)

    def clean(self, z_t: Tensor, predicted: Tensor, t: Tensor) -> Tensor:
        """z_0_hat = a_t z_t - sigma_t v_hat."""
        a, sigma = self.coefficients(t, z_t)
        return a * z_t - sigma * predicted

    def velocity(self, z_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """v = a_t eps - sigma_t z_0 (B, k, d, h, w), which the network learns to predict."""
        a, sigma = self.coefficients(t, z_0)
        return a * eps - sigma * z_0


class CosineSchedule(Schedule):
    """The cosine schedule in T steps. beta_t is at most 0.999, so that eps_hat determines z_0 at T, too.

    Raises `ValueError` if `timesteps` (T) is below 1. The table is float32, also under autocast.
    """

    def __init__(self, timesteps: int, device: torch.device | str = "cpu"):
        if timesteps < 1:
            raise ValueError(f"timesteps must be at least 1, found {timesteps}")
        t = torch.linspace(0, 1, timesteps + 1, dtype=torch.float64)
        cosine = torch.cos((t + OFFSET) / (1 + OFFSET) * math.pi / 2) ** 2
        alpha = (cosine[1:] / cosine[:-1]).clamp(min=1 - MAX_BETA)
        alpha_bar = torch.cat((torch.ones(1, dtype=torch.float64), alpha.cumprod(0)))
        self.timesteps = timesteps
        self.alpha_bar = alpha_bar.float().to(device)  # (T + 1,)

    def signal(self, t: Tensor) -> Tensor:
        return self.alpha_bar.sqrt()[(t * self.timesteps).round().long()]

    def levels(self, steps: int) -> tuple[float, ...]:
        """Evenly spaced, from T on, rounded to whole time steps."""
        if not 1 <= steps <= self.timesteps:
            raise ValueError(f"steps must lie between 1 and {self.timesteps}, found {steps}")
        return tuple(round(self.timesteps * (steps - i) / steps) / self.timesteps for i in range(steps))

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return white_noise(shape, generator)

    def clean(self, z_t: Tensor, predicted: Tensor, t: Tensor) -> Tensor:
        """z_0_hat: eq. 3 solved for z_0, then standardised over the patch.

        z_0 is standardised too, so the factor 1 / a_t cancels. That factor, 20,000 at T, would magnify errors. LDSeg's
        sampler also standardises after every step.
        """
        _, sigma = self.coefficients(t, z_t)
        return F.layer_norm(z_t - sigma * predicted, z_t.shape[1:])


def schedule_of(plan: Plan, device: torch.device | str = "cpu") -> Schedule | None:
    """The schedule of a plan, for latents on `device`; None if it has no diffusion."""
    if plan.paper:
        return CosineSchedule(plan.paper.timesteps, device)
    if plan.diffusion:
        return LogSnrSchedule(plan.diffusion.min_log_snr, plan.diffusion.max_log_snr)
    return None
