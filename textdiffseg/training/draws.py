"""The random parameters of a training step. They are drawn here and applied elsewhere.

Each sample's parameters are a function of (seed, epoch, index). Only the number of samples that train the label
autoencoder depends on the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from plans.geometry import Triple
from plans.network_plan import DiffusionPlan
from textdiffseg.data.batch import SampleKey
from textdiffseg.randomness import torch_generator
from textdiffseg.transfer import send

SKIPS_SHARE = 0.5  # of the reconstructions
STREAM = 3  # a random stream of its own; `data.sampling` uses others for the same sample
Tensors = TypeVar("Tensors", "LatentDraws", "NoiseDraws")


@dataclass(frozen=True)
class LatentDraws:
    """Of the training of masks and of the label autoencoder (preset `default`)."""

    reconstructed: Tensor  # (S,) int64: the samples that train the label autoencoder
    skips: Tensor  # (S,) bool: their reconstruction reads the skips, too

    def to(self, device: torch.device | str) -> "LatentDraws":
        """The same draws on another device."""
        return _sent(self, device)


@dataclass(frozen=True)
class NoiseDraws:
    """Of the training of a denoiser, for N noisy latents of each sample; those of one sample follow each other."""

    t: Tensor  # (B * N,) float32 from 0 to 1
    eps: Tensor  # (B * N, k, d, h, w): the noise in z_t

    def to(self, device: torch.device | str) -> "NoiseDraws":
        """The same draws on another device."""
        return _sent(self, device)


Draws = LatentDraws | NoiseDraws


def draw_latent(plan: DiffusionPlan, seed: int, keys: Sequence[SampleKey]) -> LatentDraws:
    """The random parameters of one step for the samples `keys`; `seed` is that of the training run."""
    generators = [torch_generator(STREAM, seed, key.epoch, key.index) for key in keys]
    order, skips = torch.stack([torch.rand(2, generator=one) for one in generators], dim=1)
    first = min(key.index for key in keys)
    count = int((first + len(keys)) * plan.reconstruction) - int(first * plan.reconstruction)
    chosen = order.argsort()[:count]
    return LatentDraws(reconstructed=chosen, skips=skips[chosen] < SKIPS_SHARE)


def draw_noise(
    channels: int,
    latent: Triple,
    seed: int,
    keys: Sequence[SampleKey],
    count: int = 1,
    timesteps: int | None = None,
) -> NoiseDraws:
    """The noise and its level for the samples `keys`.

    Args:
        channels: k.
        latent: the grid (d, h, w).
        seed: of the training run.
        keys: of the batch's samples.
        count: N, of noisy latents for each sample.
        timesteps: t is a multiple of 1 / `timesteps`, and not 0; None: t is any number from 0 to 1.
    """
    generators = [torch_generator(STREAM, seed, key.epoch, key.index) for key in keys]
    first = torch.stack([torch.rand(1, generator=one) for one in generators])
    t = ((first + torch.arange(count)) / count).flatten()  # even over the noise levels
    if timesteps:
        t = (1 + (t * timesteps).long()) / timesteps
    return NoiseDraws(t, torch.cat([torch.randn(count, channels, *latent, generator=one) for one in generators]))


def _sent(draws: Tensors, device: torch.device | str) -> Tensors:
    return type(draws)(**{name: send(value, device) for name, value in vars(draws).items()})
