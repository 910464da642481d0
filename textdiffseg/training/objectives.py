"""The training objectives, one for each kind of model. `objective_of` chooses it. seg = Dice + CE.

Preset `unet` and the peers:

    loss = seg(decoder(F(z_it), skips))

Preset `default`, first stage. The latent m of the mask is learned together with the label autoencoder, which sees a
share of the samples, half of them with skips:

    z_0  = encoder(embedded label map),   h, m = F(z_it)
    loss = seg(decoder(m, skips)) + w (seg(decoder(z_0, skips or none)) + |m - z_0|^2)

No gradient flows from the latent loss into z_0. With it, the encoder could make z_0 easier to predict by storing less
in it. The weight w is small, so that shared modules learn for the mask first. The optimiser's step does not depend on
the size of a gradient: the label encoder learns as fast as with a large weight.

Second stage, with everything but the denoiser R frozen (s: `TextDiffSeg.residual_scale`):

    r_0  = (z_0 - m) / s,   r_t = a_t r_0 + sigma_t eps,   v = a_t eps - sigma_t r_0
    loss = |R([r_t, m, z_it], t) - v|^2  =  (1 + SNR) |r_0_hat - r_0|^2

The publication's model predicts the noise, and its gradients run end to end:

    loss = CE(decoder(z)) + gamma Dice(decoder(z)) + lambda |eps_hat - eps|^2,   z the estimate of z_0 by eq. 3
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from plans.network_plan import DiffusionPlan, PaperPlan
from plans.paper import LABEL_TIMESTEPS
from textdiffseg.data.batch import SampleKey
from textdiffseg.diffusion.losses import latent_loss, segmentation_loss
from textdiffseg.diffusion.schedule import CosineSchedule, LogSnrSchedule, log_snr_schedule
from textdiffseg.networks.model import SegmentationNetwork, TextDiffSeg
from textdiffseg.networks.peers import LabelDiffusion
from textdiffseg.queries import Queries
from textdiffseg.readout import Readout, readout_of
from textdiffseg.segmenter import Segmenter, condition
from textdiffseg.training.draws import Draws, LatentDraws, NoiseDraws, draw_latent, draw_noise
from textdiffseg.training.label_diffusion import label_diffusion_loss

NOISY_LATENTS = 4  # of each sample in the second stage; the frozen modules, most of its time, run once for all of them


@dataclass(frozen=True)
class Losses:
    """The terms of the loss, scalars. A term that the objective does not have is None."""

    estimate: Tensor | None = None
    reconstruction: Tensor | None = None
    latent: Tensor | None = None
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

    def draw(self, seed: int, keys: Sequence[SampleKey]) -> Draws | None:
        """The random parameters of a step for the samples `keys`; None if the objective needs none."""
        return None

    @abstractmethod
    def losses(self, image: Tensor, targets: Tensor, queries: Queries, draws: Draws | None) -> Losses:
        """The losses of image (B, C, D, H, W) with targets (B, D, H, W) int64 (`Readout.targets`), -1 ignored.

        `draws` are those of `draw`.
        """


@dataclass(frozen=True)
class DirectObjective(Objective):
    """A model without diffusion: the segmentation loss of its single pass."""

    segmenter: Segmenter

    def losses(self, image: Tensor, targets: Tensor, queries: Queries, draws: Draws | None) -> Losses:
        logits = next(self.segmenter.logits(image, queries))
        return Losses(self.readout.loss(logits, targets, queries))


@dataclass(frozen=True)
class LatentObjective(Objective):
    """Preset `default`, first stage: the losses of the mask, of the label autoencoder and of the mask's latent."""

    network: TextDiffSeg
    diffusion: DiffusionPlan

    def draw(self, seed: int, keys: Sequence[SampleKey]) -> LatentDraws:
        return draw_latent(self.diffusion, seed, keys)

    def losses(self, image: Tensor, targets: Tensor, queries: Queries, draws: Draws | None) -> Losses:
        assert isinstance(draws, LatentDraws), "expected the draws of this objective"
        network, rows = self.network, draws.reconstructed
        conditioned = condition(network, image, queries)
        m = conditioned.mask_latent
        assert m is not None, "expected a model with an estimator"
        logits = network.decode(m, conditioned.skips, queries)
        mask = self.readout.loss(logits, targets, queries)
        if not len(rows):
            return Losses(mask)
        targets, queries = targets[rows], queries.of(rows)
        z_0 = network.encode_labels(targets, queries)
        skips = _kept(tuple(skip[rows] for skip in conditioned.skips), draws.skips)
        reconstruction = self.readout.loss(network.decode(z_0, skips, queries), targets, queries)
        weight = self.diffusion.latent_weight
        return Losses(mask, weight * reconstruction, weight * latent_loss(m[rows], z_0, targets))


@dataclass(frozen=True)
class ResidualObjective(Objective):
    """Preset `default`, second stage: the loss of the denoiser. Everything else is frozen."""

    network: TextDiffSeg
    schedule: LogSnrSchedule

    def draw(self, seed: int, keys: Sequence[SampleKey]) -> NoiseDraws:
        plan = self.network.plan
        return draw_noise(plan.latent.channels, plan.latent_shape, seed, keys, NOISY_LATENTS)

    def losses(self, image: Tensor, targets: Tensor, queries: Queries, draws: Draws | None) -> Losses:
        assert isinstance(draws, NoiseDraws), "expected the draws of this objective"
        network = self.network
        with torch.no_grad():
            conditioned = condition(network, image, queries)
            m, z_0 = conditioned.mask_latent, network.encode_labels(targets, queries)
            assert m is not None, "expected a model with an estimator"
            r_0 = (z_0 - m) / network.residual_scale.view(1, -1, 1, 1, 1)
        r_0, m, z_it, targets = (
            part.repeat_interleave(NOISY_LATENTS, dim=0) for part in (r_0, m, conditioned.z_it, targets)
        )
        r_t = self.schedule.diffuse(r_0, draws.eps, draws.t)
        v_hat = network.denoise(r_t, draws.t, (m, z_it))
        return Losses(residual=latent_loss(v_hat, self.schedule.velocity(r_0, draws.eps, draws.t), targets))


@dataclass(frozen=True)
class PublicationObjective(Objective):
    """The publication's objective: gradients flow through z_0, and there is no clean reconstruction.

    Its label encoder reads label numbers, so labels must exclude each other.
    """

    network: TextDiffSeg
    schedule: CosineSchedule
    paper: PaperPlan

    def draw(self, seed: int, keys: Sequence[SampleKey]) -> NoiseDraws:
        plan = self.network.plan
        return draw_noise(plan.latent.channels, plan.latent_shape, seed, keys, timesteps=self.paper.timesteps)

    def losses(self, image: Tensor, targets: Tensor, queries: Queries, draws: Draws | None) -> Losses:
        assert isinstance(draws, NoiseDraws), "expected the draws of this objective"
        network, paper = self.network, self.paper
        z_it = condition(network, image, queries).z_it
        z_t = self.schedule.diffuse(network.encode_labels(targets, queries), draws.eps, draws.t)
        eps_hat = network.denoise(z_t, draws.t, (z_it,))
        z = self.schedule.clean(z_t, eps_hat, draws.t) if paper.decoder_input == "z_0" else z_t - eps_hat
        logits = network.decode(z, None, queries)
        return Losses(
            segmentation_loss(logits, targets, queries.labels, dice_weight=paper.dice_weight),
            latent=paper.latent_weight * latent_loss(eps_hat, draws.eps, targets),
        )


@dataclass(frozen=True)
class LabelDiffusionObjective(Objective):
    """Preset `peer-diffunet`: the loss of `label_diffusion`."""

    network: LabelDiffusion

    def draw(self, seed: int, keys: Sequence[SampleKey]) -> NoiseDraws:
        plan = self.network.plan
        return draw_noise(len(plan.labels), plan.patch, seed, keys, timesteps=LABEL_TIMESTEPS)

    def losses(self, image: Tensor, targets: Tensor, queries: Queries, draws: Draws | None) -> Losses:
        assert isinstance(draws, NoiseDraws), "expected the draws of this objective"
        t = (draws.t * LABEL_TIMESTEPS).round().long()
        return Losses(label_diffusion_loss(self.network, self.readout, image, targets, queries, t, draws.eps))


def objective_of(network: SegmentationNetwork, trains_denoiser: bool = False) -> Objective:
    """The objective of a network; with `trains_denoiser`, that of the second stage of preset `default`."""
    plan, readout = network.plan, readout_of(network.plan)
    if isinstance(network, LabelDiffusion):
        return LabelDiffusionObjective(readout, network)
    if isinstance(network, TextDiffSeg) and plan.paper:
        schedule = CosineSchedule(plan.paper.timesteps, next(network.parameters()).device)
        return PublicationObjective(readout, network, schedule, plan.paper)
    if isinstance(network, TextDiffSeg) and plan.diffusion:
        if trains_denoiser:
            return ResidualObjective(readout, network, log_snr_schedule(plan.diffusion))
        return LatentObjective(readout, network, plan.diffusion)
    return DirectObjective(readout, Segmenter.of(network))


def _kept(skips: tuple[Tensor, ...], keep: Tensor) -> tuple[Tensor, ...]:
    """The skips, zeroed for the samples where `keep` (B,) is False."""
    return tuple(skip * keep.view(-1, 1, 1, 1, 1) for skip in skips)
