"""Trials of postprocessing steps on the masks of validation cases."""

from collections.abc import Mapping

import numpy as np

from plans.plan import Plan
from textdiffseg.data.store import StoredCase
from textdiffseg.folds.postprocessing import Postprocessing, PostprocessingTrial, PostprocessingTrials
from textdiffseg.imaging.boxes import box_of
from textdiffseg.imaging.components import component_sizes, components_of, holes_in
from textdiffseg.masks import LabelKey, mask_of, values_of_key
from textdiffseg.validation.cases import numbers_of, scored_names

SIZES_ML = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # least volumes of a component that are tried
STEPS = (
    Postprocessing(),
    Postprocessing(components="largest"),
    *(Postprocessing(least_ml=size) for size in SIZES_ML),
    Postprocessing(fill_holes=True),
)


class PostprocessingEvidence:
    """The Dice of validation cases after each of `STEPS`, by label."""

    def __init__(self, plan: Plan):
        self._plan = plan
        self._dice: dict[str, list[np.ndarray]] = {}  # by label, (steps,) of each case

    def add(self, labels: np.ndarray, case: StoredCase) -> None:
        """Add a mask from `restore_labels`. With several references, the Dice is the mean over them."""
        numbers = numbers_of(self._plan)[labels]
        names = scored_names(self._plan, case)
        millilitres = case.record.transform.geometry.voxel_ml
        references = range(case.record.references)
        tables = [
            dice_after_steps(numbers, case.original_labels(reference), names, millilitres) for reference in references
        ]
        for name in names.values():
            self._dice.setdefault(name, []).append(np.mean([table[name] for table in tables], axis=0))

    def trials(self, weights: str | None) -> PostprocessingTrials:
        """The record of all cases. `weights`: hash of the weights that made the masks.

        The cases are sorted by their Dice, so that a packaged model does not show which case is which.
        """
        labels = {}
        for name, rows in self._dice.items():
            by_case = sorted(tuple(row.tolist()) for row in rows)  # (cases, steps)
            by_step = zip(*by_case, strict=True)
            labels[name] = tuple(
                PostprocessingTrial(step=step, dice=dice) for step, dice in zip(STEPS, by_step, strict=True)
            )
        return PostprocessingTrials(weights=weights, labels=labels)


def dice_after_steps(
    numbers: np.ndarray, reference: np.ndarray, names: Mapping[LabelKey, str], millilitres: float
) -> dict[str, np.ndarray]:
    """The Dice (steps,) of each label after each of `STEPS`, by name. Every step starts from the same mask.

    Args:
        numbers: (D, H, W) the numbers of a mask.
        reference: (D, H, W) those of the reference; negative voxels count in neither.
        names: number or numbers of a label -> its name.
        millilitres: volume of a voxel.
    """
    from scipy.ndimage import find_objects

    boxes = find_objects(numbers)
    truths = np.bincount(reference[reference > 0])
    dice = {}
    for key, name in names.items():
        values = values_of_key(key)
        truth = int(sum(truths[value] for value in values if value < len(truths)))
        box = box_of(boxes, values)
        if box is None:
            dice[name] = np.full(len(STEPS), float(truth == 0))
        else:
            dice[name] = _dice_of_label(numbers[box], reference[box], values, truth, millilitres)
    return dice


def _dice_of_label(
    numbers: np.ndarray, reference: np.ndarray, values: tuple[int, ...], truth: int, millilitres: float
) -> np.ndarray:
    """The Dice (steps,) of one label in the box of its mask. `truth`: its voxels in the whole reference."""
    mask, true = mask_of(numbers, values), mask_of(reference, values)
    known = reference >= 0
    components, count = components_of(mask)
    volumes = component_sizes(components, count) * millilitres
    sizes, shared = (component_sizes(components, count, where) for where in (known, true))
    added = holes_in(mask) & (numbers == 0)
    filled, filled_shared = int(np.count_nonzero(added & known)), int(np.count_nonzero(added & true))
    rows = []
    for step in STEPS:
        kept = step.kept(volumes)
        size, common = int(sizes[kept].sum()), int(shared[kept].sum())
        if step.fill_holes:
            size, common = size + filled, common + filled_shared
        rows.append(2 * common / (size + truth) if size + truth else 1.0)
    return np.array(rows)
