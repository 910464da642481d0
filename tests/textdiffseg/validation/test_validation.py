"""Scores of a fold's validation cases, on the grids of their files."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from plans.errors import UserError
from plans.layout import FoldFolder
from textdiffseg.data.store import open_case, save_case
from textdiffseg.evaluation.metrics import score_case
from textdiffseg.folds.entropy import STEPS_PER_BIT, EntropyMap, read_entropy
from textdiffseg.folds.sampling import Sampling, read_sampling
from textdiffseg.preprocessing.case import restore
from textdiffseg.validation.cases import load_fold, predict_case, restore_labels
from textdiffseg.validation.evidence import Evidence
from textdiffseg.validation.expected_dice import MaskScoring
from textdiffseg.validation.score import only_lesions, validate_fold

CASES = ("p", "q", "r", "s")


def test_scores_are_those_of_the_original_grid(fold, stored, in_slabs, one_hot, predict_as):

    case = open_case(stored, "p")
    slots = restore(one_hot(case), case.record.transform)
    truth = case.original_labels()
    expected = 2 * np.sum((slots == 1) & (truth == 1)) / (np.sum(slots == 1) + np.sum(truth == 1))
    assert expected > 0.8

    def perfect(predictor, case, queries, **_):
        return in_slabs(one_hot(case))

    predict_as(perfect)
    summary = validate_fold(FoldFolder(fold), stored, ["p", "q"])
    assert summary.cases[0].labels["Front_Part"].dice == pytest.approx(expected)
    assert summary.cases[0].labels["Front_Part"].reference_ml == pytest.approx(3 * 6 * 6 * 2 / 1000)


def test_labels_that_are_not_annotated_and_voxels_that_are_ignored_are_not_scored(fold, stored, change):
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


def test_stored_cases_are_validated_and_training_is_imported_where_simpleitk_is_not_installed(fold, stored):
    code = (
        "import sys; sys.modules['SimpleITK'] = None\n"
        "import textdiffseg.data.loader, textdiffseg.training.loop\n"
        "from textdiffseg.validation.choose import choose_sampling\n"
        "from textdiffseg.validation.score import only_lesions, validate_fold\n"
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


def test_labels_that_overlap_are_scored_as_unions(nested_fold, stored, predict_as, exact_nested):
    predict_as(exact_nested)
    summary = validate_fold(FoldFolder(nested_fold), stored, CASES)
    assert all(part.dice > 0.8 for part in summary.labels.values())
    case, first = open_case(stored, "p"), summary.cases[0].labels
    voxel = np.prod(case.record.transform.geometry.spacing) / 1000
    truth = case.original_labels()
    assert first["Front_Part"].reference_ml == pytest.approx(np.count_nonzero(truth) * voxel)
    assert first["back"].reference_ml == pytest.approx(np.count_nonzero(truth == 1) * voxel)


@pytest.fixture(scope="module")
def scored(in_slabs):
    """A function that returns the scores of a prediction (K, D, H, W)."""

    def of(case, p, readout):
        scoring = MaskScoring(case, readout)
        for slab in in_slabs(p):
            scoring.add(slab)
        return scoring.finish(0)

    return of


@pytest.mark.parametrize("known", [(1, 2), (2,)])
def test_slabs_give_the_mask_and_the_evidence_of_the_whole_prediction(fold, stored, known, in_slabs, change):
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
    restoring = predictor.readout.restoring(case.record.transform)
    restoring.add(predictor.readout.classes_to_compare(p.astype(np.float32)))
    expected = np.array([0, *known])[restoring.finish()]
    assert np.array_equal(whole[0], expected)
    assert set(np.unique(whole[0])) == {0, *known}
    for found in of_planes.values():
        assert all(np.array_equal(one, other, equal_nan=True) for one, other in zip(found, whole, strict=True))


def test_a_mask_is_scored_by_label_and_without_ignored_voxels(fold, stored, change, scored):
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


def test_single_lesions_are_scored_for_labels_of_several_components():
    one, many = np.zeros((2, 8, 8, 8), np.int16)
    one[1:3], many[1:3], many[5:7] = 1, 1, 1
    cases = [
        score_case(truth, truth, (1, 1, 1), {1: "tumour", 2: "liver"}, case=str(place), lesions=("tumour", "liver"))
        for place, truth in enumerate((many, one, one, one))
    ]
    found = only_lesions(cases)
    assert [case.labels["tumour"].lesions.reference for case in found] == [2, 1, 1, 1]
    assert [case.labels["liver"].lesions for case in found] == [None] * 4, "no reference holds it"
    assert only_lesions([*cases, cases[1]])[0].labels["tumour"].lesions is None, "one of five is not a quarter"


def test_a_validation_scores_lesions(fold, stored, monkeypatch):
    monkeypatch.setattr("textdiffseg.validation.score.MIN_SEVERAL", 0.0)
    summary = validate_fold(FoldFolder(fold), stored, ["p", "q"])
    assert summary.labels["Front_Part"].lesions.reference > 0
