"""`Readout`: exclusive or overlapping labels. No other module of this floor or above it asks which.

Exclusive labels are the classes of a softmax: the most probable class wins a voxel. Overlapping labels (`regions`,
nnU-Net's region-based training) are one question each: sigmoid(logits_q - logits_background). A voxel belongs to every
label with p_q > 0.5, and the last of them writes its value.

Class 0 is background and class q + 1 the label of slot q. The *targets* of exclusive labels are slots
(`Queries.slots`). Those of overlapping labels are the numbers of the label map, as a voxel may lie in several slots.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from plans.plan import Plan
from textdiffseg.diffusion.losses import region_loss, segmentation_loss
from textdiffseg.imaging.resample import probabilities_to_labels, probabilities_to_regions
from textdiffseg.preprocessing.case import TransformRecord, restore
from textdiffseg.queries import Queries
from textdiffseg.regions import masks, members, probabilities, region_logits, written
from textdiffseg.temperature import SampledVoxels, label_by_label, temper, temper_overlapping

Phrase = tuple[int, int]  # label number 1..N, and which of its phrasings
Pair = tuple[Tensor, Tensor]  # the predicted and the true mask of a slot, each (B, D, H, W) bool


@dataclass(frozen=True)
class Readout(ABC):
    """How label maps become targets, and logits become masks."""

    plan: Plan

    @abstractmethod
    def targets(self, label_map: Tensor, queries: Queries) -> Tensor:
        """label_map (B, D, H, W) as stored -> what losses and label encoders read; int64, -1 ignored."""

    @abstractmethod
    def loss(self, logits: Tensor, targets: Tensor, queries: Queries) -> Tensor:
        """Cross-entropy and Dice of logits (B, 1 + Q, D, H, W) against `targets`."""

    @abstractmethod
    def masks(self, logits: Tensor, targets: Tensor, queries: Queries) -> Iterator[Pair]:
        """The predicted and the true mask of each slot. Ignored voxels are in neither."""

    @abstractmethod
    def probabilities(self, logits: Tensor) -> Tensor:
        """logits (B, 1 + Q, D, H, W) -> p of the same shape, float32."""

    @abstractmethod
    def answered(self, p: Tensor, answers: int, dim: int) -> Tensor:
        """Keep background and the first `answers` slots along `dim`; what the other slots hold is background."""

    @abstractmethod
    def winner(self, p: Tensor) -> Tensor:
        """p (1 + Q, D, H, W) -> the class (D, H, W) int64 that writes its value at each voxel."""

    @abstractmethod
    def entropy(self, p: Tensor, dim: int) -> Tensor:
        """H(p) in bits along `dim`."""

    @abstractmethod
    def temper(self, p: np.ndarray, temperature: float) -> None:
        """Probabilities (1 + Q, ...) at a temperature, in place, since memory is short."""

    @abstractmethod
    def restore(self, p: np.ndarray, transform: TransformRecord) -> np.ndarray:
        """p (1 + Q, D, H, W) on the plan's grid -> the winning class (D, H, W) int16 on the scan's own grid."""

    @abstractmethod
    def calibration_voxels(self, voxels: SampledVoxels, known: Sequence[int]) -> SampledVoxels:
        """What a temperature is fitted to, of sampled voxels whose classes are label numbers; `known` are labels."""

    @abstractmethod
    def rivals(self, numbers: Sequence[int]) -> tuple[int, ...]:
        """The labels to query beside the labels `numbers`, so that they compete for voxels."""

    @abstractmethod
    def ordered(self, prompts: Sequence[str], found: Sequence[Phrase | None]) -> tuple[str, ...]:
        """The prompts in the order of their slots. `found` is what each means; None: an unknown phrase."""


class ExclusiveReadout(Readout):
    """Each voxel has one label."""

    def targets(self, label_map: Tensor, queries: Queries) -> Tensor:
        return queries.slots(label_map, len(self.plan.labels))

    def loss(self, logits: Tensor, targets: Tensor, queries: Queries) -> Tensor:
        return segmentation_loss(logits, targets, queries.labels)

    def masks(self, logits: Tensor, targets: Tensor, queries: Queries) -> Iterator[Pair]:
        predicted = logits.argmax(1).masked_fill(targets < 0, 0)
        for slot in range(1, logits.shape[1]):
            yield predicted == slot, targets == slot

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.float().softmax(1)

    def answered(self, p: Tensor, answers: int, dim: int) -> Tensor:
        if p.shape[dim] == 1 + answers:
            return p
        background, kept = p.narrow(dim, 0, 1), p.narrow(dim, 1, answers)
        rest = p.narrow(dim, 1 + answers, p.shape[dim] - 1 - answers)
        return torch.cat((background + rest.sum(dim, keepdim=True), kept), dim)

    def winner(self, p: Tensor) -> Tensor:
        return p.argmax(0)

    def entropy(self, p: Tensor, dim: int) -> Tensor:
        return _bits(torch.special.entr(one) for one in p.unbind(dim))

    def temper(self, p: np.ndarray, temperature: float) -> None:
        temper(p, temperature, out=p)

    def restore(self, p: np.ndarray, transform: TransformRecord) -> np.ndarray:
        return restore(p, transform, probabilities_to_labels)

    def calibration_voxels(self, voxels: SampledVoxels, known: Sequence[int]) -> SampledVoxels:
        return voxels

    def rivals(self, numbers: Sequence[int]) -> tuple[int, ...]:
        return self.plan.rivals(numbers)

    def ordered(self, prompts: Sequence[str], found: Sequence[Phrase | None]) -> tuple[str, ...]:
        return tuple(prompts)


class OverlappingReadout(Readout):
    """A voxel may lie in several labels; each is a question of its own, and nothing competes."""

    def targets(self, label_map: Tensor, queries: Queries) -> Tensor:
        return label_map.long()

    def loss(self, logits: Tensor, targets: Tensor, queries: Queries) -> Tensor:
        return region_loss(logits, targets, members(queries, self.plan.parts), queries.labels)

    def masks(self, logits: Tensor, targets: Tensor, queries: Queries) -> Iterator[Pair]:
        known, true = targets >= 0, masks(targets, members(queries, self.plan.parts))
        for slot, z in enumerate(region_logits(logits).unbind(1)):
            yield (z > 0) & known, true[:, slot] & known

    def probabilities(self, logits: Tensor) -> Tensor:
        return probabilities(logits)

    def answered(self, p: Tensor, answers: int, dim: int) -> Tensor:
        if p.shape[dim] == 1 + answers:
            return p
        kept = p.narrow(dim, 1, answers)
        return torch.cat((1 - kept.amax(dim, keepdim=True), kept), dim)

    def winner(self, p: Tensor) -> Tensor:
        return written(p)

    def entropy(self, p: Tensor, dim: int) -> Tensor:
        """H(p) = sum_q [-p_q log2 p_q - (1 - p_q) log2 (1 - p_q)], as for independent labels."""
        labels = p.unbind(dim)[1:]  # background is not a question
        return _bits(torch.special.entr(one) + torch.special.entr(1 - one) for one in labels)

    def temper(self, p: np.ndarray, temperature: float) -> None:
        temper_overlapping(p, temperature)

    def restore(self, p: np.ndarray, transform: TransformRecord) -> np.ndarray:
        return restore(p[1:], transform, probabilities_to_regions)

    def calibration_voxels(self, voxels: SampledVoxels, known: Sequence[int]) -> SampledVoxels:
        return label_by_label(voxels, self.plan.parts, known)

    def rivals(self, numbers: Sequence[int]) -> tuple[int, ...]:
        return ()

    def ordered(self, prompts: Sequence[str], found: Sequence[Phrase | None]) -> tuple[str, ...]:
        """Later slots write over earlier ones, so known prompts follow the order of the data set."""
        known = [phrase for phrase in found if phrase is not None]
        if len(known) < len(prompts):
            return tuple(prompts)
        return tuple(prompt for _, prompt in sorted(zip(known, prompts, strict=True)))


def readout_of(plan: Plan) -> Readout:
    """The readout of a plan's labels."""
    return ExclusiveReadout(plan) if plan.regions is None else OverlappingReadout(plan)


def _bits(terms: Iterable[Tensor]) -> Tensor:
    """The sum of entropies in nats, in bits. It is summed term by term, which spares memory."""
    total: Tensor = reduce(torch.add, terms)
    return total / math.log(2)
