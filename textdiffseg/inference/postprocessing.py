"""Postprocessing of a predicted mask: components are dropped and holes are filled, label by label.

If labels overlap, a voxel of a dropped component keeps its other labels: a false tumour core becomes tumour.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from plans.plan import Plan
from textdiffseg.folds.postprocessing import Postprocessing
from textdiffseg.imaging.boxes import box_of
from textdiffseg.imaging.components import component_sizes, components_of, holes_in
from textdiffseg.inference.prompting import slots_of_all
from textdiffseg.masks import mask_of


def postprocess(
    slots: np.ndarray, plan: Plan, numbers: Sequence[int], steps: Mapping[str, Postprocessing], millilitres: float
) -> None:
    """Postprocess a mask in place. First all labels lose components, then their holes are filled.

    Args:
        slots: (D, H, W) the mask: q + 1 is slot q, 0 background.
        plan: of the model.
        numbers: the label number of each slot; phrases that were forced have numbers above those of the labels.
        steps: by label name.
        millilitres: volume of a voxel.
    """
    from scipy.ndimage import find_objects

    boxes, members = find_objects(slots), slots_of_all(plan, numbers)
    labels = []
    for slot, (number, label_slots) in enumerate(zip(numbers, members, strict=True), start=1):
        step = steps.get(plan.labels[number - 1].name) if number <= len(plan.labels) else None
        box = box_of(boxes, label_slots)
        if step is not None and box is not None:
            labels.append(_Label(slot, label_slots, slots[box], step))
    for label in labels:
        if label.step.changes_components:
            _drop_components(label, _without(members, label.slot), millilitres)
    for label in labels:
        if label.step.fill_holes:
            holes = holes_in(mask_of(label.part, label.slots))
            label.part[holes & (label.part == 0)] = label.slot


@dataclass(frozen=True)
class _Label:
    """A label that is postprocessed."""

    slot: int
    slots: Sequence[int]  # whose voxels belong to the label
    part: np.ndarray  # (D, H, W) the mask in the label's box, a view
    step: Postprocessing


def _drop_components(label: _Label, without: np.ndarray, millilitres: float) -> None:
    """Drop components of a label. `without`: from `_without`."""
    components, count = components_of(mask_of(label.part, label.slots))
    kept = label.step.kept(component_sizes(components, count) * millilitres)
    dropped = np.append(False, ~kept)[components]
    label.part[dropped] = without[label.part[dropped]]


def _without(members: Sequence[Sequence[int]], slot: int) -> np.ndarray:
    """The slot that a voxel of each slot (1 + Q,) gets if it loses the label of `slot`, and with it all labels inside.

    It is the slot that stands for the other labels of the voxel; without others, 0 (background). `members`: for each
    slot, the slots whose voxels belong to its label.
    """
    lost = {label for label, label_slots in enumerate(members, start=1) if {*label_slots} <= {*members[slot - 1]}}
    table = np.arange(1 + len(members), dtype=np.int16)  # other slots keep their labels
    labels_of: dict[int, set[int]] = {member: set() for member in range(1, 1 + len(members))}
    for label, label_slots in enumerate(members, start=1):
        for member in label_slots:
            labels_of[member].add(label)
    for member in members[slot - 1]:
        remaining = labels_of[member] - lost
        candidates = (candidate for candidate, labels in labels_of.items() if labels <= remaining)
        table[member] = max(candidates, key=lambda candidate: len(labels_of[candidate]), default=0)
    return table
