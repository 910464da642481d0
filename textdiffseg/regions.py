"""Overlapping labels: how a voxel that lies in several of them is painted, scored and read out.

A label q is a set of the numbers that a label map holds (`plans.regions`), and is told apart from background alone,

    p_q = sigmoid(logits_q - logits_background),

which for one label is the softmax that labels without overlap are read by. A voxel belongs to every label with
p_q > 0.5; where one value has to be written, the last of them writes it (nnU-Net's `regions_class_order`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from textdiffseg.queries import Queries
from textdiffseg.transfer import send


def members(queries: Queries, parts: Sequence[Sequence[int]]) -> Tensor:
    """(B, Q, 1 + E) bool: which numbers of a label map lie in each slot's label; none where a slot is padded.

    parts: of label 1..N, its numbers (`Plan.parts`).
    """
    table = torch.zeros(1 + len(parts), 1 + max(map(max, parts)), dtype=torch.bool)
    for label, numbers in enumerate(parts, start=1):
        table[label, list(numbers)] = True
    return send(table, queries.labels.device)[queries.labels]


def masks(numbers: Tensor, belongs: Tensor) -> Tensor:
    """numbers (B, D, H, W) int64, negative ignored, and `members` -> (B, Q, D, H, W) bool: each slot's label."""
    flat = numbers.clamp(min=0).flatten(1).unsqueeze(1).expand(-1, belongs.shape[1], -1)
    return belongs.gather(2, flat).unflatten(2, numbers.shape[1:])


def region_logits(logits: Tensor) -> Tensor:
    """logits (B, 1 + Q, D, H, W) -> of each slot's label against background (B, Q, D, H, W) float32."""
    logits = logits.float()
    return logits[:, 1:] - logits[:, :1]


def probabilities(logits: Tensor) -> Tensor:
    """logits (B, 1 + Q, D, H, W) -> p (B, 1 + Q, D, H, W) float32; class 0 is 1 - the largest p_q."""
    p = region_logits(logits).sigmoid()
    return torch.cat((1 - p.amax(1, keepdim=True), p), dim=1)


def written(p: Tensor) -> Tensor:
    """p (1 + Q, D, H, W) -> the slot (D, H, W) that writes its value: the last with p_q > 0.5, 0 where none has."""
    order = torch.arange(len(p), device=p.device).view(-1, 1, 1, 1)
    return ((p > 0.5) * order)[1:].amax(0)
