"""Level sets, their temperature, and soft Dice, against the equations on whole arrays."""

import numpy as np
import pytest
import torch

from textdiffseg.folds.calibration import INTERVAL
from textdiffseg.inference import volumes
from textdiffseg.inference.volumes import SlabVoxelSums
from textdiffseg.readout import ExclusiveReadout, OverlappingReadout


def sum_voxels(p, readout):
    """The sums over p (1 + Q, D, H, W) of all slots."""
    sums = SlabVoxelSums(readout, len(p) - 1)
    sums.add(p)
    return sums.finish()


@pytest.fixture(params=[None, ((3, 7), (3,))], ids=["apart", "overlapping"])
def readout(request, plan):
    if request.param is None:
        return ExclusiveReadout(plan)
    return OverlappingReadout(plan.model_copy(update={"regions": request.param}))


@pytest.fixture
def p(readout):
    logits = 3 * torch.randn(1, 3, 30, 40, 50, generator=torch.Generator().manual_seed(0))
    return readout.probabilities(logits)[0]


def test_volumes_are_those_of_level_sets(p, readout):
    found = sum_voxels(p, readout).volumes((0.05, 0.5, 0.95))
    expected = [[int((p_q > 1 - q).sum()) for q in (0.05, 0.5, 0.95)] for p_q in p[1:]]
    assert found == pytest.approx(np.array(expected), rel=0.01)


@pytest.mark.parametrize("temperature", [0.5, 2.0, 3.0])
def test_a_temperature_scales_a_label_against_its_absence(p, readout, temperature):
    odds = (p[1:].double() / (1 - p[1:].double())) ** (1 / temperature)
    scaled = odds / (1 + odds)
    expected = [[int((p_q > 1 - q).sum()) for q in INTERVAL] for p_q in scaled]
    assert sum_voxels(p, readout).interval(temperature) == pytest.approx(np.array(expected), rel=0.02)


def test_soft_dice_is_its_equation(p, readout):
    masks = [p.argmax(0) == slot for slot in (1, 2)] if isinstance(readout, ExclusiveReadout) else list(p[1:] > 0.5)
    expected = [
        2 * float(p_q[m].sum()) / float(p_q[p_q > 0.01].sum() + m.sum()) for p_q, m in zip(p[1:], masks, strict=True)
    ]
    found = sum_voxels(p, readout)
    assert found.soft_dice == pytest.approx(expected, rel=1e-5)
    assert found.voxels.tolist() == [int(mask.sum()) for mask in masks]


def test_sums_over_slabs_are_those_of_the_whole(p, readout, monkeypatch):
    whole = sum_voxels(p, readout)
    monkeypatch.setattr(volumes, "SLAB_VOXELS", 7 * 40 * 50)
    sums = SlabVoxelSums(readout, 2)
    for slab in p.split(11, dim=1):
        sums.add(slab)
    slabs = sums.finish()
    assert np.array_equal(slabs.levels, whole.levels)
    assert slabs.soft_dice == pytest.approx(whole.soft_dice)


def test_sure_and_empty_predictions(plan):
    sure = torch.zeros(3, 2, 2, 5)
    sure[1, ..., :3], sure[0, ..., 3:] = 1, 1
    found = sum_voxels(sure, ExclusiveReadout(plan))
    assert found.interval(1.0).tolist() == [[12, 12], [0, 0]]
    assert found.interval(3.0).tolist() == [[12, 12], [0, 0]]
    assert found.soft_dice.tolist() == [1, 0]


def test_rivals_win_voxels_but_are_not_answered(plan):
    p = torch.tensor([0.1, 0.4, 0.5]).view(3, 1, 1, 1).expand(3, 1, 1, 4)
    sums = SlabVoxelSums(ExclusiveReadout(plan), 1)
    sums.add(p)
    found = sums.finish()
    assert (found.voxels.tolist(), found.levels.shape[0]) == ([0.0], 1)


def test_a_large_empty_scan_does_not_lower_the_soft_dice(plan):
    p = torch.zeros(3, 100, 10, 1000)
    p[1] = 1e-5
    p[1, 0, 0, :10] = 0.9
    p[0] = 1 - p[1]
    found = sum_voxels(p, ExclusiveReadout(plan))
    assert found.soft_dice[0] == pytest.approx(18 / 19)
