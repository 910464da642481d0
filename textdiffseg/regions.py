"""Overlapping labels: membership of label-map values, masks, probabilities, and the written label.

A label q is a set of value numbers (`plans.regions`). It is classified against background only:

    p_q = sigmoid(logits_q - logits_background)

For a single label this equals the softmax of exclusive labels. A voxel belongs to every label with p_q > 0.5. In a
mask file the last of these labels writes its value (nnU-Net's `regions_class_order`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from textdiffseg.queries import Queries
from textdiffseg.transfer import send


def members(queries: Queries, parts: Sequence[Sequence[int]]) -> Tensor:
    """The membership (B, Q, 1 + E) bool of value numbers 0..E in each slot's label. A padded slot has no members.

    parts: for label 1..N, the value numbers that belong to it (`Plan.value_numbers`).
    """
    table = torch.zeros(1 + len(parts), 1 + max(map(max, parts)), dtype=torch.bool)
    for label, value_numbers in enumerate(parts, start=1):
        table[label, list(value_numbers)] = True
    return send(table, queries.labels.device)[queries.labels]


def masks(value_map: Tensor, membership: Tensor) -> Tensor:
    """The mask (B, Q, D, H, W) bool of each slot's label.

    value_map: value numbers (B, D, H, W) int64; negative (ignored) voxels count as background.
    membership: of `members`.
    """
    flat = value_map.clamp(min=0).flatten(1).unsqueeze(1).expand(-1, membership.shape[1], -1)
    return membership.gather(2, flat).unflatten(2, value_map.shape[1:])


def region_logits(logits: Tensor) -> Tensor:
    """logits (B, 1 + Q, D, H, W) -> each label's logit against background (B, Q, D, H, W) float32."""
    logits = logits.float()
    return logits[:, 1:] - logits[:, :1]


def probabilities(logits: Tensor) -> Tensor:
    """logits (B, 1 + Q, D, H, W) -> p (B, 1 + Q, D, H, W) float32. Background's p is 1 minus the largest p_q."""
    p = region_logits(logits).sigmoid()
    return torch.cat((1 - p.amax(1, keepdim=True), p), dim=1)


def written(p: Tensor) -> Tensor:
    """p (1 + Q, D, H, W) -> the class (D, H, W) int64 that writes its value: the last with p_q > 0.5, else 0."""
    order = torch.arange(len(p), device=p.device).view(-1, 1, 1, 1)
    return ((p > 0.5) * order)[1:].amax(0)
