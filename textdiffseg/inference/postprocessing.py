"""Postprocessing of a predicted mask: components are dropped and holes are filled, label by label.

If labels overlap, a voxel of a dropped component keeps its other labels: a false tumour core becomes tumour.
"""

from collections.abc import Mapping, Sequence

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
    chosen = []
    for slot, (number, own) in enumerate(zip(numbers, members, strict=True), start=1):
        step = steps.get(plan.labels[number - 1].name) if number <= len(plan.labels) else None
        box = box_of(boxes, own)
        if step is not None and box is not None:
            chosen.append((slot, own, slots[box], step))
    for slot, own, part, step in chosen:
        if step.changes_components:
            _drop_components(part, own, step, _without(members, slot), millilitres)
    for slot, own, part, step in chosen:
        if step.fill_holes:
            part[holes_in(mask_of(part, own)) & (part == 0)] = slot


def _drop_components(
    part: np.ndarray, own: Sequence[int], step: Postprocessing, without: np.ndarray, millilitres: float
) -> None:
    """Drop components of a label in the box `part`. `own`: its slots. `without`: from `_without`."""
    components, count = components_of(mask_of(part, own))
    kept = step.kept(component_sizes(components, count) * millilitres)
    dropped = np.append(False, ~kept)[components]
    part[dropped] = without[part[dropped]]


def _without(members: Sequence[Sequence[int]], slot: int) -> np.ndarray:
    """The slot that a voxel of each slot (1 + Q,) gets if it loses the label of `slot`, and with it all labels inside.

    It is the slot that stands for the other labels of the voxel; without others, 0 (background). `members`: for each
    slot, the slots whose voxels belong to its label.
    """
    lost = {label for label, own in enumerate(members, start=1) if {*own} <= {*members[slot - 1]}}
    table = np.arange(1 + len(members), dtype=np.int16)  # other slots keep their labels
    labels_of: dict[int, set[int]] = {member: set() for member in range(1, 1 + len(members))}
    for label, own in enumerate(members, start=1):
        for member in own:
            labels_of[member].add(label)
    for member in members[slot - 1]:
        left = labels_of[member] - lost
        kept = (other for other, labels in labels_of.items() if labels <= left)
        table[member] = max(kept, key=lambda other: len(labels_of[other]), default=0)
    return table
