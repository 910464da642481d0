"""Quick validation during training: one-step Dice on fixed patches, and what the latent alone carries."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from plans.regions import Regions
from textdiffseg.data.loader import ValidationPatches
from textdiffseg.networks.model import SegmentationNetwork
from textdiffseg.precision import autocast
from textdiffseg.queries import Queries
from textdiffseg.regions import masks, members, region_logits
from textdiffseg.text.bank import TextBank
from textdiffseg.training.step import estimate_logits, targets


@dataclass(frozen=True)
class PatchScores:
    """Dice by label name, over all voxels of all patches; labels that no patch holds are left out."""

    dice: dict[str, float]
    reconstruction: dict[str, float]  # decoder(z_0) with the skips zeroed; empty for preset unet


class Overlap:
    """Sums over patches of |A and B|, |A| and |B| of each label."""

    def __init__(self, labels: int, parts: Regions | None = None):
        """parts: where labels overlap, the numbers of the label map that each is made of."""
        self.parts = parts
        self.sums = torch.zeros(3, labels + 1, dtype=torch.float64)

    def add(self, logits: Tensor, slots: Tensor, queries: Queries) -> None:
        """logits (B, 1 + Q, D, H, W), slots (B, D, H, W) by `targets`, -1 ignored."""
        pairs = self._apart(logits, slots) if self.parts is None else self._overlapping(logits, slots, queries)
        for labels, (predicted, true) in zip(queries.labels.T.tolist(), pairs, strict=True):
            for label, a, b in zip(labels, predicted, true, strict=True):
                self.sums[:, label] += torch.stack(((a & b).sum(), a.sum(), b.sum())).double().cpu()

    def _apart(self, logits: Tensor, slots: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The predicted and the true mask of each slot, each (B, D, H, W) bool."""
        predicted = logits.argmax(1).masked_fill(slots < 0, 0)
        for slot in range(1, logits.shape[1]):
            yield predicted == slot, slots == slot

    def _overlapping(self, logits: Tensor, numbers: Tensor, queries: Queries) -> Iterator[tuple[Tensor, Tensor]]:
        """The same where labels overlap."""
        known = numbers >= 0
        true = masks(numbers, members(queries, self.parts))
        for slot, z in enumerate(region_logits(logits).unbind(1)):
            yield (z > 0) & known, true[:, slot] & known

    def dice(self, names: tuple[str, ...]) -> dict[str, float]:
        """2 |A and B| / (|A| + |B|) of the labels that the truth holds."""
        both, a, b = self.sums[:, 1:]
        values = 2 * both / (a + b)
        return {name: float(value) for name, value, true in zip(names, values, b, strict=True) if true > 0}


@torch.no_grad()
def validate_patches(
    model: SegmentationNetwork, bank: TextBank, patches: ValidationPatches, device: torch.device, seed: int
) -> PatchScores:
    """Score the model as it is on the same patches and the same noise every time."""
    plan = model.eval().plan
    generator = torch.Generator().manual_seed(seed)
    parts = plan.parts if plan.regions else None
    estimate, reconstruction = Overlap(len(bank.labels), parts), Overlap(len(bank.labels), parts)
    for batch in patches:
        batch, queries = batch.to(device), bank.queries(batch.queries, batch.told).to(device)
        slots, image = targets(plan, batch.labels, queries), batch.image
        eps = torch.randn(len(image), plan.latent.channels, *plan.latent_shape, generator=generator).to(device)
        with autocast(device):
            estimate.add(estimate_logits(model, image, queries, eps), slots, queries)
            if model.label_encoder is not None:
                z_0 = model.encode_labels(slots, queries)
                reconstruction.add(model.decode(z_0, None, queries), slots, queries)
    model.train()
    return PatchScores(estimate.dice(bank.labels), reconstruction.dice(bank.labels))
