"""The spread of samples: the factor of their residual, chosen when the sampler has learned."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from textdiffseg.data.samples import ValidationPatches
from textdiffseg.networks.model import TextDiffSeg
from textdiffseg.precision import autocast
from textdiffseg.readout import Readout, readout_of
from textdiffseg.segmenter import MaskSampler, Segmenter
from textdiffseg.text.bank import TextBank
from textdiffseg.training.objectives import true_latent
from textdiffseg.training.validate import Overlap

SPREADS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 3.0, 4.0)  # factors of the residual of a sample
OWN_SCALE = 1.0  # the spread of residuals that have the scale of the mask's own probabilities
FACTORS_LEAVE = 0.25  # the least spread of a model with common factors, which hold most of what a patch leaves open
MAX_GAP, MAX_LOSS = 0.02, 0.04  # of Dice


@dataclass(frozen=True)
class ChosenSpread:
    """The spread of samples, and the Dice of decoded true latents by label name."""

    spread: float
    latent_dice: dict[str, float]


@torch.no_grad()
def choose_spread(network: TextDiffSeg, bank: TextBank, patches: ValidationPatches, seed: int) -> ChosenSpread:
    """The smallest of `SPREADS` at which samples agree with each other as with the reference.

    It is chosen by agreement, not fitted. The agreement of two samples may exceed their Dice with the reference by
    `MAX_GAP`. A larger spread makes samples rougher: their Dice may lie at most `MAX_LOSS` below that of the mask.
    Without common factors, less than `OWN_SCALE` is chosen only where samples are too rough with it: patches that
    leave nothing open fit any spread, and would choose the smallest. With factors, the choice begins at
    `FACTORS_LEAVE`.
    """
    network.eval()
    plan, device = network.plan, next(network.parameters()).device
    segmenter = Segmenter.of(network, device)
    diffusion, schedule = plan.diffusion, segmenter.schedule
    assert diffusion is not None, "expected a plan of preset default"
    assert schedule is not None, "expected a plan of preset default"
    generator = torch.Generator().manual_seed(seed)
    shape = (plan.latent.channels, *plan.latent_shape)
    spreads, least = ((FACTORS_LEAVE, *SPREADS), FACTORS_LEAVE) if plan.n_factors else (SPREADS, OWN_SCALE)
    overlaps = _Overlaps(len(bank.labels), readout_of(plan), spreads, least)
    for batch in patches:
        queries = batch.read(bank).to(device)
        batch = batch.to(device)
        noise = torch.stack([schedule.noise(shape, generator) for _ in range(2 * len(batch.image))]).to(device)
        factors = torch.randn(2 * len(batch.image), plan.n_factors, generator=generator).to(device)
        with autocast(device):
            sampler = segmenter.mask_sampler(batch.image, queries)
            given = [sampler.given(w) for w in factors.chunk(2)]
            pairs = zip(given, noise.chunk(2), strict=True)
            samples = [(one, one.sample(r_T, diffusion.steps)) for one, r_T in pairs]
            overlaps.add(sampler, batch.labels, samples)
    network.train()
    return overlaps.choice(bank.labels)


class _Overlaps:
    """The overlaps over patches that decide about the spread."""

    def __init__(self, labels: int, readout: Readout, spreads: Sequence[float], least: float):
        """`labels`: their number. `least`: the smallest of the `spreads` that is chosen for its agreement."""
        self.readout, self.least = readout, least
        self.masks = Overlap(labels, readout)  # with the reference, as are the next two
        self.latents = Overlap(labels, readout)  # decoded true latents
        self.samples = {spread: Overlap(labels, readout) for spread in spreads}
        self.between_samples = {spread: Overlap(labels, readout) for spread in spreads}

    def add(self, sampler: MaskSampler, label_map: Tensor, samples: Sequence[tuple[MaskSampler, Tensor]]) -> None:
        """Add a batch.

        Args:
            sampler: around the masks of the batch.
            label_map: (B, D, H, W).
            samples: two, each as the sampler given its factors, and r (B, k, d, h, w).
        """
        readout, network, queries = self.readout, sampler.network, sampler.queries
        targets = readout.targets(label_map, queries)
        self.masks.add(sampler.features.logits, targets, queries)
        z_0 = true_latent(network, readout, sampler.p, targets, queries)
        self.latents.add(sampler.decode_latent(z_0), targets, queries)
        for spread in self.samples:
            decoded = (given.decode(r, torch.tensor(spread, device=r.device)) for given, r in samples)
            first, second = (list(readout.masks(logits, targets, queries)) for logits in decoded)
            pairs = zip(first, second, strict=True)
            self.samples[spread].add_masks(first, queries)
            self.between_samples[spread].add_masks([(a, b) for (a, _), (b, _) in pairs], queries)

    def choice(self, names: tuple[str, ...]) -> ChosenSpread:
        """The spread by the rules of `choose_spread`. `names`: of the labels."""
        mask, latent_dice = self.masks.dice(names), self.latents.dice(names)
        sample = {spread: self.samples[spread].dice(names) for spread in self.samples}
        agreement = {spread: self.between_samples[spread].dice(names) for spread in self.samples}
        near = [spread for spread in sample if _gap(mask, sample[spread]) <= MAX_LOSS] or [min(sample)]
        fitting = [
            spread for spread in near if spread >= self.least and _gap(agreement[spread], sample[spread]) <= MAX_GAP
        ]
        return ChosenSpread(min(fitting, default=near[-1]), latent_dice)


def _gap(dice: dict[str, float], other: dict[str, float]) -> float:
    """The mean difference of two Dice by label, over the labels that both have; infinity without one."""
    both = dice.keys() & other.keys()
    return sum(dice[name] - other[name] for name in both) / len(both) if both else math.inf
