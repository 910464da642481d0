"""The tabulated Dice of each step is the Dice of a mask that the step was applied to."""

import numpy as np
import pytest

from textdiffseg.evaluation.metrics import dice
from textdiffseg.inference.postprocessing import postprocess
from textdiffseg.validation.postprocessing import STEPS, dice_after_steps

VOXEL_ML = 0.01


def blobs(seed, labels=2, size=24):
    """A mask of large and small components with holes."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    fields = np.stack([gaussian_filter(rng.normal(size=(size,) * 3), 1.2) for _ in range(1 + labels)])
    fields[0] += 0.02
    return fields.argmax(0).astype(np.int16)


def truth(plan, array, number, reference):
    return np.isin(array, plan.value_numbers[number - 1]) & (reference >= 0)


@pytest.mark.parametrize("regions", [None, ((1, 2), (2,))])
def test_the_dice_after_each_step_is_that_of_a_postprocessed_mask(make_plan, regions):
    values = ({"name": "whole", "value": 1}, {"name": "core", "value": 2})
    plan = make_plan(labels=values, regions=regions, diffusion=None, preset="unet")
    mask, reference = blobs(0), blobs(1)
    reference[:3] = -1
    names = {plan.value_numbers[number - 1]: label.name for number, label in enumerate(plan.labels, start=1)}
    found = dice_after_steps(mask, reference, names, VOXEL_ML)
    seen = set()
    for number, label in enumerate(plan.labels, start=1):
        for step, value in zip(STEPS, found[label.name], strict=True):
            after = mask.copy()
            postprocess(after, plan, (1, 2), {label.name: step}, VOXEL_ML)
            expected = dice(truth(plan, after, number, reference), truth(plan, reference, number, reference))
            assert value == pytest.approx(expected, abs=1e-12), (label.name, step)
            seen.add(round(value, 6))
    assert len(seen) > 6, "the steps differ on these masks"


def test_a_label_absent_from_both_has_dice_1_after_its_false_component_is_dropped():
    mask, reference = np.zeros((2, 6, 6, 6), np.int16)
    mask[1:3, 1:3, 1:3] = 1  # 8 voxels, 0.08 ml
    found = dice_after_steps(mask, reference, {1: "lesion", 2: "other"}, VOXEL_ML)
    by_step = dict(zip(STEPS, found["lesion"], strict=True))
    assert [value for step, value in by_step.items() if step.least_ml >= 0.1] == [1.0] * 5
    assert [value for step, value in by_step.items() if step.least_ml < 0.1] == [0.0] * 5
    assert (found["other"] == 1).all()
    reference[0, 0, 0] = 2
    assert (dice_after_steps(mask, reference, {2: "other"}, VOXEL_ML)["other"] == 0).all()
