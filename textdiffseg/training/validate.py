"""Quick validation during training: one-step Dice on fixed patches, and what the latent alone carries."""

from dataclasses import dataclass

import torch
from torch import Tensor

from textdiffseg.data.loader import ValidationPatches
from textdiffseg.networks.model import TextDiffSeg
from textdiffseg.queries import Queries
from textdiffseg.text.bank import TextBank
from textdiffseg.training.precision import autocast
from textdiffseg.training.step import estimate_logits


@dataclass(frozen=True)
class PatchScores:
    """Dice by label name, over all voxels of all patches; labels that no patch holds are left out."""

    dice: dict[str, float]
    reconstruction: dict[str, float]  # decoder(z_0) with the skips zeroed; empty for preset unet


class Overlap:
    """Sums over patches of |A and B|, |A| and |B| of each label."""

    def __init__(self, labels: int):
        self.sums = torch.zeros(3, labels + 1, dtype=torch.float64)

    def add(self, logits: Tensor, slots: Tensor, queries: Queries) -> None:
        """logits (B, 1 + Q, D, H, W), slots (B, D, H, W), -1 ignored."""
        predicted = logits.argmax(1).masked_fill(slots < 0, 0)
        for sample, row in enumerate(queries.labels.tolist()):
            for slot, label in enumerate(row, start=1):
                a, b = (part[sample] == slot for part in (predicted, slots))
                self.sums[:, label] += torch.stack(((a & b).sum(), a.sum(), b.sum())).double().cpu()

    def dice(self, names: tuple[str, ...]) -> dict[str, float]:
        """2 |A and B| / (|A| + |B|) of the labels that the truth holds."""
        both, a, b = self.sums[:, 1:]
        values = 2 * both / (a + b)
        return {name: float(value) for name, value, true in zip(names, values, b, strict=True) if true > 0}


@torch.no_grad()
def validate_patches(
    model: TextDiffSeg, bank: TextBank, patches: ValidationPatches, device: torch.device, seed: int
) -> PatchScores:
    """Score the model as it is on the same patches and the same noise every time."""
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    estimate, reconstruction = Overlap(len(bank.labels)), Overlap(len(bank.labels))
    channels, stride = model.plan.latent.channels, model.plan.latent_stride
    grid = [size // step for size, step in zip(model.plan.patch, stride, strict=True)]
    for batch in patches:
        queries = bank.queries(batch.queries, batch.told)
        slots = queries.slots(batch.labels).to(device)
        queries, image = queries.to(device), batch.image.to(device)
        eps = torch.randn(len(image), channels, *grid, generator=generator).to(device)
        with autocast(device):
            estimate.add(estimate_logits(model, image, queries, eps), slots, queries)
            if model.label_encoder is not None:
                z_0 = model.encode_labels(slots, queries)
                reconstruction.add(model.decode(z_0, None, queries), slots, queries)
    model.train()
    return PatchScores(estimate.dice(bank.labels), reconstruction.dice(bank.labels))
