"""The random parameters of a training step. They are drawn here and applied elsewhere.

Each sample's parameters are a function of (seed, epoch, index).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from plans.geometry import Triple
from textdiffseg.data.batch import SampleKey
from textdiffseg.diffusion.noise import white_noise
from textdiffseg.randomness import Stream, torch_generator
from textdiffseg.transfer import send


@dataclass(frozen=True)
class NoiseDraws:
    """Of the training of a denoiser, for N noisy latents of each sample; those of one sample follow each other."""

    t: Tensor  # (B * N,) float32 from 0 to 1
    eps: Tensor  # (B * N, k, d, h, w): the noise in z_t
    factors: Tensor | None = None  # w (M, B, R), M draws for each sample; None: the model has no factors

    def to(self, device: torch.device | str) -> "NoiseDraws":
        """The same draws on another device."""
        factors = None if self.factors is None else send(self.factors, device)
        return NoiseDraws(send(self.t, device), send(self.eps, device), factors)


def draw_noise(
    channels: int,
    latent: Triple,
    seed: int,
    keys: Sequence[SampleKey],
    count: int = 1,
    timesteps: int | None = None,
    draw: Callable[[tuple[int, ...], torch.Generator], Tensor] = white_noise,
    device: torch.device | str = "cpu",
) -> NoiseDraws:
    """The noise and its level for the samples `keys`.

    Args:
        channels: k.
        latent: the grid (d, h, w).
        seed: of the training run.
        keys: of the batch's samples.
        count: N, of noisy latents for each sample.
        timesteps: t is a multiple of 1 / `timesteps`, and not 0; None: t is any number from 0 to 1.
        draw: draws the noise of a shape (k, d, h, w), e.g. `Schedule.noise`.
        device: on which the noise is drawn. On the CPU, a GPU would wait for it.
    """
    generators = [torch_generator(Stream.NOISE, seed, key.epoch, key.index) for key in keys]
    first = torch.stack([torch.rand(1, generator=generator) for generator in generators])
    t = ((first + torch.arange(count)) / count).flatten()  # even over the noise levels
    if timesteps:
        t = (1 + (t * timesteps).long()) / timesteps
    if torch.device(device).type == "cuda":
        generators = [torch_generator(Stream.NOISE, seed, key.epoch, key.index, device=device) for key in keys]
    drawn = [draw((channels, *latent), generator) for generator in generators for _ in range(count)]
    return NoiseDraws(t, torch.stack(drawn))


def draw_factors(count: int, draws: int, seed: int, keys: Sequence[SampleKey]) -> Tensor:
    """`draws` draws of `count` common factors for the samples `keys`, standard normal: (M, B, R)."""
    generators = [torch_generator(Stream.FACTORS, seed, key.epoch, key.index) for key in keys]
    return torch.stack([torch.randn(draws, count, generator=generator) for generator in generators], dim=1)
