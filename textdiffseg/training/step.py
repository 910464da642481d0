"""One batch to losses (DESIGN sections 4.4 and 4.7).

    z_0     = encoder(label map painted with words)
    z_t     = sqrt(alpha_bar_t) z_0 + sqrt(1 - alpha_bar_t) eps
    z_0_hat = denoiser(z_t, t, z_it)
    loss    = seg(decoder(z_0_hat, skips)) + seg(decoder(z_0, no skips)) + |z_0_hat - z_0|^2,   seg = Dice + CE

The label encoder learns from the clean reconstruction alone: what the diffusion branch reads of z_0 is detached, so
that no gradient can make the latent easier to predict by making it say less.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from plans.plan import DiffusionPlan
from plans.records import Voxels
from textdiffseg.diffusion.losses import latent_loss, segmentation_loss
from textdiffseg.diffusion.schedule import Schedule
from textdiffseg.networks.model import UNET_TIMESTEPS, TextDiffSeg
from textdiffseg.queries import Queries


@dataclass(frozen=True)
class Draws:
    """All that is random in a training step, drawn apart from being applied."""

    t: Tensor  # (B,) int64, 1..T
    eps: Tensor  # (B, k, d, h, w) the noise of z_t
    first_eps: Tensor  # (B, k, d, h, w) the noise at T from which a recycled sample makes its first estimate
    recycled: Tensor  # (B,) bool: z_t is made of the model's own estimate
    skips: Tensor  # (B,) bool: the decoder sees the image's skips

    def to(self, device: torch.device | str) -> "Draws":
        """The same draws on another device."""
        return Draws(**{name: value.to(device, non_blocking=True) for name, value in vars(self).items()})


@dataclass(frozen=True)
class Losses:
    """Scalars; `reconstruction` and `latent` are None for preset unet."""

    estimate: Tensor
    reconstruction: Tensor | None = None
    latent: Tensor | None = None

    @property
    def total(self) -> Tensor:
        """The sum that is minimised."""
        return sum(self.named().values())

    def named(self) -> dict[str, Tensor]:
        """The parts that there are, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


def draw(plan: DiffusionPlan, batch: int, latent: tuple[int, int, int, int], generator: torch.Generator) -> Draws:
    """Random parameters of one step; `latent` is (k, d, h, w). Drawn on the CPU, so that devices agree."""
    t = torch.randint(1, plan.timesteps, (batch,), generator=generator)
    terminal, recycled, skips = torch.rand(3, batch, generator=generator)
    t = torch.where(terminal < plan.terminal_share, torch.full_like(t, plan.timesteps), t)
    return Draws(
        t=t,
        eps=torch.randn(batch, *latent, generator=generator),
        first_eps=torch.randn(batch, *latent, generator=generator),
        recycled=(recycled < plan.recycling) & (t < plan.timesteps),
        skips=skips >= plan.skip_dropout,
    )


def draw_for(model: TextDiffSeg, batch: int, generator: torch.Generator) -> Draws | None:
    """`draw` with the shapes of the model's plan; None for preset unet, which has nothing to draw."""
    plan = model.plan
    if plan.diffusion is None:
        return None
    grid: Voxels = tuple(size // stride for size, stride in zip(plan.patch, plan.latent_stride, strict=True))
    return draw(plan.diffusion, batch, (plan.latent.channels, *grid), generator)


def losses(
    model: TextDiffSeg, schedule: Schedule, image: Tensor, slots: Tensor, queries: Queries, draws: Draws | None
) -> Losses:
    """image (B, C, D, H, W); slots (B, D, H, W) int64 by `Queries.slots`, -1 ignored."""
    z_i, skips = model.encode_image(image)
    z_it = model.fuse(z_i, queries)
    if draws is None:
        t = torch.full((len(image),), UNET_TIMESTEPS, device=image.device)
        zero = z_i.new_zeros(len(image), model.plan.latent.channels, *z_i.shape[2:])
        logits = model.decode(model.denoise(zero, t, z_it), skips, queries)
        return Losses(segmentation_loss(logits, slots, queries.labels))

    z_0 = model.encode_labels(slots, queries)
    z_t = noisy_latent(model, schedule, z_0.detach(), z_it.detach(), draws)
    z_0_hat = model.denoise(z_t, draws.t, z_it)
    keep = draws.skips.view(-1, 1, 1, 1, 1)
    estimate = model.decode(z_0_hat, tuple(skip * keep for skip in skips), queries)
    reconstruction = model.decode(z_0, None, queries)
    return Losses(
        segmentation_loss(estimate, slots, queries.labels),
        segmentation_loss(reconstruction, slots, queries.labels),
        latent_loss(z_0_hat, z_0, slots),
    )


@torch.no_grad()
def noisy_latent(model: TextDiffSeg, schedule: Schedule, z_0: Tensor, z_it: Tensor, draws: Draws) -> Tensor:
    """z_t of each sample, from the truth or, where recycled, from the model's own estimate at T."""
    recycled = draws.recycled.nonzero().flatten()
    if len(recycled):
        t = torch.full_like(recycled, schedule.timesteps)
        z_0 = z_0.index_copy(0, recycled, model.denoise(draws.first_eps[recycled], t, z_it[recycled]))
    return schedule.diffuse(z_0, draws.eps, draws.t)


@torch.no_grad()
def estimate_once(model: TextDiffSeg, image: Tensor, queries: Queries, eps: Tensor) -> Tensor:
    """Logits (B, 1 + Q, D, H, W) of one step from the noise eps (B, k, d, h, w) at T; preset unet ignores the noise."""
    z_i, skips = model.encode_image(image)
    timesteps = model.plan.diffusion.timesteps if model.plan.diffusion else UNET_TIMESTEPS
    t = torch.full((len(image),), timesteps, device=image.device)
    z_T = eps if model.plan.diffusion else torch.zeros_like(eps)
    return model.decode(model.denoise(z_T, t, model.fuse(z_i, queries)), skips, queries)
