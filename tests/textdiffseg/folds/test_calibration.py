import numpy as np
import pytest

from plans.layout import FoldFolder
from textdiffseg.evaluation.calibration import expected_calibration_error, negative_log_likelihood
from textdiffseg.files import write_record
from textdiffseg.folds.calibration import (
    AppliedCalibration,
    Calibration,
    CalibrationFit,
    Widening,
    applied_calibration,
    read_calibration,
    widen,
)
from textdiffseg.folds.expected_dice import KNOTS, DiceFit
from textdiffseg.folds.sampling import PredictionSettings
from textdiffseg.temperature import SampledVoxels, temper
from textdiffseg.validation.fitting import coverage, fit_temperature, fit_widening, tempered_in_halves


def draw(seed, count=20_000, sharpness=1.0):
    """Voxels with truths, and with probabilities whose logarithms are multiplied by `sharpness`."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet((2.0, 1.0, 1.0), count).T.astype(np.float32)
    truth = (p.cumsum(0) < rng.random(count)).sum(0).clip(max=2)
    return SampledVoxels(temper(p, 1 / sharpness), truth)


def fitted(temperature=1.0, factor=None, cases=4, **setting):
    widening = factor and Widening(factor=factor, coverage_before={}, coverage_after={})
    figures = dict.fromkeys(("ece_before", "ece_after", "brier_before", "brier_after"), 0.1)
    setting = {"steps": 0, "samples": 1, "mirroring": False} | setting
    return CalibrationFit(**setting, cases=cases, temperature=temperature, widening=widening, **figures)


@pytest.mark.parametrize("sharpness", [0.6, 1.0, 2.5])
def test_the_temperature_of_overconfident_probabilities_is_recovered(sharpness):
    assert fit_temperature([draw(0, sharpness=sharpness), draw(1, sharpness=sharpness)]) == pytest.approx(
        sharpness, rel=0.05
    )


def test_classes_that_were_not_queried_do_not_change_the_temperature():
    voxels = draw(1, sharpness=3.0)
    padded = SampledVoxels(np.concatenate((voxels.p, np.zeros((97, voxels.p.shape[1]), np.float32))), voxels.truth)
    assert fit_temperature([padded]) == pytest.approx(fit_temperature([voxels]), rel=1e-4)


def test_each_half_gets_the_other_half_s_temperature():
    cases = [draw(seed, sharpness=(3.0, 1.5)[seed % 2]) for seed in range(4)]
    expected = [fit_temperature(cases[half::2]) for half in (0, 1)]
    assert expected[0] > 1.5 * expected[1]
    for index, case in enumerate(tempered_in_halves(cases)):
        assert case.p == pytest.approx(temper(cases[index].p, expected[1 - index % 2]))


def test_overconfidence_on_unseen_cases_is_corrected():
    cases = [draw(seed, sharpness=2.5) for seed in range(4)]
    for before, after in zip(cases, tempered_in_halves(cases), strict=True):
        assert expected_calibration_error(after.p, after.truth) < expected_calibration_error(before.p, before.truth) / 4
        assert negative_log_likelihood(after.p, after.truth) < negative_log_likelihood(before.p, before.truth)


def test_a_factor_widens_until_nine_of_ten_volumes_are_inside():
    truths = np.exp(np.random.default_rng(0).normal(5, 1, 4000))
    errors = np.exp(np.random.default_rng(1).normal(0, 0.1, 4000))
    points = np.repeat((truths * errors)[:, None], 2, 1)  # intervals of no width
    factor = fit_widening(points, truths)
    assert np.log(factor) == pytest.approx(0.1645, rel=0.05)
    low, high = widen(points, factor).T
    assert np.mean((low <= truths) & (truths <= high)) == pytest.approx(0.9, abs=0.001)
    assert fit_widening(7 * points, 7 * truths) == pytest.approx(factor)  # any unit


def test_intervals_that_are_too_wide_become_narrower_until_nine_of_ten_volumes_are_inside():
    truths = np.exp(np.random.default_rng(0).normal(5, 1, 4000))
    errors = np.exp(np.random.default_rng(1).normal(0, 0.1, 4000))
    wide = (truths * errors)[:, None] * (0.01, 100.0)  # as of an uncertain model in a large scan
    low, high = widen(wide, fit_widening(wide, truths)).T
    assert np.mean((low <= truths) & (truths <= high)) == pytest.approx(0.9, abs=0.001)
    assert np.median(high / low) == pytest.approx(np.exp(2 * 0.1645), rel=0.05)


def test_an_interval_never_ends_before_it_begins():
    assert widen(np.array([(90.0, 110.0), (0.0, 50.0)]), 0.5) == pytest.approx(
        np.array([(99.499, 99.499), (0.0, 25.0)]), abs=1e-3
    )


def test_exact_intervals_are_kept_and_those_that_no_factor_corrects_are_ignored():
    truths = np.full(10, 100.0)
    assert fit_widening(np.tile((100.0, 110.0), (10, 1)), truths) == 1.0
    intervals = np.array([(50.0, 80.0), (0.0, 80.0), (0.0, 0.0), (3.0, 5.0)])
    assert fit_widening(intervals, np.array([100.0, 100.0, 100.0, 0.0])) == pytest.approx(100 / 80)
    assert fit_widening(intervals[2:], np.array([100.0, 0.0])) is None


def test_the_factor_is_the_conformal_quantile():
    """Of nine errors the largest is the 0.9 quantile of exchangeable errors; of 19 the second largest."""
    needed = np.arange(1, 20) / 10
    points = np.ones((19, 2))
    assert fit_widening(points[:9], np.exp(needed[:9])) == pytest.approx(np.exp(0.9))
    assert fit_widening(points, np.exp(needed)) == pytest.approx(np.exp(1.8))


def test_coverage_is_the_share_of_volumes_inside():
    assert coverage(np.array([(1.0, 2.0), (1.0, 2.0), (3.0, 4.0), (0.0, 9.0)]), np.array([1.5, 2.5, 3.0, 5.0])) == 0.75


def test_folds_are_pooled_by_their_cases_and_only_for_their_own_setting():
    folds = [
        Calibration(fits=(fitted(2.0, 1.5, cases=3), fitted(5.0, mirroring=True))),
        Calibration(fits=(fitted(8.0, 1.5, cases=1),)),
        Calibration(),
    ]
    pooled = applied_calibration(folds, PredictionSettings())
    assert pooled.temperature == pytest.approx(2**0.75 * 8**0.25)
    assert pooled.widening == pytest.approx(1.5)
    mirrored = applied_calibration(folds, PredictionSettings(mirror_axes=(0, 2)))
    assert (mirrored.temperature, mirrored.widening) == (pytest.approx(5.0), None)
    assert applied_calibration(folds, PredictionSettings(steps=2)) == AppliedCalibration()
    assert applied_calibration(folds[:1], PredictionSettings(seed=3)).temperature == pytest.approx(2.0)


def test_a_setting_has_one_fit_and_the_file_is_read_back(tmp_path):
    calibration = Calibration().with_fit(fitted(2.0)).with_fit(fitted(3.0, samples=8)).with_fit(fitted(4.0))
    assert [fit.temperature for fit in calibration.fits] == [3.0, 4.0]
    assert read_calibration(FoldFolder(tmp_path)) == Calibration()
    write_record(tmp_path / "calibration.json", calibration)
    assert read_calibration(FoldFolder(tmp_path)) == calibration


def test_factors_of_version_2_belong_to_other_intervals_and_are_dropped(tmp_path):
    older = Calibration(fits=(fitted(2.0, 1.5), fitted(3.0, samples=8))).model_dump(mode="json") | {"version": 2}
    for fit in older["fits"]:
        del fit["expected_dice"]
    found = Calibration.parse(older, "x")
    assert [(fit.temperature, fit.widening) for fit in found.fits] == [(2.0, None), (3.0, None)]
    assert applied_calibration([found], PredictionSettings()).widening is None


def curve(value, threshold, *absent):
    """A curve that has `value` times the soft Dice."""
    return DiceFit(
        curve=tuple(value * knot for knot in KNOTS),
        threshold=threshold,
        may_be_absent=absent,
        scans=8,
        degraded=4,
        poor_dice=0.75,
        error=0.1,
    )


def test_curves_of_folds_are_averaged_by_their_cases():
    fits = (fitted(1.0, cases=3), fitted(1.0, cases=1), fitted(1.0, cases=9))
    dice = (curve(0.8, 0.7, "b", "a"), curve(0.4, 0.3, "c", "a"), None)
    folds = [
        Calibration(fits=(fit.model_copy(update={"expected_dice": d}),)) for fit, d in zip(fits, dice, strict=True)
    ]
    pooled = applied_calibration(folds, PredictionSettings()).expected_dice
    assert pooled.expected(np.array([0.0, 0.5, 0.97, 1.0])) == pytest.approx([0.0, 0.35, 0.679, 0.7])
    assert (pooled.threshold, pooled.may_be_absent) == (pytest.approx(0.6), ("a", "b", "c"))
    assert applied_calibration(folds[2:], PredictionSettings()).expected_dice is None
    assert applied_calibration(folds, PredictionSettings(steps=2)).expected_dice is None


def test_a_calibration_belongs_to_the_overlap_of_validation():
    one = CalibrationFit.model_construct(steps=0, samples=1, mirroring=False)
    assert one.is_of(PredictionSettings())
    assert not one.is_of(PredictionSettings(overlap=0.375))
