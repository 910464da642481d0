"""The space that phrases are read in: standardised per dimension, and for a label's own vector turned towards what
tells the labels apart."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

STD_FLOOR = 0.5  # of the mean standard deviation: a dimension that hardly varies here is not blown up later
RIDGE = 0.3  # variance that every direction is assumed to have within a label, of 1 that phrases have in all
FAINTEST = 0.01  # of the widest separation: labels whose words differ less than this are not drawn further apart


@dataclass(frozen=True)
class Standard:
    """Per-dimension statistics that take raw vectors to mean 0 and variance 1 and back."""

    mean: Tensor  # (d_t)
    std: Tensor  # (d_t)

    @staticmethod
    def of(vectors: Tensor) -> "Standard":
        """Statistics of vectors (n, d_t)."""
        std = vectors.std(0, unbiased=False)
        return Standard(vectors.mean(0), std.clamp(min=max(STD_FLOOR * float(std.mean()), 1e-6)))

    def apply(self, raw: Tensor) -> Tensor:
        return (raw - self.mean) / self.std

    def undo(self, vectors: Tensor) -> Tensor:
        return vectors * self.std + self.mean


def discriminant(labels: Sequence[Tensor]) -> Tensor:
    """The map (d_t, d_t) of standardised vectors after which the labels' mean phrases lie at right angles, sqrt(d_t)
    long, and phrasings of one label close together: Fisher's linear discriminant, its axes made equal.

    labels: of each the vectors (n, d_t) of its phrasings, n >= 1. Encoders put "gland beside the liver" near "gland
    beside the spleen" and further from "liver-side gland"; over eight phrasings a label a new one lies .7 from its
    label's mean where labels lie .8 to 1.3 apart, and after the map .3 where they lie 1.4 apart (docs/method.md).
    Where no label has a second phrasing nothing tells wording from meaning: the map is the identity, with which
    training was faster (same page).
    """
    if all(len(one) == 1 for one in labels):
        return torch.eye(labels[0].shape[1])
    labels = [one.double() for one in labels]
    means = torch.stack([one.mean(0) for one in labels])
    within = torch.cat([one - one.mean(0) for one in labels])
    scatter = within.T @ within / len(within) + RIDGE * torch.eye(means.shape[1], dtype=means.dtype)
    variances, axes = torch.linalg.eigh(scatter)
    whitening = axes * variances.rsqrt() @ axes.T
    _, separations, between = torch.linalg.svd(means @ whitening, full_matrices=False)
    separations = separations.clamp(min=FAINTEST * float(separations.max()))
    return (whitening @ (between.T / separations) @ between * means.shape[1] ** 0.5).float()
