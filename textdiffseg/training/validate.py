"""Quick validation during training, on fixed patches: the Dice of masks."""

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
        counts = [torch.stack([(a & b).flatten(1).sum(1), a.flatten(1).sum(1), b.flatten(1).sum(1)]) for a, b in pairs]
        sums = torch.stack(counts, dim=2).double().cpu()  # (3, B, Q): the device is waited for once
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
    plan = segmenter.plan
    network = segmenter.network.eval()
    readout = readout_of(plan)
    generator = torch.Generator().manual_seed(seed)
    labels = len(bank.labels)
    estimate, latent = Overlap(labels, readout), Overlap(labels, readout)
    for batch in patches:
        queries = batch.read(bank).to(device)
        batch = batch.to(device)
        targets = readout.targets(batch.labels, queries)
        image = batch.image
        shape = (plan.latent.channels, *plan.latent_shape)
        drawn = [white_noise(shape, generator) for _ in image] if plan.mask_steps else []
        eps = torch.stack(drawn)[None].to(device) if drawn else None
        with autocast(device):
            estimate.add(next(segmenter.logits(image, queries, eps, plan.mask_steps)), targets, queries)
            if isinstance(network, TextDiffSeg) and network.label_encoder is not None:
                latent.add(network.decode_latent(network.encode_label_map(targets, queries), queries), targets, queries)
    network.train()
    return PatchScores(estimate.dice(bank.labels), latent.dice(bank.labels))
