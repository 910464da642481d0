"""Quick validation during training, on fixed patches: the Dice of masks, and the spread of samples."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from textdiffseg.data.samples import ValidationPatches
from textdiffseg.diffusion.noise import white_noise
from textdiffseg.networks.model import TextDiffSeg
from textdiffseg.precision import autocast
from textdiffseg.queries import Queries
from textdiffseg.readout import Pair, Readout, readout_of
from textdiffseg.segmenter import Segmenter
from textdiffseg.text.bank import TextBank
from textdiffseg.training.objectives import true_latent

SPREADS = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0)  # factors of the residual of a sample
MAX_GAP, MAX_LOSS = 0.015, 0.04  # of Dice


@dataclass(frozen=True)
class PatchScores:
    """The Dice by label name, over all voxels of all patches, for labels that some patch holds."""

    dice: dict[str, float]
    latent_dice: dict[str, float]  # of decoded true latents; only with a trained decoder of latents


class Overlap:
    """Sums over patches of |A and B|, |A| and |B| for each label. A is the predicted mask, B the true mask."""

    def __init__(self, labels: int, readout: Readout):
        self.readout = readout
        self.sums = torch.zeros(3, labels + 1, dtype=torch.float64)

    def add(self, logits: Tensor, targets: Tensor, queries: Queries) -> None:
        """Add a batch: logits (B, 1 + Q, D, H, W), targets (B, D, H, W) (`Readout.targets`), -1 ignored."""
        self.add_masks(self.readout.masks(logits, targets, queries), queries)

    def add_masks(self, pairs: Iterable[Pair], queries: Queries) -> None:
        """Add the masks A and B of each slot."""
        found = [torch.stack([(a & b).flatten(1).sum(1), a.flatten(1).sum(1), b.flatten(1).sum(1)]) for a, b in pairs]
        sums = torch.stack(found, dim=2).double().cpu()  # (3, B, Q): the device is waited for once
        for of_sample, labels in zip(sums.unbind(1), queries.labels.tolist(), strict=True):
            self.sums.index_add_(1, torch.tensor(labels), of_sample)

    def dice(self, names: tuple[str, ...]) -> dict[str, float]:
        """2 |A and B| / (|A| + |B|) for each label with true voxels."""
        both, a, b = self.sums[:, 1:]
        values = 2 * both / (a + b)
        return {name: float(value) for name, value, true in zip(names, values, b, strict=True) if true > 0}


@torch.no_grad()
def validate_patches(
    segmenter: Segmenter, bank: TextBank, patches: ValidationPatches, device: torch.device, seed: int
) -> PatchScores:
    """The scores of a network with its current weights. Patches and noise are the same in every call."""
    plan, network, readout = segmenter.plan, segmenter.network.eval(), readout_of(segmenter.plan)
    generator = torch.Generator().manual_seed(seed)
    estimate, latent = Overlap(len(bank.labels), readout), Overlap(len(bank.labels), readout)
    for batch in patches:
        batch, queries = batch.to(device), batch.read(bank).to(device)
        targets, image = readout.targets(batch.labels, queries), batch.image
        shape = (plan.latent.channels, *plan.latent_shape)
        drawn = [white_noise(shape, generator) for _ in image] if plan.mask_steps else []
        eps = torch.stack(drawn)[None].to(device) if drawn else None
        with autocast(device):
            estimate.add(next(segmenter.logits(image, queries, eps, plan.mask_steps)), targets, queries)
            if isinstance(network, TextDiffSeg) and network.label_encoder is not None:
                latent.add(network.decode_latent(network.encode_label_map(targets, queries), queries), targets, queries)
    network.train()
    return PatchScores(estimate.dice(bank.labels), latent.dice(bank.labels))


@dataclass(frozen=True)
class SampleFit:
    """The spread of samples, and the Dice of decoded true latents by label name."""

    spread: float
    latent_dice: dict[str, float]


@torch.no_grad()
def fit_samples(network: TextDiffSeg, bank: TextBank, patches: ValidationPatches, seed: int) -> SampleFit:
    """Choose the spread: the smallest of `SPREADS` at which samples agree with each other as with the reference.

    Their agreement may exceed the Dice with the reference by `MAX_GAP`. A larger spread makes samples rougher: their
    Dice may lie at most `MAX_LOSS` below that of the mask.
    """
    network.eval()
    plan, device, readout = network.plan, next(network.parameters()).device, readout_of(network.plan)
    segmenter, labels = Segmenter.of(network, device), len(bank.labels)
    diffusion, schedule = plan.diffusion, segmenter.schedule
    assert diffusion is not None, "expected a plan of preset default"
    assert schedule is not None, "expected a plan of preset default"
    generator = torch.Generator().manual_seed(seed)
    latent, masks = Overlap(labels, readout), Overlap(labels, readout)
    agreement, reference = ({spread: Overlap(labels, readout) for spread in SPREADS} for _ in range(2))
    for batch in patches:
        batch, queries = batch.to(device), batch.read(bank).to(device)
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
    of_mask, found = masks.dice(bank.labels), {one: reference[one].dice(bank.labels) for one in SPREADS}
    near = [one for one in SPREADS if _gap(of_mask, found[one]) <= MAX_LOSS] or list(SPREADS[:1])
    fitting = [one for one in near if _gap(agreement[one].dice(bank.labels), found[one]) <= MAX_GAP]
    return SampleFit(min(fitting, default=near[-1]), latent.dice(bank.labels))


def _gap(dice: dict[str, float], other: dict[str, float]) -> float:
    """The mean difference of two Dice by label, over the labels that both have; infinity without one."""
    both = dice.keys() & other.keys()
    return sum(dice[name] - other[name] for name in both) / len(both) if both else math.inf
