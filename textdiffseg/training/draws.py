"""All that is random in a training step, drawn apart from being applied."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from plans.plan import DiffusionPlan, Plan
from textdiffseg.data.loader import SampleKey
from textdiffseg.randomness import torch_generator
from textdiffseg.transfer import send

STREAM = 3  # keeps these numbers apart from those that `data.sampling` draws for the same sample


@dataclass(frozen=True)
class Draws:
    """Random parameters of the samples of a batch.

    Each sample's numbers are a function of (seed, epoch, index). Only two choices look at the whole batch: which
    samples the autoencoder learns from, and which are recycled where too many would be.
    """

    t: Tensor  # (B,) int64, 1..T
    eps: Tensor  # (B, k, d, h, w) the noise of z_t
    first_eps: Tensor  # (B, k, d, h, w) the noise at T from which a recycled sample makes its first estimate
    recycled: Tensor  # (B,) bool: z_t is made of the model's own estimate
    estimated: Tensor  # (R,) int64: the samples of which that estimate is made, all those recycled among them
    skips: Tensor  # (B,) bool: the decoder sees the image's skips
    reconstructed: Tensor  # (S,) int64: the samples from which the label autoencoder learns

    def to(self, device: torch.device | str) -> "Draws":
        """The same draws on another device."""
        return Draws(**{name: send(value, device) for name, value in vars(self).items()})

    def of_one_size(self, plan: DiffusionPlan) -> "Draws":
        """The same, with as many estimates as there are at most.

        Another number of them each time would cost more than the samples it spares: a GPU looks for its fastest
        kernels anew, and a compiler compiles anew.
        """
        recycled_first = self.recycled.int().argsort(descending=True, stable=True)
        return replace(self, estimated=recycled_first[: most_recycled(plan, len(self.recycled))])


def most_recycled(plan: DiffusionPlan, batch: int) -> int:
    """Samples of a batch that are recycled at most: twice as many as are expected; more are left as they are."""
    return min(batch, math.ceil(2 * (1 - plan.terminal_share) * plan.recycling * batch))


def draw(plan: DiffusionPlan, latent: tuple[int, int, int, int], seed: int, keys: Sequence[SampleKey]) -> Draws:
    """Random parameters of one step; `latent` is (k, d, h, w), `keys` are those of the batch's samples."""
    batch = len(keys)
    uniforms, noise = [], []
    for key in keys:
        generator = torch_generator(STREAM, seed, key.epoch, key.index)
        uniforms.append(torch.rand(5, generator=generator, dtype=torch.float64))
        noise.append(torch.randn(2, *latent, generator=generator))
    time, terminal, recycled, skips, order = torch.stack(uniforms, dim=1)
    times = plan.timesteps - (plan.predicts == "z_0")  # T itself comes by its share where z_0 is predicted
    t = 1 + (time * times).long()
    t = torch.where(terminal < plan.terminal_share, torch.full_like(t, plan.timesteps), t)
    again = (recycled < plan.recycling) & (t < plan.timesteps)
    again &= again.cumsum(0) <= most_recycled(plan, batch)
    eps, first_eps = torch.stack(noise, dim=1)
    return Draws(
        t=t,
        eps=eps,
        first_eps=first_eps,
        recycled=again,
        estimated=again.nonzero().flatten(),
        skips=skips >= plan.skip_dropout,
        reconstructed=order.argsort()[: max(1, int(plan.reconstruction * batch))],
    )


def draw_for(plan: Plan, seed: int, keys: Sequence[SampleKey]) -> Draws | None:
    """`draw` with the shapes of a plan; None without diffusion, where there is nothing to draw."""
    if plan.diffusion is None:
        return None
    return draw(plan.diffusion, (plan.latent.channels, *plan.latent_shape), seed, keys)
