"""The training objectives, one for each kind of model. `objective_of` chooses it.

    z_0     = encoder(embedded label map)
    z_t     = sqrt(alpha_bar_t) z_0 + sqrt(1 - alpha_bar_t) eps
    z_0_hat = denoiser(z_t, t, z_it)
    loss    = seg(decoder(z_0_hat, skips)) + seg(decoder(z_0, no skips)) + |z_0_hat - z_0|^2,   seg = Dice + CE

The label encoder learns only from the second term, the clean reconstruction, which is computed for half of the
samples. The diffusion reads z_0 without gradients. With gradients, the encoder could make z_0 easier to predict by
storing less in it.

The publication's model predicts the noise, and its gradients run end to end:

    loss = CE(decoder(z)) + gamma Dice(decoder(z)) + lambda |eps_hat - eps|^2,   z the estimate of z_0 by eq. 3
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from plans.network_plan import PaperPlan
from textdiffseg.diffusion.losses import latent_loss, segmentation_loss
from textdiffseg.diffusion.schedule import Schedule
from textdiffseg.networks.model import TextDiffSeg
from textdiffseg.networks.peers import LabelDiffusion, Peer
from textdiffseg.queries import Queries
from textdiffseg.readout import Readout, readout_of
from textdiffseg.segmenter import Segmenter
from textdiffseg.training.draws import Draws
from textdiffseg.training.label_diffusion import label_diffusion_loss


@dataclass(frozen=True)
class Losses:
    """The terms of the loss, scalars. A term that the objective does not have is None."""

    estimate: Tensor
    reconstruction: Tensor | None = None
    latent: Tensor | None = None

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

    @abstractmethod
    def losses(self, image: Tensor, targets: Tensor, queries: Queries, draws: Draws | None) -> Losses:
        """The losses of image (B, C, D, H, W) with targets (B, D, H, W) int64 (`Readout.targets`), -1 ignored.

        `draws` is None only for a model without diffusion.
        """


@dataclass(frozen=True)
class DirectObjective(Objective):
    """A model without diffusion: the segmentation loss of its single pass. `draws` are not read."""

    segmenter: Segmenter

    def losses(self, image: Tensor, targets: Tensor, queries: Queries, draws: Draws | None) -> Losses:
        logits = next(self.segmenter.logits(image, queries))
        return Losses(self.readout.loss(logits, targets, queries))


@dataclass(frozen=True)
class LatentObjective(Objective):
    """Preset `default`: the losses of the estimate, of the clean reconstruction and of the latent."""

    network: TextDiffSeg
    schedule: Schedule

    def losses(self, image: Tensor, targets: Tensor, queries: Queries, draws: Draws | None) -> Losses:
        draws = _required(draws)
        network = self.network
        z_i, skips = network.encode_image(image)
        z_it = network.fuse(z_i, queries)
        with torch.no_grad():
            z_0 = network.encode_labels(targets, queries)
        z_t = self.noisy_latent(z_0, z_it.detach(), draws)
        z_0_hat = network.denoise(z_t, draws.t, z_it)
        keep = draws.skips.view(-1, 1, 1, 1, 1)
        logits = network.decode(z_0_hat, tuple(skip * keep for skip in skips), queries)
        return Losses(
            self.readout.loss(logits, targets, queries),
            self.reconstruction(targets[draws.reconstructed], queries.of(draws.reconstructed)),
            latent_loss(z_0_hat, z_0, targets),
        )

    def reconstruction(self, targets: Tensor, queries: Queries) -> Tensor:
        """The loss of targets (S, D, H, W), encoded and decoded without skips. It trains the label autoencoder."""
        return self.readout.loss(self.network.reconstruct(targets, queries), targets, queries)

    @torch.no_grad()
    def noisy_latent(self, z_0: Tensor, z_it: Tensor, draws: Draws) -> Tensor:
        """z_t (B, k, d, h, w) of each sample, from the true z_0 or, if recycled, from the model's estimate at T."""
        rows = draws.estimated
        if len(rows):
            t = torch.full_like(rows, self.schedule.timesteps)
            estimate = z_0.index_copy(0, rows, self.network.denoise(draws.first_eps[rows], t, z_it[rows]))
            z_0 = torch.where(draws.recycled.view(-1, 1, 1, 1, 1), estimate, z_0)
        return self.schedule.diffuse(z_0, draws.eps, draws.t)


@dataclass(frozen=True)
class PublicationObjective(Objective):
    """The publication's objective: gradients flow through z_0, and there is no clean reconstruction.

    Its label encoder reads label numbers, so labels must exclude each other.
    """

    network: TextDiffSeg
    schedule: Schedule
    paper: PaperPlan

    def losses(self, image: Tensor, targets: Tensor, queries: Queries, draws: Draws | None) -> Losses:
        draws = _required(draws)
        network, paper = self.network, self.paper
        z_i, _ = network.encode_image(image)
        z_it = network.fuse(z_i, queries)
        z_t = self.schedule.diffuse(network.encode_labels(targets, queries), draws.eps, draws.t)
        eps_hat = network.denoise(z_t, draws.t, z_it)
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

    def losses(self, image: Tensor, targets: Tensor, queries: Queries, draws: Draws | None) -> Losses:
        t, eps = _required(draws).t, _required(draws).eps
        return Losses(label_diffusion_loss(self.network, self.readout, image, targets, queries, t, eps))


def objective_of(segmenter: Segmenter) -> Objective:
    """The objective of a segmenter's plan."""
    plan, network, schedule = segmenter.plan, segmenter.network, segmenter.schedule
    readout = readout_of(plan)
    if isinstance(network, LabelDiffusion):
        return LabelDiffusionObjective(readout, network)
    if isinstance(network, Peer) or schedule is None:
        return DirectObjective(readout, segmenter)
    if plan.paper:
        return PublicationObjective(readout, network, schedule, plan.paper)
    return LatentObjective(readout, network, schedule)


def _required(draws: Draws | None) -> Draws:
    if draws is None:
        raise ValueError("diffusion needs draws")
    return draws
