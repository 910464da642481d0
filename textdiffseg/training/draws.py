"""The random parameters of a training step. They are drawn here and applied elsewhere."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from plans.network_plan import DiffusionPlan
from plans.paper import LABEL_DIFFUSION
from plans.plan import Plan
from textdiffseg.data.batch import SampleKey
from textdiffseg.randomness import torch_generator
from textdiffseg.transfer import send

STREAM = 3  # a random stream of its own; `data.sampling` uses others for the same sample


@dataclass(frozen=True)
class Draws:
    """The random parameters of a batch.

    Each sample's parameters are a function of (seed, epoch, index). Two choices depend on the whole batch: the
    samples that train the autoencoder, and the recycled samples if there are too many.
    """

    t: Tensor  # (B,) int64, 1..T
    eps: Tensor  # (B, k, d, h, w): the noise in z_t
    first_eps: Tensor  # (B, k, d, h, w): the noise at T, from which a recycled sample's z_0 is estimated first
    recycled: Tensor  # (B,) bool: z_t is computed from the model's own estimate of z_0
    estimated: Tensor  # (R,) int64: the samples whose z_0 is estimated; they include all recycled ones
    skips: Tensor  # (B,) bool: the decoder reads the image's skips
    reconstructed: Tensor  # (S,) int64: the samples that train the label autoencoder

    def to(self, device: torch.device | str) -> "Draws":
        """The same draws on another device."""
        return Draws(**{name: send(value, device) for name, value in vars(self).items()})

    def of_one_size(self, plan: DiffusionPlan) -> "Draws":
        """The same draws, with the maximum number of estimates in every batch.

        A changing number would cost more time than it saves. A GPU searches its fastest kernels for each new shape,
        and a compiler compiles for it.
        """
        recycled_first = self.recycled.int().argsort(descending=True, stable=True)
        return replace(self, estimated=recycled_first[: max_recycled(plan, len(self.recycled))])


def max_recycled(plan: DiffusionPlan, batch: int) -> int:
    """The maximum number of recycled samples of a batch: twice the expected number. Others are not recycled."""
    return min(batch, math.ceil(2 * (1 - plan.terminal_share) * plan.recycling * batch))


def draw(plan: DiffusionPlan, latent: tuple[int, int, int, int], seed: int, keys: Sequence[SampleKey]) -> Draws:
    """The random parameters of one step.

    Args:
        plan: the shares and the number of timesteps.
        latent: shape (k, d, h, w).
        seed: of the training run.
        keys: of the batch's samples.
    """
    batch = len(keys)
    uniforms, noise = [], []
    for key in keys:
        generator = torch_generator(STREAM, seed, key.epoch, key.index)
        uniforms.append(torch.rand(5, generator=generator, dtype=torch.float64))
        noise.append(torch.randn(2, *latent, generator=generator))
    time, terminal, recycled, skips, order = torch.stack(uniforms, dim=1)
    times = plan.timesteps - (plan.predicts == "z_0")  # with z_0 prediction, `terminal_share` draws T itself
    t = 1 + (time * times).long()
    t = torch.where(terminal < plan.terminal_share, torch.full_like(t, plan.timesteps), t)
    is_recycled = (recycled < plan.recycling) & (t < plan.timesteps)
    is_recycled &= is_recycled.cumsum(0) <= max_recycled(plan, batch)
    eps, first_eps = torch.stack(noise, dim=1)
    return Draws(
        t=t,
        eps=eps,
        first_eps=first_eps,
        recycled=is_recycled,
        estimated=is_recycled.nonzero().flatten(),
        skips=skips >= plan.skip_dropout,
        reconstructed=order.argsort()[: max(1, int(plan.reconstruction * batch))],
    )


def draw_for(plan: Plan, seed: int, keys: Sequence[SampleKey]) -> Draws | None:
    """`draw` with the shapes of a plan; None if the plan has no diffusion. Diff-UNet's latent is the label map."""
    if plan.peer == "diffunet":
        return draw(LABEL_DIFFUSION, (len(plan.labels), *plan.patch), seed, keys)
    if plan.diffusion is None:
        return None
    return draw(plan.diffusion, (plan.latent.channels, *plan.latent_shape), seed, keys)
