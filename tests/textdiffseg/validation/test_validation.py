import json
import subprocess
import sys
import time
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from plans.errors import UserError
from plans.layout import FoldFolder
from plans.plan import Plan
from textdiffseg.data.store import CaseRecord, open_case, save_case
from textdiffseg.degradations import DEGRADATIONS, degrade
from textdiffseg.files import write_record
from textdiffseg.folds.calibration import read_calibration
from textdiffseg.folds.entropy import STEPS_PER_BIT, EntropyMap, read_entropy
from textdiffseg.folds.sampling import Sampling, read_sampling, settings_of
from textdiffseg.imaging.volume import Volume
from textdiffseg.inference.predictor import Predictor
from textdiffseg.inference.windows import Prediction, Slab, joined
from textdiffseg.preprocessing.case import preprocess_image, preprocess_labels, restore
from textdiffseg.validation import calibrate, choose, degrading, score
from textdiffseg.validation.calibrate import calibrate_uncertainty, gather
from textdiffseg.validation.cases import load_fold, predict_case, restore_labels, spread
from textdiffseg.validation.choose import choose_sampling
from textdiffseg.validation.evidence import Evidence
from textdiffseg.validation.expected_dice import MaskScoring
from textdiffseg.validation.fitting import MIN_TEMPERATURE, fit_widening
from textdiffseg.validation.score import validate_fold

CASES = ("p", "q", "r", "s")


def in_slabs(p, planes=2):
    """Probabilities (K, D, H, W) as slabs."""
    for first in range(0, p.shape[1], planes):
        part = np.ascontiguousarray(p[:, first : first + planes], np.float32)
        yield Slab(first, Prediction(torch.from_numpy(part)))


def predict_as(monkeypatch, function):
    """Let `function` predict every stored case."""
    for module in (score, calibrate, degrading):
        monkeypatch.setattr(module, "predict_case", function)


def one_hot(case):
    """The right probabilities (K, D, H, W) of a stored case."""
    return np.eye(3, dtype=np.float32)[case.labels[...]].transpose(3, 0, 1, 2)


@pytest.fixture
def stored(tmp_path, plan, make_geometry):
    """Four stored cases, their labels a block each."""
    for index, case in enumerate(CASES):
        shape = (9, 20, 17)
        rng = np.random.default_rng(index)
        volume = Volume(rng.normal(100, 20, (1, *shape)).astype(np.float32), make_geometry(shape))
        labels = np.zeros(shape, np.int16)
        labels[2:5, 4:10, 3:9], labels[5:8, 10:16, 8:14] = 1, 2
        image, transform = preprocess_image(volume, plan)
        on_plan = preprocess_labels(labels, transform, plan)
        record = CaseRecord(
            case=case,
            hash="0",
            settings={},
            shape=transform.shape,
            present=(1, 2),
            annotated=(1, 2),
            transform=transform,
        )
        save_case(tmp_path / "preprocessed", record, image, on_plan, labels)
    return tmp_path / "preprocessed"


@pytest.fixture
def fold(root, plan):
    return root / "results" / plan.dataset / "default" / "fold_0"


def test_scores_are_those_of_the_original_grid(fold, stored, monkeypatch):

    case = open_case(stored, "p")
    slots = restore(one_hot(case), case.record.transform)
    truth = case.original_labels()
    expected = 2 * np.sum((slots == 1) & (truth == 1)) / (np.sum(slots == 1) + np.sum(truth == 1))
    assert expected > 0.8

    def perfect(predictor, case, queries, **_):
        return in_slabs(one_hot(case))

    predict_as(monkeypatch, perfect)
    summary = validate_fold(FoldFolder(fold), stored, ["p", "q"])
    assert summary.cases[0].labels["Front_Part"].dice == pytest.approx(expected)
    assert summary.cases[0].labels["Front_Part"].reference_ml == pytest.approx(3 * 6 * 6 * 2 / 1000)


def test_labels_that_are_not_annotated_and_voxels_that_are_ignored_are_not_scored(fold, stored):
    assert set(validate_fold(FoldFolder(fold), stored, ["p"]).cases[0].labels) == {"Front_Part", "back"}
    change(stored, "p", annotated=(2,))
    whole = validate_fold(FoldFolder(fold), stored, ["p"]).cases[0].labels
    case = open_case(stored, "p")
    original = case.original_labels()
    original[original == 2] = -1
    original[0, 0, 0] = 2
    save_case(stored, case.record, case.image[...], case.labels[...], original)
    scores = validate_fold(FoldFolder(fold), stored, ["p"]).cases[0].labels
    assert set(whole) == set(scores) == {"back"}
    assert scores["back"].reference_ml < whole["back"].reference_ml
    assert scores["back"].volume_ml < whole["back"].volume_ml  # what was predicted on ignored voxels


def test_a_fold_is_validated_and_its_summary_and_masks_written(fold, stored, plan):
    from textdiffseg.imaging.sources.files import read_labels

    reports = []
    summary = validate_fold(FoldFolder(fold), stored, ["p", "q"], progress=lambda *at: reports.append(at))
    assert reports[-1] == (2, 2)
    assert reports == sorted(reports)
    assert (1, 2) in reports, "half of the windows are those of one of two equal cases"
    written = json.loads((fold / "validation" / "summary.json").read_text())
    assert [case["case"] for case in written["cases"]] == ["p", "q"]
    assert set(summary.labels) == {"Front_Part", "back"}
    mask = read_labels(fold / "validation" / "p.nii.gz")
    assert mask.array.shape == (1, 9, 20, 17)
    assert set(np.unique(mask.array)) <= {0, 3, 7}


def test_the_entropy_of_each_mask_is_kept(fold, stored, plan):
    validate_fold(FoldFolder(fold), stored, ["p"])
    predictor, bank = load_fold(FoldFolder(fold), "cpu", read_sampling(FoldFolder(fold)))
    case = open_case(stored, "p")
    slabs = predict_case(predictor, case, bank)
    expected = np.concatenate([predictor.readout.entropy(slab.prediction.probabilities, 0).numpy() for slab in slabs])
    kept = read_entropy(FoldFolder(fold), "p", case.record.shape)
    assert np.ptp(expected) > 0.1
    assert np.abs(kept - expected).max() <= 0.5 / STEPS_PER_BIT + 1e-6
    assert read_entropy(FoldFolder(fold), "q", case.record.shape) is None
    with pytest.raises(UserError, match=r"its size is not that of case p\. Validate the fold again"):
        read_entropy(FoldFolder(fold), "p", (1, 2, 3))
    FoldFolder(fold).entropy("p").write_bytes(b"damaged")
    with pytest.raises(UserError, match="cannot be read"):
        read_entropy(FoldFolder(fold), "p", case.record.shape)


def test_many_classes_are_cut_at_eight_bits():
    entropy = EntropyMap((2, 1, 2))
    entropy.add(1, np.array([[[7.99, 40.0]]], np.float32))
    assert entropy._steps.tolist() == [[[0, 0]], [[255, 255]]]


def test_the_choice_of_sampling_is_a_table_that_prediction_reads(fold, stored):
    sampling = choose_sampling(FoldFolder(fold), stored, ["p", "q"])
    assert [(row.steps, row.mirroring) for row in sampling.table] == [(0, False), (0, True)]
    assert sampling.cases == 2
    assert read_sampling(FoldFolder(fold)) == sampling
    best = max(row.dice for row in sampling.table)
    chosen = next(row for row in sampling.table if (row.steps, row.mirroring) == (sampling.steps, sampling.mirroring))
    assert chosen.dice >= best - 0.001
    assert len(Predictor.from_folder(fold.parent, ["0"]).settings.mirror_axes) == 2 * sampling.mirroring


def test_without_the_time_for_every_setting_none_is_tried(fold, stored, monkeypatch):
    """The mask without mirroring then, known after single windows."""
    monkeypatch.setattr(choose, "predict_case", lambda *_, **__: pytest.fail("a whole scan is predicted"))
    sampling = choose_sampling(FoldFolder(fold), stored, ["p", "q"], max_seconds=1e-6)
    assert sampling == read_sampling(FoldFolder(fold))
    assert (sampling.cases, sampling.steps, sampling.mirroring, sampling.table) == (0, 0, False, ())


def test_settings_that_take_longer_than_their_share_are_cut_off(fold, stored, monkeypatch):
    """The machine becomes slower once the windows are timed."""
    plain, calls = choose.predict_case, []

    def slowly(*args, progress=None, **rest):
        calls.append(args)
        pause = 0 if len(calls) < 3 else 1.0  # from the second setting on

        def after(done, total):
            time.sleep(pause)
            progress(done, total)

        return plain(*args, progress=after, **rest)

    monkeypatch.setattr(choose, "predict_case", slowly)
    monkeypatch.setattr(choose, "seconds_of", lambda *_: 0.01)
    began = time.perf_counter()
    sampling = choose_sampling(FoldFolder(fold), stored, ["p"], max_seconds=3.0)
    assert time.perf_counter() - began < 8.0
    assert [(row.steps, row.mirroring) for row in sampling.table] == [(0, False)]
    assert (sampling.steps, sampling.mirroring) == (0, False)


def test_trials_weigh_what_they_cost_on_one_bar(fold, stored):
    reports = []
    choose_sampling(FoldFolder(fold), stored, ["p"], progress=lambda *at: reports.append(at))
    assert reports == sorted(reports)
    assert reports[-1] == (2, 2)
    plan = Plan.read(fold / "plan.json")
    costs = [settings_of(plan, trial).passes for trial in choose.trials_of(plan)]
    assert costs == pytest.approx([1, 4]), "four views"
    ends = [2 * sum(costs[: number + 1]) / sum(costs) for number in range(2)]
    assert all(any(done == pytest.approx(end) for done, _ in reports) for end in ends)


def test_one_large_case_does_not_keep_the_others_from_choosing(fold, stored, monkeypatch):
    plain, predicted = choose.predict_case, []

    def listening(predictor, case, *rest, **more):
        predicted.append(case.record.case)
        return plain(predictor, case, *rest, **more)

    monkeypatch.setattr(choose, "predict_case", listening)

    def large(folder, case, *rest):
        """The size of p is read from its record."""
        found = open_case(folder, case, *rest)
        shape = tuple((4 if case == "p" else 1) * edge for edge in found.record.shape)
        return replace(found, record=found.record.model_copy(update={"shape": shape}))

    monkeypatch.setattr(choose, "open_case", large)
    choose_sampling(FoldFolder(fold), stored, CASES, max_seconds=1e6)
    assert predicted[0] == "q"
    assert set(predicted[1:]) == {"p", "q", "r", "s"}


def test_unet_tries_mirroring_alone(tmp_path, stored, make_plan, make_fold, bank):
    fold = tmp_path / "fold_0"
    make_fold(fold, make_plan("unet"), bank, 0)
    assert [row.steps for row in choose_sampling(FoldFolder(fold), stored, ["p"]).table] == [0, 0]
    assert validate_fold(FoldFolder(fold), stored, ["p"]).cases[0].case == "p"


def test_the_mask_s_setting_and_that_of_uncertainty_are_calibrated_apart(fold, stored, monkeypatch):
    monkeypatch.setattr(Predictor, "predict_image", lambda *_, **__: pytest.fail("a whole volume is kept"))
    validate_fold(FoldFolder(fold), stored, CASES, sampling=Sampling(mirroring=False), calibrate=True)
    fit = calibrate_uncertainty(FoldFolder(fold), stored, CASES, max_seconds=1e6)
    found = read_calibration(FoldFolder(fold)).fits
    assert [(one.steps, one.samples, one.mirroring, one.cases) for one in found] == [(0, 1, False, 4), (3, 8, False, 4)]
    assert all(set(one.widening.coverage_before) == {"Front_Part", "back"} for one in found)
    assert found[1] == fit
    assert fit.expected_dice is None
    validate_fold(FoldFolder(fold), stored, CASES, sampling=Sampling(mirroring=False), calibrate=True)
    assert len(read_calibration(FoldFolder(fold)).fits) == 2
    choose_sampling(FoldFolder(fold), stored, ["p"])
    assert read_calibration(FoldFolder(fold)).fits == ()


def test_uncertainty_is_calibrated_with_the_plan_s_steps(tmp_path, stored, make_plan, make_fold, bank):
    fold = tmp_path / "fold_0"
    make_fold(fold, make_plan("default", diffusion={"min_log_snr": -3, "steps": 6}), bank, 0)
    assert [row.steps for row in choose_sampling(FoldFolder(fold), stored, ["p"]).table] == [0, 0]
    fit = calibrate_uncertainty(FoldFolder(fold), stored, CASES, max_seconds=1e6)
    assert (fit.steps, fit.samples, fit.mirroring) == (6, 8, False)


def test_volumes_are_compared_in_the_file_s_voxels(fold, stored, monkeypatch):
    def exact(predictor, case, queries, **_):
        return in_slabs(one_hot(case))

    predict_as(monkeypatch, exact)
    predictor, queries = load_fold(FoldFolder(fold), "cpu", Sampling(), uncertainty=True)
    evidence = gather(predictor, queries, stored, CASES)
    scale = 9 * 20 * 17 / np.prod(open_case(stored, "p").record.shape)
    assert scale != 1
    on_plan = [(open_case(stored, "p").labels[...] == number).sum() for number in (1, 2)]
    assert evidence.intervals(1.0)[0] == pytest.approx(np.outer(on_plan, (scale, scale)))
    assert evidence.truths[0].tolist() == [3 * 6 * 6, 3 * 6 * 6]


def test_too_few_cases_or_too_little_time_calibrate_nothing(fold, stored, monkeypatch):
    validate_fold(FoldFolder(fold), stored, CASES[:3], calibrate=True)
    assert calibrate_uncertainty(FoldFolder(fold), stored, CASES[:3]) is None
    monkeypatch.setattr(calibrate, "seconds_of", lambda *_: 100.0)
    assert calibrate_uncertainty(FoldFolder(fold), stored, CASES) is None
    assert not (fold / "calibration.json").exists()


def slow_down(monkeypatch, name, seconds):
    """Let a function that `choose` calls take so many seconds more."""
    plain = getattr(choose, name)

    def slow(*args, **rest):
        time.sleep(seconds)
        return plain(*args, **rest)

    monkeypatch.setattr(choose, name, slow)


def test_the_way_back_to_the_file_s_grid_counts_as_time(fold, stored, monkeypatch):
    monkeypatch.setattr(choose, "predict_case", lambda _, case, *__, **___: in_slabs(one_hot(case)))
    monkeypatch.setattr(choose, "seconds_of", lambda *_: 0.1)
    slow_down(monkeypatch, "restore_labels", 1.0)
    assert choose_sampling(FoldFolder(fold), stored, ["p", "q"], max_seconds=6.0).cases == 1


def test_a_model_whose_denoiser_is_not_trained_has_no_uncertainty_to_calibrate(fold, stored):
    for path in fold.glob("checkpoint_*"):
        weights = load_file(path)
        save_file(weights | {"ema.spread": torch.zeros(())}, path)
    validate_fold(FoldFolder(fold), stored, CASES, calibrate=True)
    assert calibrate_uncertainty(FoldFolder(fold), stored, CASES, max_seconds=1e6) is None
    (fit,) = read_calibration(FoldFolder(fold)).fits
    assert (fit.steps, fit.samples) == (0, 1)


def change(stored, case, **changes):
    """Another record of a stored case."""
    path = stored / "cases" / f"{case}.json"
    write_record(path, CaseRecord.read(path).model_copy(update=changes))


def test_cases_without_foreground_are_left_out(fold, stored):
    predictor, bank = load_fold(FoldFolder(fold), "cpu", Sampling(), uncertainty=True)
    change(stored, "p", present=())
    assert len(gather(predictor, bank, stored, CASES[:3]).voxels) == 2


def test_the_known_labels_of_a_case_are_queried(fold, stored, bank, monkeypatch):
    queried, plain = [], Predictor.predict_slabs

    def listening(predictor, image, queries, *rest, **more):
        queried.append(queries.labels.tolist())
        return plain(predictor, image, queries, *rest, **more)

    monkeypatch.setattr(Predictor, "predict_slabs", listening)
    change(stored, "p", annotated=(2,), present=(2,))
    change(stored, "q", annotated=(2,), present=(2,), absent=(1,))
    predictor, bank = load_fold(FoldFolder(fold), "cpu", Sampling(), uncertainty=True)
    evidence = gather(predictor, bank, stored, CASES[:3])
    assert queried == [[[2]], [[1, 2]], [[1, 2]]]
    assert [voxels.p.shape[0] for voxels in evidence.voxels] == [3, 3, 3], "classes are label numbers"
    assert not evidence.voxels[0].p[1].any()
    assert evidence.voxels[0].p.sum(0) == pytest.approx(1, abs=1e-5)
    assert not evidence.intervals(1.0)[0][0].any()
    assert [truth.tolist()[0] > 0 for truth in evidence.truths] == [False, True, True]
    summary = validate_fold(FoldFolder(fold), stored, ["p"])
    assert set(summary.cases[0].labels) == {"back"}


def test_the_mask_s_probabilities_give_unet_its_intervals(tmp_path, stored, make_plan, make_fold, bank):
    fold = tmp_path / "fold_0"
    make_fold(fold, make_plan("unet"), bank, 0)
    validate_fold(FoldFolder(fold), stored, CASES, calibrate=True)
    (fit,) = read_calibration(FoldFolder(fold)).fits
    assert (fit.steps, fit.samples) == (0, 1)
    assert fit.widening.factor >= 1
    assert calibrate_uncertainty(FoldFolder(fold), stored, CASES) is None


def test_few_cases_are_spread_over_all():
    assert spread(list("abcdefgh"), 4) == list("aceg")
    assert spread(["a"], 4) == ["a"]


def test_validation_runs_where_simpleitk_is_not_installed(fold, stored):
    code = (
        "import sys; sys.modules['SimpleITK'] = None\n"
        "from textdiffseg.validation.choose import choose_sampling\n"
        "from textdiffseg.validation.score import validate_fold\n"
        "from plans.layout import FoldFolder\n"
        "from pathlib import Path\n"
        f"fold, stored = FoldFolder(Path({str(fold)!r})), Path({str(stored)!r})\n"
        "choose_sampling(fold, stored, ['p'])\n"
        "validate_fold(fold, stored, ['p'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert (fold / "validation" / "summary.json").is_file()


@pytest.fixture
def nested_fold(tmp_path, bank, plan, make_fold):
    """A fold whose first label holds the second: values 3 and 7, and 3."""
    fold = tmp_path / "nested" / "fold_0"
    make_fold(fold, plan.model_copy(update={"regions": ((3, 7), (3,))}), bank, 0)
    return fold


def exact_nested(predictor, case, queries, **_):
    """Right everywhere, and as sure as 0.9."""
    numbers = case.labels[...]  # 1 is the value 3, 2 the value 7
    whole, part = (np.where(mask, 0.9, 0.1).astype(np.float32) for mask in (numbers > 0, numbers == 1))
    return in_slabs(np.stack([1 - whole, whole, part]))


def test_labels_that_overlap_are_scored_as_unions(nested_fold, stored, monkeypatch):
    predict_as(monkeypatch, exact_nested)
    summary = validate_fold(FoldFolder(nested_fold), stored, CASES)
    assert all(part.dice > 0.8 for part in summary.labels.values())
    case, first = open_case(stored, "p"), summary.cases[0].labels
    voxel = np.prod(case.record.transform.geometry.spacing) / 1000
    truth = case.original_labels()
    assert first["Front_Part"].reference_ml == pytest.approx(np.count_nonzero(truth) * voxel)
    assert first["back"].reference_ml == pytest.approx(np.count_nonzero(truth == 1) * voxel)


def test_labels_that_overlap_are_calibrated_on_their_unions(nested_fold, stored, monkeypatch):
    predict_as(monkeypatch, exact_nested)
    validate_fold(FoldFolder(nested_fold), stored, CASES, calibrate=True)
    (fit,) = read_calibration(FoldFolder(nested_fold)).fits
    assert fit.temperature == pytest.approx(MIN_TEMPERATURE, rel=0.01), "what is always right may be as sure as can be"
    assert fit.ece_before == pytest.approx(0.1)
    assert fit.brier_before == pytest.approx(2 * 0.01)
    predictor, bank = load_fold(FoldFolder(nested_fold), "cpu", Sampling(), uncertainty=True)
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


def test_the_seconds_of_a_trial_are_those_of_one_case(fold, stored, monkeypatch):
    slow_down(monkeypatch, "predict_case", 0.2)
    first = choose_sampling(FoldFolder(fold), stored, CASES, max_seconds=1e6).table[0]
    assert 0.2 < first.seconds < 0.2 * len(CASES)


@pytest.fixture
def seen(monkeypatch):
    """The degradations of all predictions, which are sure and right, or unsure and misplaced if degraded."""
    found = []

    def placed(predictor, case, bank, degradation=None, **_):
        found.append(degradation)
        labels = case.labels[...] if degradation is None else np.roll(case.labels[...], 3, 0)
        p = 0.98 if degradation is None else 0.6
        p = np.where(np.arange(3)[:, None, None, None] == labels, p, (1 - p) / 2).astype(np.float32)
        return in_slabs(p)

    predict_as(monkeypatch, placed)
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


def scored(case, p, readout):
    """The scores of a prediction (K, D, H, W)."""
    scoring = MaskScoring(case, readout)
    for slab in in_slabs(p):
        scoring.add(slab)
    return scoring.finish(0)


@pytest.mark.parametrize("known", [(1, 2), (2,)])
def test_slabs_give_the_mask_and_the_evidence_of_the_whole_prediction(fold, stored, known):
    """DESIGN 6: memory is bounded by a slab."""
    change(stored, "p", annotated=known, present=known)
    predictor, _ = load_fold(FoldFolder(fold), "cpu", Sampling())
    case, of_planes = open_case(stored, "p"), {}
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(1 + len(known), 0.5), case.record.shape).transpose(3, 0, 1, 2)
    for planes in (1, 3, len(p[0])):
        evidence = Evidence(predictor.plan, predictor.settings)
        labels = restore_labels(predictor.readout, evidence.passing(in_slabs(p, planes), case), case)
        of_planes[planes] = (labels, evidence.voxels[0].p, evidence.voxels[0].truth, evidence.sums[0].levels)
        of_planes[planes] += (evidence.masks[0].dice, evidence.truths[0])
        assert evidence.masks[0].soft_dice == pytest.approx(evidence.sums[0].soft_dice)
    whole = of_planes.pop(len(p[0]))
    expected = np.array([0, *known])[predictor.readout.restore(p.astype(np.float32), case.record.transform)]
    assert np.array_equal(whole[0], expected)
    assert set(np.unique(whole[0])) == {0, *known}
    for found in of_planes.values():
        assert all(np.array_equal(one, other, equal_nan=True) for one, other in zip(found, whole, strict=True))


def test_a_mask_is_scored_by_label_and_without_ignored_voxels(fold, stored):
    predictor, _ = load_fold(FoldFolder(fold), "cpu", Sampling())
    change(stored, "p", annotated=(2,), absent=())
    case = open_case(stored, "p")
    labels = case.labels[...]
    exact = np.eye(3, dtype=np.float32)[np.where(labels == 2, 1, 0)].transpose(3, 0, 1, 2)[:2]  # slot 1 is label 2
    found = scored(case, exact, predictor.readout)
    assert np.isnan(found.dice[0])
    assert (found.dice[1], found.mean_dice) == (1.0, 1.0)
    wrong = np.roll(exact, 3, 1)
    ignoring = replace(case, references=(np.where(labels == 2, 2, -1),))
    assert scored(case, wrong, predictor.readout).dice[1] < 1
    overlap = scored(ignoring, wrong, predictor.readout).dice[1]
    hit = np.count_nonzero((wrong[1] > 0) & (labels == 2))
    assert overlap == pytest.approx(2 * hit / (hit + np.count_nonzero(labels == 2)))


def test_absent_structures_widen_nothing_and_warn_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit_widening(np.array([[[0.0, 0.0]], [[0.0, 4.0]]]), np.array([[0.0], [8.0]])) == pytest.approx(2)
        assert fit_widening(np.zeros((2, 1, 2)), np.zeros((2, 1))) is None
