"""`Readout`: everything that differs between exclusive and overlapping labels. No other module branches on it.

Exclusive labels are the classes of a softmax: the most probable class wins a voxel. Overlapping labels (`regions`,
nnU-Net's region-based training) are binary classifications, p_q = sigmoid(logits_q - logits_background). A voxel
belongs to every label with p_q > 0.5, and the last of these labels writes its value.

Class 0 is background and class q + 1 is the label of slot q. The *targets* of exclusive labels are slots
(`Queries.slots`). The targets of overlapping labels are value numbers, as a voxel may lie in several slots.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from plans.plan import Plan
from textdiffseg.imaging.classes import Choice, last_above_half, most_probable
from textdiffseg.losses import region_loss, segmentation_loss
from textdiffseg.preprocessing.case import Restoring, TransformRecord
from textdiffseg.queries import Queries
from textdiffseg.regions import masks as region_masks
from textdiffseg.regions import members, region_logits, written
from textdiffseg.regions import probabilities as region_probabilities
from textdiffseg.temperature import SampledVoxels, label_by_label, temper, temper_overlapping

PhrasingKey = tuple[int, int]  # label number 1..N, index of the phrasing
Pair = tuple[Tensor, Tensor]  # the predicted and the true mask of a slot, each (B, D, H, W) bool


@dataclass(frozen=True)
class Readout(ABC):
    """Conversions from label maps to targets, and from logits to masks."""

    plan: Plan

    @abstractmethod
    def targets(self, label_map: Tensor, queries: Queries) -> Tensor:
        """The targets (B, D, H, W) int64, -1 ignored, of a stored label_map (B, D, H, W)."""

    @abstractmethod
    def loss(self, logits: Tensor, targets: Tensor, queries: Queries, balance: float = 0.0) -> Tensor:
        """Cross-entropy + 1 - Dice of logits (B, 1 + Q, D, H, W) against `targets`, a scalar.

        `balance`: the weight of another cross-entropy, in which classes count alike (`textdiffseg.losses`).
        """

    @abstractmethod
    def log_likelihood(self, logits: Tensor, targets: Tensor, queries: Queries) -> Tensor:
        """log p (B, N) of the targets (B, N) of N voxels, of logits (B, 1 + Q, N), in nats; 0 where ignored."""

    @abstractmethod
    def masks(self, logits: Tensor, targets: Tensor, queries: Queries) -> Iterator[Pair]:
        """The predicted and the true mask of each slot. Ignored voxels are False in both."""

    @abstractmethod
    def true_masks(self, targets: Tensor, queries: Queries) -> Tensor:
        """The true mask of each slot (B, Q, D, H, W) bool. Ignored voxels are False."""

    @abstractmethod
    def probabilities(self, logits: Tensor) -> Tensor:
        """logits (B, 1 + Q, D, H, W) -> p of the same shape, float32."""

    def probabilities_in_place(self, logits: Tensor) -> Tensor:
        """The same, without gradients. On a CPU it may overwrite the logits: new memory costs more than a softmax."""
        return self.probabilities(logits)

    @abstractmethod
    def keep_first(self, p: Tensor, slots: int, dim: int) -> Tensor:
        """Keep background and the first slots of p along `dim`. The other slots count as background."""

    @abstractmethod
    def winner(self, p: Tensor) -> Tensor:
        """p (1 + Q, D, H, W) -> the winning class (D, H, W) int64, which writes its value."""

    @abstractmethod
    def slot_masks(self, p: Tensor) -> Iterator[Tensor]:
        """p (1 + Q, D, H, W) -> the mask (D, H, W) bool of each slot. Masks of overlapping labels overlap."""

    @abstractmethod
    def entropy(self, p: Tensor, dim: int) -> Tensor:
        """The entropy H(p) in bits along `dim`."""

    @abstractmethod
    def temper(self, p: np.ndarray, temperature: float) -> None:
        """Apply temperature scaling to p (1 + Q, ...) in place, which saves memory."""

    @property
    @abstractmethod
    def class_rule(self) -> Choice:
        """The rule that chooses the class of a voxel of the scan's own grid, from `classes_to_compare`."""

    @abstractmethod
    def classes_to_compare(self, p: np.ndarray) -> np.ndarray:
        """The classes of p (1 + Q, ...) among which `class_rule` chooses."""

    def restoring(self, transform: TransformRecord) -> Restoring:
        """Computes the winning class of each voxel of the scan's own grid, from slabs of `classes_to_compare`."""
        return Restoring(transform, self.class_rule)

    @abstractmethod
    def calibration_voxels(self, voxels: SampledVoxels, known: Sequence[int]) -> SampledVoxels:
        """The voxels to fit a temperature to.

        The classes of `voxels` are label numbers. `known` are the label numbers whose voxels are known in the case.
        """

    @abstractmethod
    def rivals(self, numbers: Sequence[int]) -> tuple[int, ...]:
        """The label numbers to query as well, so that they compete for voxels with the labels `numbers`."""

    @abstractmethod
    def slot_order(self, phrasings: Sequence[PhrasingKey | None]) -> tuple[int, ...]:
        """The places of prompts in the order of their slots. `phrasings`: the known phrasing of each, or None."""


class ExclusiveReadout(Readout):
    """Each voxel has one label."""

    def targets(self, label_map: Tensor, queries: Queries) -> Tensor:
        return queries.slots(label_map, len(self.plan.labels))

    def loss(self, logits: Tensor, targets: Tensor, queries: Queries, balance: float = 0.0) -> Tensor:
        return segmentation_loss(logits, targets, queries.labels, balance=balance)

    def log_likelihood(self, logits: Tensor, targets: Tensor, queries: Queries) -> Tensor:
        return -F.cross_entropy(logits.float(), targets, ignore_index=-1, reduction="none")

    def masks(self, logits: Tensor, targets: Tensor, queries: Queries) -> Iterator[Pair]:
        predicted = logits.argmax(1).masked_fill(targets < 0, 0)
        for slot in range(1, logits.shape[1]):
            yield predicted == slot, targets == slot

    def true_masks(self, targets: Tensor, queries: Queries) -> Tensor:
        slots = torch.arange(1, 1 + queries.labels.shape[1], device=targets.device)
        return targets.unsqueeze(1) == slots.view(1, -1, 1, 1, 1)

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.float().softmax(1)

    def probabilities_in_place(self, logits: Tensor) -> Tensor:
        logits = logits.float()
        return torch.softmax(logits, 1, out=logits) if logits.device.type == "cpu" else logits.softmax(1)

    def keep_first(self, p: Tensor, slots: int, dim: int) -> Tensor:
        if p.shape[dim] == 1 + slots:
            return p
        background, kept = p.narrow(dim, 0, 1), p.narrow(dim, 1, slots)
        others = p.narrow(dim, 1 + slots, p.shape[dim] - 1 - slots)
        return torch.cat((background + others.sum(dim, keepdim=True), kept), dim)

    def winner(self, p: Tensor) -> Tensor:
        return p.argmax(0)

    def slot_masks(self, p: Tensor) -> Iterator[Tensor]:
        winner = self.winner(p)
        return (winner == slot for slot in range(1, len(p)))

    def entropy(self, p: Tensor, dim: int) -> Tensor:
        return _bits(torch.special.entr(p_k) for p_k in p.unbind(dim))

    def temper(self, p: np.ndarray, temperature: float) -> None:
        temper(p, temperature, out=p)

    @property
    def class_rule(self) -> Choice:
        return most_probable

    def classes_to_compare(self, p: np.ndarray) -> np.ndarray:
        return p

    def calibration_voxels(self, voxels: SampledVoxels, known: Sequence[int]) -> SampledVoxels:
        return voxels

    def rivals(self, numbers: Sequence[int]) -> tuple[int, ...]:
        return self.plan.rivals(numbers)

    def slot_order(self, phrasings: Sequence[PhrasingKey | None]) -> tuple[int, ...]:
        return tuple(range(len(phrasings)))


class OverlappingReadout(Readout):
    """A voxel may have several labels. Each label is a binary classification, and labels do not compete."""

    def targets(self, label_map: Tensor, queries: Queries) -> Tensor:
        return label_map.long()

    def loss(self, logits: Tensor, targets: Tensor, queries: Queries, balance: float = 0.0) -> Tensor:
        return region_loss(logits, targets, members(queries, self.plan.value_numbers), queries.labels, balance)

    def log_likelihood(self, logits: Tensor, targets: Tensor, queries: Queries) -> Tensor:
        z, true = region_logits(logits), region_masks(targets, members(queries, self.plan.value_numbers))
        counted = queries.mask.unsqueeze(2) & (targets >= 0).unsqueeze(1)
        return -(F.binary_cross_entropy_with_logits(z, true.float(), reduction="none") * counted).sum(1)

    def masks(self, logits: Tensor, targets: Tensor, queries: Queries) -> Iterator[Pair]:
        known, true = targets >= 0, self.true_masks(targets, queries)
        for slot, z in enumerate(region_logits(logits).unbind(1)):
            yield (z > 0) & known, true[:, slot]

    def true_masks(self, targets: Tensor, queries: Queries) -> Tensor:
        return region_masks(targets, members(queries, self.plan.value_numbers)) & (targets >= 0).unsqueeze(1)

    def probabilities(self, logits: Tensor) -> Tensor:
        return region_probabilities(logits)

    def keep_first(self, p: Tensor, slots: int, dim: int) -> Tensor:
        if p.shape[dim] == 1 + slots:
            return p
        kept = p.narrow(dim, 1, slots)
        return torch.cat((1 - kept.amax(dim, keepdim=True), kept), dim)

    def winner(self, p: Tensor) -> Tensor:
        return written(p)

    def slot_masks(self, p: Tensor) -> Iterator[Tensor]:
        return (p_q > 0.5 for p_q in p[1:])

    def entropy(self, p: Tensor, dim: int) -> Tensor:
        """H(p) = sum_q [-p_q log2 p_q - (1 - p_q) log2 (1 - p_q)], as for independent labels, without background."""
        labels = p.unbind(dim)[1:]
        return _bits(torch.special.entr(p_q) + torch.special.entr(1 - p_q) for p_q in labels)

    def temper(self, p: np.ndarray, temperature: float) -> None:
        temper_overlapping(p, temperature)

    @property
    def class_rule(self) -> Choice:
        return last_above_half

    def classes_to_compare(self, p: np.ndarray) -> np.ndarray:
        return p[1:]

    def calibration_voxels(self, voxels: SampledVoxels, known: Sequence[int]) -> SampledVoxels:
        return label_by_label(voxels, self.plan.value_numbers, known)

    def rivals(self, numbers: Sequence[int]) -> tuple[int, ...]:
        return ()

    def slot_order(self, phrasings: Sequence[PhrasingKey | None]) -> tuple[int, ...]:
        """The places of prompts in the data set's label order, as later slots overwrite earlier ones.

        If a prompt is unknown, the user's order stays.
        """
        known = [(phrasing, index) for index, phrasing in enumerate(phrasings) if phrasing is not None]
        if len(known) < len(phrasings):
            return tuple(range(len(phrasings)))
        return tuple(index for _, index in sorted(known))


def readout_of(plan: Plan) -> Readout:
    """The readout of a plan's labels."""
    return ExclusiveReadout(plan) if plan.regions is None else OverlappingReadout(plan)


def _bits(terms: Iterable[Tensor]) -> Tensor:
    """The sum of entropies in nats, converted to bits. Summing term by term saves memory."""
    total: Tensor = reduce(torch.add, terms)
    return total / math.log(2)
