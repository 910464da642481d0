"""The spread of samples: the factor of their residual, chosen when the sampler has learned."""

import math
from dataclasses import dataclass

import torch

from textdiffseg.data.samples import ValidationPatches
from textdiffseg.networks.model import TextDiffSeg
from textdiffseg.precision import autocast
from textdiffseg.readout import readout_of
from textdiffseg.segmenter import Segmenter
from textdiffseg.text.bank import TextBank
from textdiffseg.training.objectives import true_latent
from textdiffseg.training.validate import Overlap

SPREADS = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0)  # factors of the residual of a sample
MAX_GAP, MAX_LOSS = 0.015, 0.04  # of Dice


@dataclass(frozen=True)
class ChosenSpread:
    """The spread of samples, and the Dice of decoded true latents by label name."""

    spread: float
    latent_dice: dict[str, float]


@torch.no_grad()
def choose_spread(network: TextDiffSeg, bank: TextBank, patches: ValidationPatches, seed: int) -> ChosenSpread:
    """The smallest of `SPREADS` at which samples agree with each other as they agree with the reference.

    It is chosen by agreement, not fitted. The agreement of two samples may exceed their Dice with the reference by
    `MAX_GAP`. A larger spread makes samples rougher: their Dice may lie at most `MAX_LOSS` below that of the mask.
    """
    network.eval()
    plan = network.plan
    device = next(network.parameters()).device
    readout = readout_of(plan)
    segmenter = Segmenter.of(network, device)
    labels = len(bank.labels)
    diffusion, schedule = plan.diffusion, segmenter.schedule
    assert diffusion is not None, "expected a plan of preset default"
    assert schedule is not None, "expected a plan of preset default"
    generator = torch.Generator().manual_seed(seed)
    latent, masks = Overlap(labels, readout), Overlap(labels, readout)
    agreement, reference = ({spread: Overlap(labels, readout) for spread in SPREADS} for _ in range(2))
    for batch in patches:
        queries = batch.read(bank).to(device)
        batch = batch.to(device)
        targets = readout.targets(batch.labels, queries)
        shape = (plan.latent.channels, *plan.latent_shape)
        noise = torch.stack([schedule.noise(shape, generator) for _ in range(2 * len(targets))]).to(device)
        with autocast(device):
            around = segmenter.around_mask(batch.image, queries)
            masks.add(around.features.logits, targets, queries)
            z_0 = true_latent(network, readout, around.p, targets, queries)
            latent.add(network.decode_sample(z_0, around.features.skips, queries), targets, queries)
            pair = [around.sample(r_T, diffusion.steps) for r_T in noise.chunk(2)]
            for spread in SPREADS:
                decoded = (around.decode(r, torch.tensor(spread, device=device)) for r in pair)
                first, second = (list(readout.masks(logits, targets, queries)) for logits in decoded)
                reference[spread].add_masks(first, queries)
                agreement[spread].add_masks([(a, b) for (a, _), (b, _) in zip(first, second, strict=True)], queries)
    network.train()
    of_mask = masks.dice(bank.labels)
    of_samples = {spread: reference[spread].dice(bank.labels) for spread in SPREADS}
    near = [spread for spread in SPREADS if _gap(of_mask, of_samples[spread]) <= MAX_LOSS] or list(SPREADS[:1])
    fitting = [spread for spread in near if _gap(agreement[spread].dice(bank.labels), of_samples[spread]) <= MAX_GAP]
    return ChosenSpread(min(fitting, default=near[-1]), latent.dice(bank.labels))


def _gap(dice: dict[str, float], other: dict[str, float]) -> float:
    """The mean difference of two Dice by label, over the labels that both have; infinity without one."""
    both = dice.keys() & other.keys()
    return sum(dice[name] - other[name] for name in both) / len(both) if both else math.inf
