"""The losses: Dice + cross-entropy of a segmentation (binary for labels that overlap), and a latent's squared error."""

import torch
import torch.nn.functional as F
from torch import Tensor

from plans.geometry import triple
from textdiffseg.regions import masks, region_logits


def segmentation_loss(logits: Tensor, slots: Tensor, labels: Tensor, dice_weight: float = 1.0) -> Tensor:
    """Cross-entropy + dice_weight (1 - Dice); nnU-Net weighs them 1 : 1, the publication 1 : 2 (gamma).

    logits (B, 1 + Q, D, H, W); slots (B, D, H, W) int64 with 0 background, q + 1 the label of slot q, -1 ignored;
    labels (B, Q) the label number 1..N of each slot, 0 where padded.
    """
    log_p = F.log_softmax(logits.float(), dim=1)
    known = slots >= 0
    entropy = F.nll_loss(log_p, slots.masked_fill(~known, 0), reduction="none") * known
    voxels = known.flatten(1).sum(1).clamp(min=1)
    cross_entropy = (entropy.flatten(1).sum(1) / voxels).mean()
    return cross_entropy + dice_weight * (1 - soft_dice(log_p.exp(), slots, labels))


def region_loss(logits: Tensor, numbers: Tensor, belongs: Tensor, labels: Tensor) -> Tensor:
    """The same where labels overlap: binary cross-entropy, the mean over the labels asked for, + 1 - Dice.

    logits (B, 1 + Q, D, H, W); numbers (B, D, H, W) int64 of the label map, -1 ignored; belongs (B, Q, 1 + E)
    (`regions.members`); labels (B, Q) as for `segmentation_loss`.
    """
    z, known = region_logits(logits).flatten(2), (numbers >= 0).flatten(1).unsqueeze(1)
    true = masks(numbers, belongs).flatten(2)
    counted = known * (labels > 0).unsqueeze(2)  # (B, Q, voxels)
    entropy = F.binary_cross_entropy_with_logits(z, true.to(z.dtype), reduction="none") * counted
    cross_entropy = (entropy.sum((1, 2)) / counted.sum((1, 2)).clamp(min=1)).mean()
    return cross_entropy + 1 - _mean_dice(z.sigmoid() * known, true * known, labels)


def soft_dice(probabilities: Tensor, slots: Tensor, labels: Tensor) -> Tensor:
    """Dice of the batch, summed by label number and never by slot, then averaged over the labels asked for.

    A label takes part where it is asked for; its sums run over all samples that ask for it (nnU-Net's batch Dice),
    so that a slot that means the liver in one sample and the spleen in the next mixes nothing.
    """
    slot = torch.arange(1, probabilities.shape[1], device=slots.device).view(1, -1, 1)
    flat = slots.flatten(1).unsqueeze(1)
    p = probabilities.flatten(2)[:, 1:] * (flat >= 0)
    return _mean_dice(p, flat == slot, labels)


def _mean_dice(p: Tensor, true: Tensor, labels: Tensor) -> Tensor:
    """`soft_dice` of p and true (B, Q, voxels), both 0 where ignored."""
    shares = torch.stack(((p * true).sum(2), p.sum(2), true.sum(2).to(p.dtype))).flatten(1)  # (3, B * Q)
    flat = labels.flatten()
    first = (flat.unsqueeze(1) == flat).int().argmax(1)  # of each slot, the first one that asks for the same label
    intersection, predicted, present = torch.zeros_like(shares).index_add_(1, first, shares)
    asked = (first == torch.arange(len(flat), device=flat.device)) & (flat > 0)
    # every size is known without a look at the numbers, for which a GPU would have to be waited for
    return ((2 * intersection + 1) / (predicted + present + 1) * asked).sum() / asked.sum()


def latent_loss(z_0_hat: Tensor, z_0: Tensor, slots: Tensor) -> Tensor:
    """Mean squared error of the estimate; the gradient stops at z_0, which may be noise.

    z_0_hat, z_0 (B, k, d, h, w); slots (B, D, H, W), -1 ignored. Each position weighs as much as the share of its
    voxels that are known: where nobody labelled, z_0 is no truth.
    """
    share = F.adaptive_avg_pool3d((slots >= 0).float().unsqueeze(1), triple(z_0.shape[2:]))
    error = (z_0_hat.float() - z_0.detach().float()).square().mean(dim=1, keepdim=True)
    return (error * share).sum() / share.sum().clamp(min=1e-6)
