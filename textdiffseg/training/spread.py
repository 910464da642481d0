"""The spread of samples: the factor of their residual, chosen when the sampler has learned.

It is the smallest one at which samples agree with each other as with the reference. The agreement of two samples may
exceed their Dice with the reference by `MAX_GAP`. A larger spread makes samples rougher: their Dice may lie at most
`MAX_LOSS` below that of the mask. Where both exclude each other, the second decides.

Without common factors, less than `OWN_SCALE` is chosen only where samples are too rough with it: patches that leave
nothing open fit any spread, and would choose the smallest. With factors, the choice begins at `FACTORS_LEAVE`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

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

SPREADS = (0.5, 1.0, 2.0, 3.0, 4.0)  # tried factors of the residual of a sample; others are interpolated
OWN_SCALE = 1.0  # the spread of residuals that have the scale of the mask's own probabilities
FACTORS_LEAVE = 0.25  # the least spread of a model with common factors, which hold most of what a patch leaves open
MAX_GAP, MAX_LOSS = 0.02, 0.04  # of Dice


@dataclass(frozen=True)
class ChosenSpread:
    """The spread of samples, and the Dice of decoded true latents by label name."""

    spread: float
    latent_dice: dict[str, float]


@dataclass(frozen=True)
class _Draw:
    """A sample of a patch, before it is decoded."""

    given: MaskSampler  # its common factors
    r: Tensor  # (1, k, d, h, w)


@torch.no_grad()
def choose_spread(network: TextDiffSeg, bank: TextBank, patches: ValidationPatches, seed: int) -> ChosenSpread:
    """The spread that fits the samples of these patches.

    Each patch has two draws, each of them with both signs: w and -w, r_T and -r_T. Samples of different draws are
    compared. With one sign, the gap at a spread of 2.25 was .013 or .029 with two seeds; with both it is .020 to .026
    with four (hippocampus, 32 patches).
    """
    network.eval()
    plan, device = network.plan, next(network.parameters()).device
    segmenter = Segmenter.of(network, device)
    diffusion, schedule = plan.diffusion, segmenter.schedule
    assert diffusion is not None, "expected a plan of preset default"
    assert schedule is not None, "expected a plan of preset default"
    generator = torch.Generator().manual_seed(seed)
    shape = (plan.latent.channels, *plan.latent_shape)
    least = FACTORS_LEAVE if plan.n_factors else OWN_SCALE
    overlaps = _Overlaps(len(bank.labels), readout_of(plan), sorted({least, *SPREADS}))

    def drawn(sampler: MaskSampler, w: Tensor, r_T: Tensor) -> _Draw:
        given = sampler.given(w)
        return _Draw(given, given.sample(r_T, diffusion.steps))

    for batch in patches:
        all_queries = batch.read(bank).to(device)
        batch = batch.to(device)
        for row in torch.arange(len(batch.image), device=device).split(1):  # a patch at once, as it has four samples
            image, label_map, queries = batch.image[row], batch.labels[row], all_queries.of(row)
            with autocast(device):
                sampler = segmenter.mask_sampler(image, queries)
                pairs = []
                for _ in range(2):
                    w = torch.randn(1, plan.n_factors, generator=generator).to(device)
                    r_T = schedule.noise(shape, generator)[None].to(device)
                    pairs.append([drawn(sampler, w, r_T), drawn(sampler, -w, -r_T)])
                overlaps.add(sampler, label_map, pairs)
    network.train()
    return overlaps.choice(bank.labels, least)


class _Overlaps:
    """The overlaps over patches that decide about the spread."""

    def __init__(self, labels: int, readout: Readout, spreads: Sequence[float]):
        """`labels`: their number."""
        self.readout = readout
        self.masks = Overlap(labels, readout)  # with the reference, as are the next two
        self.latents = Overlap(labels, readout)  # decoded true latents
        self.samples = {spread: Overlap(labels, readout) for spread in spreads}
        self.between_samples = {spread: Overlap(labels, readout) for spread in spreads}

    def add(self, sampler: MaskSampler, label_map: Tensor, pairs: Sequence[Sequence[_Draw]]) -> None:
        """Add a patch.

        Args:
            sampler: around the mask of the patch.
            label_map: (1, D, H, W).
            pairs: two pairs of opposite draws.
        """
        readout, network, queries = self.readout, sampler.network, sampler.queries
        targets = readout.targets(label_map, queries)
        self.masks.add(sampler.features.logits, targets, queries)
        z_0 = true_latent(network, readout, sampler.p, targets, queries)
        self.latents.add(sampler.decode_latent(z_0), targets, queries)
        for spread in self.samples:
            tau = torch.tensor(spread, device=label_map.device)
            decoded = [
                [list(readout.masks(draw.given.decode(draw.r, tau), targets, queries)) for draw in pair]
                for pair in pairs
            ]
            for pair in decoded:
                for masks in pair:
                    self.samples[spread].add_masks(masks, queries)
            for first, second in product(*decoded):
                both = zip(first, second, strict=True)
                self.between_samples[spread].add_masks([(a, b) for (a, _), (b, _) in both], queries)

    def choice(self, names: tuple[str, ...], least: float) -> ChosenSpread:
        """The spread that fits, with the Dice of decoded latents. `names`: of the labels."""
        mask = self.masks.dice(names)
        sample = {spread: overlap.dice(names) for spread, overlap in self.samples.items()}
        losses = {spread: _gap(mask, dice) for spread, dice in sample.items()}
        gaps = {spread: _gap(self.between_samples[spread].dice(names), dice) for spread, dice in sample.items()}
        return ChosenSpread(fitting_spread(gaps, losses, least), self.latents.dice(names))


def fitting_spread(gaps: Mapping[float, float], losses: Mapping[float, float], least: float) -> float:
    """The smallest spread from `least` on with a gap of at most `MAX_GAP`, or a smaller one that is near the mask.

    Args:
        gaps: the agreement of two samples minus their Dice with the reference, by spread, in rising order.
        losses: the Dice of the mask minus that of samples, by the same spreads.
        least: one of them.
    """
    roughest = _first_above(losses, MAX_LOSS)
    fitting = _first_above({spread: -gap for spread, gap in gaps.items() if spread >= least}, -MAX_GAP)
    found = [spread for spread in (fitting, roughest) if spread is not None]
    return min(found, default=max(gaps))


def _first_above(values: Mapping[float, float], limit: float) -> float | None:
    """The smallest spread at which a value is at least `limit`, interpolated linearly; None if there is none."""
    points = list(values.items())
    if points[0][1] >= limit:
        return points[0][0]
    for (spread, value), (next_spread, next_value) in pairwise(points):
        if next_value >= limit:
            share = (limit - value) / (next_value - value) if math.isfinite(next_value - value) else 1.0
            return spread + share * (next_spread - spread)
    return None


def _gap(dice: dict[str, float], other: dict[str, float]) -> float:
    """The mean difference of two Dice by label, over the labels that both have; infinity without one."""
    both = dice.keys() & other.keys()
    return sum(dice[name] - other[name] for name in both) / len(both) if both else math.inf
