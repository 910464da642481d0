"""Postprocessing of a predicted mask: components are dropped and holes are filled, label by label.

If labels overlap, a voxel of a dropped component keeps its other labels: a false tumour core becomes tumour.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from plans.plan import Plan
from textdiffseg.folds.postprocessing import Postprocessing
from textdiffseg.imaging.boxes import box_of
from textdiffseg.imaging.components import component_sizes, components_of, holes_in
from textdiffseg.inference.prompting import slots_within


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

    boxes = find_objects(slots)
    chosen = []
    for slot, number in enumerate(numbers, start=1):
        step = steps.get(plan.labels[number - 1].name) if number <= len(plan.labels) else None
        own = slots_within(plan, numbers, slot)
        box = box_of(boxes, own)
        if step is not None and box is not None:
            chosen.append((slot, own, slots[box], step))
    for slot, own, part, step in chosen:
        if step.changes_components:
            _drop_components(part, own, step, _without(plan, numbers, slot), millilitres)
    for slot, own, part, step in chosen:
        if step.fill_holes:
            part[holes_in(np.isin(part, own)) & (part == 0)] = slot


def _drop_components(
    part: np.ndarray, own: Sequence[int], step: Postprocessing, without: np.ndarray, millilitres: float
) -> None:
    """Drop components of a label in the box `part`. `own`: its slots. `without`: from `_without`."""
    components, count = components_of(np.isin(part, own))
    kept = step.kept(component_sizes(components, count) * millilitres)
    dropped = np.append(False, ~kept)[components]
    part[dropped] = without[part[dropped]]


def _without(plan: Plan, numbers: Sequence[int], slot: int) -> np.ndarray:
    """The slot that a voxel of each slot (1 + Q,) gets if it loses the label of `slot`, and with it all labels inside.

    It is the slot that stands for the other labels of the voxel; without others, 0 (background).
    """
    slots = range(1, 1 + len(numbers))
    members = {label: {*slots_within(plan, numbers, label)} for label in slots}
    labels_of = {one: {label for label in slots if one in members[label]} for one in slots}
    lost = {label for label in slots if members[label] <= members[slot]}
    table = np.zeros(1 + len(numbers), np.int16)
    for one in slots:
        left = labels_of[one] - lost
        table[one] = max(
            (other for other in slots if labels_of[other] <= left), key=lambda o: len(labels_of[o]), default=0
        )
    return table
