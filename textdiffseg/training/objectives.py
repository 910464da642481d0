"""The training objectives, one for each kind of model. `objective_of` chooses it. seg = CE + 1 - Dice.

Masks (presets `default` and `unet`, and the peers):

    loss = seg(mask) + balance * (mean over classes of their mean CE, by how much is missed), balance from .2 to 0

Samples (preset `default`, second stage, with everything that makes masks frozen; networks/label_latent.py has m and s,
networks/common_factors.py the factors w). Factors: the likelihood of the true masks, estimated with M draws,

    loss = -1/N log 1/M sum_m p(y | w_m),   over the N voxels of training/factor_likelihood.py

Denoiser: of the masks that the likeliest of these draws chooses,

    r_0  = (z_0 - m) / s,   r_t = a_t r_0 + sigma_t eps,   v = a_t eps - sigma_t r_0
    loss = |R([r_t, m, g_1], t) - v|^2,   |v_hat - v|^2 = (1 + SNR) |r_0_hat - r_0|^2

It is weighted by s^2, the variance of z_0. Where the image determines the mask, r_0 has no meaning. Models older than
0.3 have no factors. They add seg(decoder_s(z_0, skips)), for their learned decoder of samples.

The publication's model predicts the noise, and its gradients run end to end:

    loss = CE(decoder(z)) + gamma (1 - Dice(decoder(z))) + lambda |eps_hat - eps|^2,   z the estimate of z_0 by eq. 3
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from plans.geometry import triple
from plans.network_plan import PaperPlan
from plans.planning.memory import FACTOR_DRAWS, NOISY_LATENTS, likelihood_voxels
from plans.planning.paper import LABEL_TIMESTEPS
from textdiffseg.data.batch import SampleKey
from textdiffseg.diffusion.losses import known_share, latent_loss
from textdiffseg.diffusion.schedule import LogSnrSchedule, Schedule
from textdiffseg.losses import segmentation_loss
from textdiffseg.networks.label_decoder import LabelDecoder
from textdiffseg.networks.model import SegmentationNetwork, TextDiffSeg
from textdiffseg.networks.peers import LabelDiffusion
from textdiffseg.queries import Queries
from textdiffseg.readout import Readout, readout_of
from textdiffseg.segmenter import MaskSampler, Segmenter
from textdiffseg.training.draws import NoiseDraws, draw_factors, draw_noise
from textdiffseg.training.factor_likelihood import likeliest, log_likelihoods, mean_likelihood_loss
from textdiffseg.training.label_diffusion import label_diffusion_loss

BALANCE = 0.2


@dataclass(frozen=True)
class Losses:
    """The terms of the loss, scalars. A term that the objective does not have is None."""

    estimate: Tensor | None = None
    reconstruction: Tensor | None = None
    latent: Tensor | None = None
    likelihood: Tensor | None = None
    residual: Tensor | None = None

    @property
    def total(self) -> Tensor:
        """The sum of the terms, which training minimises."""
        first, *others = self.named().values()
        return sum(others, first)

    def named(self) -> dict[str, Tensor]:
        """The terms that are not None, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Objective(ABC):
    """Computes the losses of a batch."""

    readout: Readout

    def draw(self, seed: int, keys: Sequence[SampleKey]) -> NoiseDraws | None:
        """The random parameters of a step for the samples `keys`; None if the objective needs none."""
        return None

    @abstractmethod
    def losses(
        self, image: Tensor, targets: Tensor, queries: Queries, draws: NoiseDraws | None, done: float = 1.0
    ) -> Losses:
        """The losses of a batch.

        Args:
            image: (B, C, D, H, W).
            targets: (B, D, H, W) int64 (`Readout.targets`), -1 ignored.
            queries: of the batch.
            draws: those of `draw`.
            done: the share of the iterations of this objective that are done.
        """


@dataclass(frozen=True)
class DirectObjective(Objective):
    """The mask: the segmentation loss of the single pass. Missed classes count, too (`balance_at`)."""

    segmenter: Segmenter

    def losses(
        self, image: Tensor, targets: Tensor, queries: Queries, draws: NoiseDraws | None, done: float = 1.0
    ) -> Losses:
        logits = next(self.segmenter.logits(image, queries))
        return Losses(self.readout.loss(logits, targets, queries, balance_at(done)))


@dataclass(frozen=True)
class SamplingObjective(Objective):
    """Preset `default`, second stage: the losses of factors and denoiser, and that of a learned decoder of samples."""

    segmenter: Segmenter
    network: TextDiffSeg  # of the segmenter
    schedule: LogSnrSchedule  # of the segmenter

    def draw(self, seed: int, keys: Sequence[SampleKey]) -> NoiseDraws:
        plan = self.network.plan
        channels, device = plan.latent.channels, next(self.network.parameters()).device
        noise = self.schedule.noise
        draws = draw_noise(channels, plan.latent_shape, seed, keys, NOISY_LATENTS, draw=noise, device=device)
        if plan.n_factors == 0:
            return draws
        return replace(draws, factors=draw_factors(plan.n_factors, FACTOR_DRAWS, seed, keys))

    def losses(
        self, image: Tensor, targets: Tensor, queries: Queries, draws: NoiseDraws | None, done: float = 1.0
    ) -> Losses:
        assert draws is not None, "expected the draws of this objective"
        network = self.network
        with torch.no_grad():
            sampler = self.segmenter.mask_sampler(image, queries)
        likelihood = reconstruction = None
        if draws.factors is not None:
            log_p = log_likelihoods(sampler, draws.factors, targets, self.readout)
            likelihood = mean_likelihood_loss(log_p) / likelihood_voxels(prod(network.plan.latent_shape))
            sampler = likeliest(sampler, draws.factors, log_p)
        with torch.no_grad():
            z_0 = true_latent(network, self.readout, sampler.p, targets, queries)
        posterior = sampler.posterior
        r_0 = posterior.residual(z_0)
        weight = posterior.scale.square() * known_share(targets, triple(z_0.shape[2:]))
        r_0, weight, m, g_1 = (
            tensor.repeat_interleave(NOISY_LATENTS, dim=0)
            for tensor in (r_0, weight, posterior.mean, sampler.features.on_latent_grid)
        )
        r_t, v = self.schedule.diffuse(r_0, draws.eps, draws.t), self.schedule.velocity(r_0, draws.eps, draws.t)
        error = (network.denoise(r_t, draws.t, (m, g_1)) - v).square()
        if network.sample_decoder is not None:
            reconstruction = self.reconstruction(network.sample_decoder, sampler, z_0, targets)
        residual = (error * weight).sum() / weight.sum().clamp(min=1e-6)
        return Losses(reconstruction=reconstruction, likelihood=likelihood, residual=residual)

    def reconstruction(self, decoder: LabelDecoder, sampler: MaskSampler, z_0: Tensor, targets: Tensor) -> Tensor:
        """The loss of a learned decoder on true latents of half of the patches: on foreground, which comes last."""
        rows = torch.arange(len(z_0) // 2, len(z_0), device=z_0.device)
        queries, skips = sampler.queries.of(rows), tuple(skip[rows] for skip in sampler.features.skips)
        return self.readout.loss(decoder.logits(z_0[rows], skips, queries), targets[rows], queries)


@dataclass(frozen=True)
class PublicationObjective(Objective):
    """The publication's objective: gradients flow through z_0, and there is no clean reconstruction.

    Its label encoder reads label numbers, so labels must exclude each other.
    """

    network: TextDiffSeg
    schedule: Schedule
    paper: PaperPlan

    def draw(self, seed: int, keys: Sequence[SampleKey]) -> NoiseDraws:
        plan, device = self.network.plan, next(self.network.parameters()).device
        channels, steps = plan.latent.channels, self.paper.timesteps
        return draw_noise(channels, plan.latent_shape, seed, keys, timesteps=steps, device=device)

    def losses(
        self, image: Tensor, targets: Tensor, queries: Queries, draws: NoiseDraws | None, done: float = 1.0
    ) -> Losses:
        assert draws is not None, "expected the draws of this objective"
        network, paper = self.network, self.paper
        z_i, _ = network.encode_image(image)
        z_it = network.fuse(z_i, queries)
        z_t = self.schedule.diffuse(network.encode_label_map(targets, queries), draws.eps, draws.t)
        eps_hat = network.denoise(z_t, draws.t, (z_it,))
        z = self.schedule.clean(z_t, eps_hat, draws.t) if paper.decoder_input == "z_0" else z_t - eps_hat
        logits = network.decode_latent(z, queries)
        return Losses(
            segmentation_loss(logits, targets, queries.labels, dice_weight=paper.dice_weight),
            latent=paper.latent_weight * latent_loss(eps_hat, draws.eps, targets),
        )


@dataclass(frozen=True)
class LabelDiffusionObjective(Objective):
    """Preset `peer-diffunet`: the loss of `label_diffusion`."""

    network: LabelDiffusion

    def draw(self, seed: int, keys: Sequence[SampleKey]) -> NoiseDraws:
        plan, device = self.network.plan, next(self.network.parameters()).device
        return draw_noise(len(plan.labels), plan.patch, seed, keys, timesteps=LABEL_TIMESTEPS, device=device)

    def losses(
        self, image: Tensor, targets: Tensor, queries: Queries, draws: NoiseDraws | None, done: float = 1.0
    ) -> Losses:
        assert draws is not None, "expected the draws of this objective"
        t = (draws.t * LABEL_TIMESTEPS).round().long()
        return Losses(label_diffusion_loss(self.network, self.readout, image, targets, queries, t, draws.eps))


def balance_at(done: float) -> float:
    """The weight of the missed classes' mean cross-entropy: `BALANCE` at first, 0 at the end.

    Without it, the oesophagus in planning CT was found after 440 to 1,100 iterations, with it after 90 to 140. It makes
    masks of small labels too large, so the last iterations nearly do without (docs/method.md).
    """
    return BALANCE * (1 - done)


def objective_of(network: SegmentationNetwork, samples: bool = False) -> Objective:
    """The objective of a network; with `samples`, that of the second stage of preset `default`."""
    plan, readout = network.plan, readout_of(network.plan)
    if isinstance(network, LabelDiffusion):
        return LabelDiffusionObjective(readout, network)
    segmenter = Segmenter.of(network, next(network.parameters()).device)
    if isinstance(network, TextDiffSeg) and plan.paper and segmenter.schedule:
        return PublicationObjective(readout, network, segmenter.schedule, plan.paper)
    if isinstance(network, TextDiffSeg) and isinstance(segmenter.schedule, LogSnrSchedule) and samples:
        return SamplingObjective(readout, segmenter, network, segmenter.schedule)
    return DirectObjective(readout, segmenter)


def true_latent(network: TextDiffSeg, readout: Readout, p: Tensor, targets: Tensor, queries: Queries) -> Tensor:
    """z_0 (B, k, d, h, w) of the targets. Ignored voxels have the probabilities p (B, Q, D, H, W) of the mask."""
    known = (targets >= 0).unsqueeze(1)
    return network.encode_masks(torch.where(known, readout.true_masks(targets, queries).to(p.dtype), p), queries)
