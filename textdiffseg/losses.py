"""The losses of a segmentation: cross-entropy and Dice, of labels that exclude each other or overlap."""

import torch
import torch.nn.functional as F
from torch import Tensor

from textdiffseg.regions import masks, region_logits


def segmentation_loss(
    logits: Tensor, slots: Tensor, labels: Tensor, dice_weight: float = 1.0, balance: float = 0.0
) -> Tensor:
    """Cross-entropy + dice_weight (1 - Dice), for labels that exclude each other.

    nnU-Net weighs the two terms 1 : 1, the publication 1 : 2 (gamma). With `balance`, the cross-entropy has another
    term, `balance` times its mean over missed classes in place of voxels (`_balanced`).

    Args:
        logits: (B, 1 + Q, D, H, W).
        slots: (B, D, H, W) int64. 0 is background, q + 1 the label of slot q, -1 ignored.
        labels: (B, Q) the label number 1..N of each slot, 0 where padded.
        dice_weight: gamma.
        balance: the weight of the mean over classes.
    """
    log_p = F.log_softmax(logits.float(), dim=1)
    known = slots >= 0
    ce = F.nll_loss(log_p, slots.masked_fill(~known, 0), reduction="none") * known
    voxels = known.flatten(1).sum(1).clamp(min=1)
    cross_entropy = (ce.flatten(1).sum(1) / voxels).mean()
    sums = _sums_of_slots(log_p.exp(), slots)
    if balance:
        cross_entropy = cross_entropy + balance * _balanced(ce, slots, sums.detach())
    return cross_entropy + dice_weight * (1 - _mean_dice(sums, labels))


def _balanced(ce: Tensor, slots: Tensor, sums: Tensor) -> Tensor:
    """The mean over the C classes that a sample holds, and over samples: sum_c missed_c CE_c / C.

    CE_c is the mean cross-entropy over the voxels of class c. missed_c = (1 - mean probability of c over them)^2 has no
    gradient (`_missed`).

    An organ of .1% of the voxels has .1% of the usual mean. As long as the network does not recognise it, its Dice has
    nearly no gradient either. Here it counts as much as the background, until it is found.

    Args:
        ce: the cross-entropy of each voxel (B, D, H, W), 0 where ignored.
        slots: (B, D, H, W) int64, -1 ignored.
        sums: (3, B, Q) of the labels, from `_sums`. Those of background are what is left of all voxels.
    """
    known = (slots >= 0).flatten(1)
    flat = ce.flatten(1)
    right = (-flat.detach()).exp() * known  # the probability of the right class
    recognised, _, voxels = sums
    recognised = torch.cat((right.sum(1, keepdim=True) - recognised.sum(1, keepdim=True), recognised), dim=1)
    voxels = torch.cat((known.sum(1, keepdim=True) - voxels.sum(1, keepdim=True), voxels), dim=1)  # (B, 1 + Q)
    present = voxels > 0
    weight = present * _missed(recognised, voxels) / (voxels.clamp(min=1) * present.sum(1, keepdim=True).clamp(min=1))
    return (flat * weight.gather(1, slots.clamp(min=0).flatten(1))).sum(1).mean()


def _missed(recognised: Tensor, voxels: Tensor) -> Tensor:
    """(1 - r)^2 for the mean probability r = recognised / voxels of the right class: near 0 for what is found."""
    return (1 - recognised / voxels.clamp(min=1)).square()


def region_loss(logits: Tensor, value_map: Tensor, membership: Tensor, labels: Tensor, balance: float = 0.0) -> Tensor:
    """Binary cross-entropy (mean over the queried labels) + 1 - Dice, for labels that overlap.

    Args:
        logits: (B, 1 + Q, D, H, W).
        value_map: (B, D, H, W) int64 value numbers 0..E of the label map, -1 ignored.
        membership: (B, Q, 1 + E) bool (`regions.members`).
        labels: (B, Q) the label number 1..N of each slot, 0 where padded.
        balance: the weight of another cross-entropy, in which each label's inside and outside count alike, each by
            how much of it is missed.
    """
    z = region_logits(logits).flatten(2)
    known = (value_map >= 0).flatten(1).unsqueeze(1)
    true = masks(value_map, membership).flatten(2)
    queried = labels > 0
    counted = known * queried.unsqueeze(2)  # (B, Q, voxels)
    ce = F.binary_cross_entropy_with_logits(z, true.to(z.dtype), reduction="none") * counted
    cross_entropy = (ce.sum((1, 2)) / counted.sum((1, 2)).clamp(min=1)).mean()
    if balance:
        of_labels = (_missed_ce(ce, counted & true) + _missed_ce(ce, counted & ~true)) / 2
        cross_entropy = cross_entropy + balance * (of_labels.sum(1) / queried.sum(1).clamp(min=1)).mean()
    return cross_entropy + 1 - _mean_dice(_sums(z.sigmoid() * known, true * known), labels)


def _missed_ce(ce: Tensor, where: Tensor) -> Tensor:
    """missed_q CE_q (B, Q): the mean of ce (B, Q, voxels) over the voxels `where`, by how much of them is missed."""
    voxels = where.sum(2)
    recognised = ((-ce.detach()).exp() * where).sum(2)
    return _missed(recognised, voxels) * (ce * where).sum(2) / voxels.clamp(min=1)


def _sums_of_slots(probabilities: Tensor, slots: Tensor) -> Tensor:
    """`_sums` of the labels' probabilities, from (B, 1 + Q, D, H, W) and the slots (B, D, H, W), -1 ignored."""
    slot = torch.arange(1, probabilities.shape[1], device=slots.device).view(1, -1, 1)
    flat = slots.flatten(1).unsqueeze(1)
    return _sums(probabilities.flatten(2)[:, 1:] * (flat >= 0), flat == slot)


def _sums(p: Tensor, true: Tensor) -> Tensor:
    """(3, B, Q): the sums over voxels of p true, p and true, from p and true (B, Q, voxels), both 0 where ignored."""
    return torch.stack(((p * true).sum(2), p.sum(2), true.sum(2).to(p.dtype)))


def _mean_dice(sums: Tensor, labels: Tensor) -> Tensor:
    """Soft Dice from `_sums` (3, B, Q): the mean over the labels that the batch holds.

    A label's sums run over all samples that query it (nnU-Net's batch Dice). They run by label number, not by slot,
    since one slot may hold different labels in different samples.

    Labels without a voxel in the batch are left to the cross-entropy. Their Dice would rise fastest if the first few
    voxels of a small organ disappeared again. nnU-Net's Dice has nearly no gradient there either.

    Without any label in the batch it is 1. No tensor's shape depends on values, so the host never waits for a GPU.
    """
    sums, flat = sums.flatten(1), labels.flatten()  # (3, B * Q)
    first = (flat.unsqueeze(1) == flat).int().argmax(1)  # for each slot, the first slot with the same label
    intersection, predicted, present = torch.zeros_like(sums).index_add_(1, first, sums)
    counted = (first == torch.arange(len(flat), device=flat.device)) & (flat > 0) & (present > 0)
    lost = 1 - (2 * intersection + 1) / (predicted + present + 1)
    return 1 - (lost * counted).sum() / counted.sum().clamp(min=1)
