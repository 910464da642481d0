"""What a fold's calibration is fitted to: cases, volumes, overlapping labels, degraded scans."""

import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from plans.layout import FoldFolder
from textdiffseg.data.store import open_case
from textdiffseg.degradations import DEGRADATIONS, degrade
from textdiffseg.folds.calibration import read_calibration
from textdiffseg.folds.sampling import Sampling, uncertainty_settings
from textdiffseg.inference.predictor import Predictor
from textdiffseg.inference.windows import joined
from textdiffseg.validation import calibrate, score
from textdiffseg.validation.calibrate import calibrate_uncertainty, gather
from textdiffseg.validation.cases import load_fold, predict_case
from textdiffseg.validation.choose import choose_sampling
from textdiffseg.validation.fitting import MIN_TEMPERATURE, fit_widening
from textdiffseg.validation.score import validate_fold

CASES = ("p", "q", "r", "s")


def load_samples(fold):
    """A predictor with the settings of uncertainty, and the fold's words."""
    mask, bank = load_fold(FoldFolder(fold), "cpu", Sampling())
    return Predictor(mask.networks, uncertainty_settings(mask.plan, mask.settings)), bank


def test_the_mask_s_setting_and_that_of_uncertainty_are_calibrated_apart(fold, small, monkeypatch):
    monkeypatch.setattr(Predictor, "predict_image", lambda *_, **__: pytest.fail("a whole volume is kept"))
    monkeypatch.setattr(score, "read_sampling", lambda _: Sampling(mirroring=False))
    validate_fold(FoldFolder(fold), small, CASES, calibrate=True)
    fit = calibrate_uncertainty(FoldFolder(fold), small, CASES, max_seconds=1e6)
    found = read_calibration(FoldFolder(fold)).fits
    assert [(one.steps, one.samples, one.mirroring, one.cases) for one in found] == [(0, 1, False, 4), (3, 8, False, 4)]
    assert all(set(one.widening.coverage_before) == {"Front_Part", "back"} for one in found)
    assert found[1] == fit
    assert fit.expected_dice is None
    validate_fold(FoldFolder(fold), small, CASES, calibrate=True)
    assert len(read_calibration(FoldFolder(fold)).fits) == 2
    choose_sampling(FoldFolder(fold), small, ["p"])
    assert read_calibration(FoldFolder(fold)).fits == ()


def test_uncertainty_is_calibrated_with_the_plan_s_steps(tmp_path, small, make_plan, make_fold, bank):
    fold = tmp_path / "fold_0"
    make_fold(fold, make_plan("default", diffusion={"min_log_snr": -3, "steps": 6}), bank, 0)
    assert [row.steps for row in choose_sampling(FoldFolder(fold), small, ["p"]).table] == [0, 0]
    fit = calibrate_uncertainty(FoldFolder(fold), small, CASES, max_seconds=1e6)
    assert (fit.steps, fit.samples, fit.mirroring) == (6, 8, False)


def test_volumes_are_compared_in_the_file_s_voxels(fold, stored, in_slabs, one_hot, predict_as):
    def exact(predictor, case, queries, **_):
        return in_slabs(one_hot(case))

    predict_as(exact)
    predictor, queries = load_samples(fold)
    evidence = gather(predictor, queries, stored, CASES)
    scale = 9 * 20 * 17 / np.prod(open_case(stored, "p").record.shape)
    assert scale != 1
    on_plan = [(open_case(stored, "p").labels[...] == number).sum() for number in (1, 2)]
    assert evidence.intervals(1.0)[0] == pytest.approx(np.outer(on_plan, (scale, scale)))
    assert evidence.truths[0].tolist() == [3 * 6 * 6, 3 * 6 * 6]


def test_too_few_cases_or_too_little_time_calibrate_nothing(fold, stored, monkeypatch):
    degrading = lambda *_: pytest.fail("a degraded scan is predicted, to which nothing is fitted")  # noqa: E731
    validate_fold(FoldFolder(fold), stored, CASES[:3], calibrate=True, degrading=degrading)
    assert calibrate_uncertainty(FoldFolder(fold), stored, CASES[:3]) is None
    monkeypatch.setattr(calibrate, "seconds_of", lambda *_: 100.0)
    assert calibrate_uncertainty(FoldFolder(fold), stored, CASES) is None
    assert not (fold / "calibration.json").exists()


def test_a_model_whose_denoiser_is_not_trained_has_no_uncertainty_to_calibrate(fold, small):
    for path in fold.glob("checkpoint_*"):
        weights = load_file(path)
        save_file(weights | {"ema.spread": torch.zeros(())}, path)
    validate_fold(FoldFolder(fold), small, CASES, calibrate=True)
    assert calibrate_uncertainty(FoldFolder(fold), small, CASES, max_seconds=1e6) is None
    (fit,) = read_calibration(FoldFolder(fold)).fits
    assert (fit.steps, fit.samples) == (0, 1)


def test_cases_without_foreground_are_left_out(fold, small, change):
    predictor, bank = load_samples(fold)
    change(small, "p", present=())
    assert len(gather(predictor, bank, small, CASES[:3]).voxels) == 2


def test_the_known_labels_of_a_case_are_queried(fold, small, bank, monkeypatch, change):
    queried, plain = [], Predictor.predict_slabs

    def listening(predictor, image, queries, *rest, **more):
        queried.append(queries.labels.tolist())
        return plain(predictor, image, queries, *rest, **more)

    monkeypatch.setattr(Predictor, "predict_slabs", listening)
    change(small, "p", annotated=(2,), present=(2,))
    change(small, "q", annotated=(2,), present=(2,), absent=(1,))
    predictor, bank = load_samples(fold)
    evidence = gather(predictor, bank, small, CASES[:3])
    assert queried == [[[2]], [[1, 2]], [[1, 2]]]
    assert [voxels.p.shape[0] for voxels in evidence.voxels] == [3, 3, 3], "classes are label numbers"
    assert not evidence.voxels[0].p[1].any()
    assert evidence.voxels[0].p.sum(0) == pytest.approx(1, abs=1e-5)
    assert not evidence.intervals(1.0)[0][0].any()
    assert [truth.tolist()[0] > 0 for truth in evidence.truths] == [False, True, True]
    summary = validate_fold(FoldFolder(fold), small, ["p"])
    assert set(summary.cases[0].labels) == {"back"}


def test_the_mask_s_probabilities_give_unet_its_intervals(tmp_path, small, make_plan, make_fold, bank):
    fold = tmp_path / "fold_0"
    make_fold(fold, make_plan("unet"), bank, 0)
    validate_fold(FoldFolder(fold), small, CASES, calibrate=True)
    (fit,) = read_calibration(FoldFolder(fold)).fits
    assert (fit.steps, fit.samples) == (0, 1)
    assert fit.widening.factor > 0
    assert calibrate_uncertainty(FoldFolder(fold), small, CASES) is None


def test_labels_that_overlap_are_calibrated_on_their_unions(nested_fold, stored, predict_as, exact_nested):
    predict_as(exact_nested)
    validate_fold(FoldFolder(nested_fold), stored, CASES, calibrate=True)
    (fit,) = read_calibration(FoldFolder(nested_fold)).fits
    assert fit.temperature == pytest.approx(MIN_TEMPERATURE, rel=0.01), "what is always right may be as sure as can be"
    assert fit.ece_before == pytest.approx(0.1)
    assert fit.brier_before == pytest.approx(2 * 0.01)
    predictor, bank = load_samples(nested_fold)
    evidence = gather(predictor, bank, stored, CASES)
    case = open_case(stored, "p")
    scale = 9 * 20 * 17 / np.prod(case.record.shape)
    on_plan = [np.count_nonzero(case.labels[...] > 0), np.count_nonzero(case.labels[...] == 1)]
    everything = [9 * 20 * 17, 9 * 20 * 17]
    assert evidence.intervals(1.0)[0].T.tolist() == [[0, 0], pytest.approx(everything)], "0.9 < 0.95, and 0.1 > 0.05"
    assert evidence.intervals(0.5)[0] == pytest.approx(scale * np.outer(on_plan, (1, 1))), "0.99 and 0.01"
    assert evidence.truths[0].tolist() == [2 * 3 * 6 * 6, 3 * 6 * 6]
    fit = calibrate_uncertainty(FoldFolder(nested_fold), stored, CASES, max_seconds=1e6)
    assert set(fit.widening.coverage_after) == {"Front_Part", "back"}
    assert len(read_calibration(FoldFolder(nested_fold)).fits) == 2


@pytest.fixture
def seen(in_slabs, predict_as):
    """The degradations of all predictions, which are sure and right, or unsure and misplaced if degraded."""
    found = []

    def placed(predictor, case, bank, degradation=None, **_):
        found.append(degradation)
        labels = case.labels[...] if degradation is None else np.roll(case.labels[...], 3, 0)
        p = 0.98 if degradation is None else 0.6
        p = np.where(np.arange(3)[:, None, None, None] == labels, p, (1 - p) / 2).astype(np.float32)
        return in_slabs(p)

    predict_as(placed)
    return found


def test_the_expected_dice_is_fitted_to_undegraded_and_degraded_scans(fold, stored, seen, monkeypatch):
    monkeypatch.setattr(score, "MIN_DEGRADED_SECONDS", 600.0)
    reports = []
    validate_fold(FoldFolder(fold), stored, CASES, calibrate=True, degrading=lambda *at: reports.append(at))
    (fit,) = read_calibration(FoldFolder(fold)).fits
    dice = fit.expected_dice
    assert (dice.scans, dice.degraded, len(seen)) == (36, 32, 36)
    assert {degradation[0] for degradation in seen[4:]} == set(DEGRADATIONS)
    assert reports[-1] == (32, 32)
    assert dice.may_be_absent == ()
    assert (dice.poor_dice, dice.poor_found, dice.good_flagged) == (0.75, 1.0, 0.0)
    assert 0.5 < dice.threshold < 1
    assert dice.error < 0.05


def test_degraded_scans_end_with_their_share_of_the_time(fold, stored, seen, monkeypatch):
    monkeypatch.setattr(score, "MIN_DEGRADED_SECONDS", 0.0)
    monkeypatch.setattr(score, "DEGRADED_SHARE", 0.0)
    validate_fold(FoldFolder(fold), stored, CASES, calibrate=True)
    (fit,) = read_calibration(FoldFolder(fold)).fits
    assert seen == 4 * [None]
    assert fit.expected_dice is None, "no degraded scan, no curve"
    assert fit.widening is not None


def test_a_degraded_scan_is_predicted_from_the_degraded_image(fold, stored):
    predictor, bank = load_fold(FoldFolder(fold), "cpu", Sampling())
    case = open_case(stored, "p")
    slabs = predict_case(predictor, case, bank, degradation=("noise 1", 5))
    found = joined(slabs, case.record.shape).probabilities
    image = degrade("noise 1", case.image[...].astype(np.float32), 5)
    assert torch.equal(found, predictor.predict_image(torch.from_numpy(image), bank.all_labels()).probabilities)


def test_absent_structures_widen_nothing_and_warn_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit_widening(np.array([[[0.0, 0.0]], [[0.0, 4.0]]]), np.array([[0.0], [8.0]])) == pytest.approx(2)
        assert fit_widening(np.zeros((2, 1, 2)), np.zeros((2, 1))) is None
