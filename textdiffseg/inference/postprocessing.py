"""Postprocessing of a predicted mask: components are dropped and holes are filled, label by label."""

from collections.abc import Mapping, Sequence

import numpy as np

from plans.plan import Plan
from textdiffseg.folds.postprocessing import Postprocessing
from textdiffseg.imaging.boxes import joint
from textdiffseg.imaging.components import components_of, holes_in
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
        box = joint(boxes[one - 1] for one in own if one <= len(boxes))
        if step is not None and box is not None:
            chosen.append((slot, own, slots[box], step))
    for _, own, part, step in chosen:
        if step.changes_components:
            _drop_components(part, own, step, millilitres)
    for slot, own, part, step in chosen:
        if step.fill_holes:
            part[holes_in(np.isin(part, own)) & (part == 0)] = slot


def _drop_components(part: np.ndarray, own: Sequence[int], step: Postprocessing, millilitres: float) -> None:
    components, count = components_of(np.isin(part, own))
    kept = step.kept(np.bincount(components.ravel(), minlength=count + 1)[1:] * millilitres)
    part[np.append(False, ~kept)[components]] = 0
