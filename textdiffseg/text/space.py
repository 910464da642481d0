"""The space that phrases are read in: standardised per dimension, and for a label's own vector projected on what the
labels mean."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

STD_FLOOR = 0.5  # of the mean standard deviation: a dimension that hardly varies here is not blown up later
RIDGE = 0.3  # variance that every direction is assumed to have within a label, of 1 that phrases have in all
SPAN = 1e-9  # of the widest direction: smaller ones are rounding, where labels share their words


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


def projection(labels: Sequence[Tensor]) -> Tensor:
    """The map (d_t, d_t) that reads a standardised phrase as the combination of the labels' mean phrases that fits it
    best by generalised least squares, where what does not fit varies as the labels' own phrasings do.

    labels: of each the vectors (n, d_t) of its phrasings, n >= 1. Encoders put "gland beside the liver" near "gland
    beside the spleen" and further from "liver-side gland": over eight phrasings a label, a new one lies 0.66 times as
    far from its label's mean as from the nearest other one, and 0.09 times after the map, which leaves the means
    where they are (docs/method.md). Where no label has a second phrasing the projection is orthogonal: their vectors
    stay as they are, and of a new phrase what they span is read.
    """
    labels = [one.double() for one in labels]
    means = torch.stack([one.mean(0) for one in labels])
    within = torch.cat([one - one.mean(0) for one in labels])
    scatter = within.T @ within / len(within) + RIDGE * torch.eye(means.shape[1], dtype=means.dtype)
    variances, axes = torch.linalg.eigh(scatter)
    whitening, back = axes * variances.rsqrt(), (axes * variances.sqrt()).T
    _, sizes, spanned = torch.linalg.svd(means @ whitening, full_matrices=False)
    spanned = spanned[sizes > SPAN * sizes.max()]
    return (whitening @ spanned.T @ spanned @ back).float()
