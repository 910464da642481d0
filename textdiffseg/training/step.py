"""One batch to losses.

    z_0     = encoder(label map painted with words)
    z_t     = sqrt(alpha_bar_t) z_0 + sqrt(1 - alpha_bar_t) eps
    z_0_hat = denoiser(z_t, t, z_it)
    loss    = seg(decoder(z_0_hat, skips)) + seg(decoder(z_0, no skips)) + |z_0_hat - z_0|^2,   seg = Dice + CE

The label encoder learns from the second term alone, the clean reconstruction, which takes half of the samples. The z_0
that the diffusion reads is made without gradients, so that none can make the latent easier to predict by making it say
less.

The publication's model predicts the noise, and its gradients run end to end:

    loss = CE(decoder(z)) + gamma Dice(decoder(z)) + lambda |eps_hat - eps|^2,   z the estimate of z_0 by eq. 3
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from plans.plan import DiffusionPlan, Plan
from textdiffseg.data.loader import SampleKey
from textdiffseg.diffusion.ddim import sample
from textdiffseg.diffusion.losses import latent_loss, region_loss, segmentation_loss
from textdiffseg.diffusion.schedule import Schedule
from textdiffseg.networks.model import SegmentationNetwork, TextDiffSeg
from textdiffseg.queries import Queries
from textdiffseg.randomness import torch_generator
from textdiffseg.regions import members
from textdiffseg.transfer import send

STREAM = 3  # keeps these numbers apart from those that `data.sampling` draws for the same sample


@dataclass(frozen=True)
class Draws:
    """All that is random in a training step, drawn apart from being applied.

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
        """The same, with as many estimates as there are at most: another number of them each time would cost a GPU,
        which looks for its fastest kernels anew, and a compiler more than the samples it spares."""
        recycled_first = self.recycled.int().argsort(descending=True, stable=True)
        return replace(self, estimated=recycled_first[: most_recycled(plan, len(self.recycled))])


@dataclass(frozen=True)
class Losses:
    """Scalars; `reconstruction` and `latent` are None without diffusion, `reconstruction` for the publication too."""

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


def draw_for(model: SegmentationNetwork, seed: int, keys: Sequence[SampleKey]) -> Draws | None:
    """`draw` with the shapes of the model's plan; None without diffusion, where there is nothing to draw."""
    plan = model.plan
    if plan.diffusion is None:
        return None
    return draw(plan.diffusion, (plan.latent.channels, *plan.latent_shape), seed, keys)


def losses(
    model: SegmentationNetwork, schedule: Schedule, image: Tensor, slots: Tensor, queries: Queries, draws: Draws | None
) -> Losses:
    """image (B, C, D, H, W); slots (B, D, H, W) int64 by `targets`, -1 ignored."""
    if draws is None:
        return Losses(segmentation(model.plan, model.segment(image, queries), slots, queries))
    if model.plan.paper:
        return paper_losses(model, schedule, image, slots, queries, draws)
    z_i, skips = model.encode_image(image)
    z_it = model.fuse(z_i, queries)
    with torch.no_grad():
        z_0 = model.encode_labels(slots, queries)
    z_t = noisy_latent(model, schedule, z_0, z_it.detach(), draws)
    z_0_hat = model.denoise(z_t, draws.t, z_it)
    keep = draws.skips.view(-1, 1, 1, 1, 1)
    estimate = model.decode(z_0_hat, tuple(skip * keep for skip in skips), queries)
    return Losses(
        segmentation(model.plan, estimate, slots, queries),
        reconstruction_loss(model, slots[draws.reconstructed], queries.of(draws.reconstructed)),
        latent_loss(z_0_hat, z_0, slots),
    )


def reconstruction_loss(model: TextDiffSeg, slots: Tensor, queries: Queries) -> Tensor:
    """What the label autoencoder learns from: slots (S, D, H, W) by `targets`, encoded, and decoded without skips."""
    logits = model.decode(model.encode_labels(slots, queries), None, queries)
    return segmentation(model.plan, logits, slots, queries)


def targets(plan: Plan, label_map: Tensor, queries: Queries) -> Tensor:
    """label_map (B, D, H, W) as stored -> slots (`Queries.slots`); where labels overlap its numbers, as a voxel may
    lie in several slots. int64, -1 ignored."""
    return queries.slots(label_map, len(plan.labels)) if plan.regions is None else label_map.long()


def segmentation(plan: Plan, logits: Tensor, slots: Tensor, queries: Queries) -> Tensor:
    """The loss of logits (B, 1 + Q, D, H, W) against `targets`."""
    if plan.regions is None:
        return segmentation_loss(logits, slots, queries.labels)
    return region_loss(logits, slots, members(queries, plan.parts), queries.labels)


def paper_losses(
    model: TextDiffSeg, schedule: Schedule, image: Tensor, slots: Tensor, queries: Queries, draws: Draws
) -> Losses:
    """The publication's, with gradients end to end: no z_0 is detached, no clean reconstruction is trained on."""
    paper = model.plan.paper
    z_i, _ = model.encode_image(image)
    z_it = model.fuse(z_i, queries)
    z_t = schedule.diffuse(model.encode_labels(slots, queries), draws.eps, draws.t)
    eps_hat = model.denoise(z_t, draws.t, z_it)
    z = schedule.clean(z_t, eps_hat, draws.t) if paper.decoder_input == "z_0" else z_t - eps_hat
    logits = model.decode(z, None, queries)
    return Losses(
        segmentation_loss(logits, slots, queries.labels, dice_weight=paper.dice_weight),
        latent=paper.latent_weight * latent_loss(eps_hat, draws.eps, slots),
    )


@torch.no_grad()
def noisy_latent(model: TextDiffSeg, schedule: Schedule, z_0: Tensor, z_it: Tensor, draws: Draws) -> Tensor:
    """z_t of each sample, from the truth or, where recycled, from the model's own estimate at T."""
    rows = draws.estimated
    if len(rows):
        t = torch.full_like(rows, schedule.timesteps)
        estimate = z_0.index_copy(0, rows, model.denoise(draws.first_eps[rows], t, z_it[rows]))
        z_0 = torch.where(draws.recycled.view(-1, 1, 1, 1, 1), estimate, z_0)
    return schedule.diffuse(z_0, draws.eps, draws.t)


@torch.no_grad()
def estimate_logits(model: SegmentationNetwork, image: Tensor, queries: Queries, eps: Tensor) -> Tensor:
    """Logits (B, 1 + Q, D, H, W) from the noise eps (B, k, d, h, w) at T, in one step unless the plan fixes more.

    Models without diffusion ignore the noise.
    """
    diffusion = model.plan.diffusion
    if diffusion is None:
        return model.segment(image, queries)
    z_i, skips = model.encode_image(image)
    denoise = partial(model.denoise, z_it=model.fuse(z_i, queries))
    z_0 = sample(denoise, eps, Schedule.of(diffusion, eps.device), diffusion.steps or 1)
    return model.decode(z_0, skips, queries)
