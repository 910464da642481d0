"""Quick validation during training: the Dice of one-step predictions and of reconstructions on fixed patches."""

from dataclasses import dataclass

import torch
from torch import Tensor

from plans.geometry import triple
from textdiffseg.data.samples import ValidationPatches
from textdiffseg.diffusion.losses import known_share
from textdiffseg.networks.model import TextDiffSeg
from textdiffseg.precision import autocast
from textdiffseg.queries import Queries
from textdiffseg.readout import Readout, readout_of
from textdiffseg.segmenter import Segmenter, condition
from textdiffseg.text.bank import TextBank

MIN_RESIDUAL_SCALE = 1e-3  # of a latent with variance 1


@dataclass(frozen=True)
class PatchScores:
    """The Dice by label name, over all voxels of all patches, for labels that some patch holds."""

    dice: dict[str, float]
    reconstruction: dict[str, float]  # decoder(z_0) without skips; empty without a label encoder


class Overlap:
    """Sums over patches of |A and B|, |A| and |B| for each label. A is the predicted mask, B the true mask."""

    def __init__(self, labels: int, readout: Readout):
        self.readout = readout
        self.sums = torch.zeros(3, labels + 1, dtype=torch.float64)

    def add(self, logits: Tensor, targets: Tensor, queries: Queries) -> None:
        """Add a batch: logits (B, 1 + Q, D, H, W), targets (B, D, H, W) (`Readout.targets`), -1 ignored."""
        pairs = self.readout.masks(logits, targets, queries)
        for labels, (predicted, true) in zip(queries.labels.T.tolist(), pairs, strict=True):
            for label, a, b in zip(labels, predicted, true, strict=True):
                self.sums[:, label] += torch.stack(((a & b).sum(), a.sum(), b.sum())).double().cpu()

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
    estimate, reconstruction = Overlap(len(bank.labels), readout), Overlap(len(bank.labels), readout)
    for batch in patches:
        batch, queries = batch.to(device), bank.queries(batch.queries, batch.texts).to(device)
        targets, image = readout.targets(batch.labels, queries), batch.image
        eps = torch.randn(1, len(image), plan.latent.channels, *plan.latent_shape, generator=generator).to(device)
        with autocast(device):
            estimate.add(next(segmenter.logits(image, queries, eps, plan.mask_steps)), targets, queries)
            if isinstance(network, TextDiffSeg) and network.label_encoder is not None:
                reconstruction.add(network.reconstruct(targets, queries), targets, queries)
    network.train()
    return PatchScores(estimate.dice(bank.labels), reconstruction.dice(bank.labels))


@torch.no_grad()
def residual_scale(network: TextDiffSeg, bank: TextBank, patches: ValidationPatches) -> Tensor:
    """s (k,): the root mean square of z_0 - m over the known positions of the validation patches, per channel."""
    device, readout = next(network.parameters()).device, readout_of(network.plan)
    total = torch.zeros(network.plan.latent.channels, dtype=torch.float64)  # exact: a resumed run gets the same sums
    weights = torch.zeros((), dtype=torch.float64)
    for batch in patches:
        batch, queries = batch.to(device), bank.queries(batch.queries, batch.texts).to(device)
        targets = readout.targets(batch.labels, queries)
        with autocast(device):
            m, z_0 = condition(network, batch.image, queries).mask_latent, network.encode_labels(targets, queries)
        assert m is not None, "expected a model with an estimator"
        known = known_share(targets, triple(z_0.shape[2:]))
        known = known.cpu().double()
        total += ((z_0 - m).cpu().double().square() * known).sum((0, 2, 3, 4))
        weights += known.sum()
    return (total / weights.clamp(min=1e-6)).sqrt().clamp(min=MIN_RESIDUAL_SCALE).float()
