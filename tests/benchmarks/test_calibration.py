"""The comparison's arithmetic on probabilities of known sharpness, and what it says to folds that do not belong."""

import argparse
from pathlib import Path

import numpy as np
import pytest

from plans.errors import UserError
from textdiffseg.folds.sampling import PredictionSettings
from textdiffseg.inference.volumes import EDGES, VoxelSums
from textdiffseg.temperature import SampledVoxels, temper
from textdiffseg.validation.evidence import Evidence

CASES = 6


def evidence(plan, sharpness: float) -> Evidence:
    """Cases whose log-probabilities are `sharpness` times those that truths were drawn from; volumes 10% off."""
    found, rng = Evidence(plan, PredictionSettings()), np.random.default_rng(7)
    for _ in range(CASES):
        p = rng.dirichlet((2.0, 1.0, 1.0), 4000).T.astype(np.float32)
        truth = (p.cumsum(0) < rng.random(4000)).sum(0).clip(max=2)
        found.voxels.append(SampledVoxels(temper(p, 1 / sharpness), truth))
        levels = np.zeros((2, len(EDGES) - 1))
        levels[:, -1] = 100, 200  # all of these voxels are sure
        found.sums.append(VoxelSums(levels, np.ones(2), levels[:, -1]))
        found.scales.append(1.0)
        found.halves.append(len(found.halves) % 2)
        found.truths.append(np.array([110.0, 220.0]))
    return found


def test_too_sure_a_model_loses_before_the_temperature_and_not_after(benchmark, model):
    honest, sure = evidence(model.plan, 1.0), evidence(model.plan, 3.0)
    found = benchmark("calibration").report({"default": honest, "default_uncertainty": honest, "unet": sure})
    gap = found["minus_unet"]["default"]
    assert gap["ece_before"]["better"] == gap["brier_before"]["better"] == "default"
    assert gap["ece_before"]["mean"] < -0.05
    assert gap["brier_after"]["mean"] == pytest.approx(0, abs=1e-4), "the same probabilities but for a temperature"
    rows = found["rows"]
    assert rows["unet"]["temperatures_of_halves"] == pytest.approx([3, 3], rel=0.1)
    assert rows["default"]["temperatures_of_halves"] == pytest.approx([1, 1], rel=0.1)
    assert rows["unet"]["ece"]["after_minus_before"]["mean"] == pytest.approx(gap["ece_before"]["mean"], abs=0.02)


def test_volumes_that_no_interval_holds_are_held_once_widened(benchmark, model):
    one = evidence(model.plan, 1.0)
    found = benchmark("calibration").report({"default": one, "default_uncertainty": one, "unet": one})
    row = found["rows"]["unet"]
    assert row["coverage"] == {"before": {"front": 0.0, "back": 0.0}, "after": {"front": 1.0, "back": 1.0}}
    assert row["interval_factors_of_halves"] == pytest.approx([1.1, 1.1])
    assert all(gap["better"] == "neither" for gap in found["minus_unet"]["default"].values())


def test_without_volumes_there_are_no_intervals(benchmark, model):
    one = evidence(model.plan, 1.0)
    one.sums.clear()
    found = benchmark("calibration").report({"default": one, "default_uncertainty": one, "unet": one})
    assert "coverage" not in found["rows"]["unet"]
    assert found["crps_of_volumes"] == {}


def test_crps_of_volumes_is_that_of_the_equation(benchmark, model):
    module, one = benchmark("calibration"), evidence(model.plan, 1.0)
    drawn = np.tile(np.repeat([[110.0, 220.0], [130.0, 260.0]], 4, axis=0), (CASES, 1, 1))  # half of them right
    found = module.report({"default": one, "default_uncertainty": one, "unet": one}, drawn)["crps_of_volumes"]
    assert found["unet, level sets"] == pytest.approx(10 / 110), "the error of a volume without spread"
    assert found["default, samples"] == pytest.approx((10 - 20 / 4) / 110)
    assert found["samples_minus_level_sets"]["mean"] == pytest.approx(-5 / 110)
    absent = module.crps(np.full((1, 2, 8), 50.0), np.array([[100.0, 0.0]]))
    assert absent == pytest.approx([0.5]), "an absent structure has no relative error"


def fold(model, folder: Path, **changes) -> Path:
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(model.plan.model_copy(update=changes).model_dump_json())
    return folder


@pytest.mark.parametrize(
    ("changes", "name", "said"),
    [
        ({}, "fold_0", "unet is expected"),
        ({"preset": "unet", "dataset": "Dataset901_Other"}, "fold_0", "not the same fold of the same data set"),
        ({"preset": "unet"}, "fold_1", "not the same fold of the same data set"),
    ],
)
def test_folds_that_do_not_belong_together_are_refused(benchmark, model, tmp_path, changes, name, said):
    default, other = fold(model, tmp_path / "a" / "fold_0"), fold(model, tmp_path / "b" / name, **changes)
    args = argparse.Namespace(default=default, unet=other, preprocessed=None, cases=4, device="cpu")
    with pytest.raises(UserError, match=said):
        benchmark("calibration").calibrate(args)
