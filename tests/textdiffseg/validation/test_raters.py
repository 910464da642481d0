"""Validation of cases with several references."""

import numpy as np
import pytest
import torch

from plans.layout import FoldFolder
from textdiffseg.data.store import CaseRecord, open_case, save_case
from textdiffseg.evaluation.summary import Summary
from textdiffseg.folds.sampling import PredictionSettings
from textdiffseg.imaging.volume import Volume
from textdiffseg.inference.windows import Prediction, Slab
from textdiffseg.preprocessing.case import preprocess_image, preprocess_labels
from textdiffseg.validation import distances, score
from textdiffseg.validation.distances import cases_with_raters, measure_distances
from textdiffseg.validation.evidence import Evidence
from textdiffseg.validation.score import validate_fold


@pytest.fixture
def stored(tmp_path, plan, make_geometry):
    """Case p has two references, of which only the first has label 2. Case q has one."""
    for case, raters in (("p", 2), ("q", 1)):
        shape = (9, 20, 17)
        volume = Volume(np.random.default_rng(0).normal(100, 20, (1, *shape)).astype(np.float32), make_geometry(shape))
        labels = np.zeros(shape, np.int16)
        labels[2:5, 4:10, 3:9], labels[5:8, 10:16, 8:14] = 1, 2
        references = [labels, labels * (labels == 1)][:raters]
        image, transform = preprocess_image(volume, plan)
        record = CaseRecord(
            case=case,
            hash="",
            settings={},
            shape=transform.shape,
            present=(1, 2),
            annotated=(1, 2),
            transform=transform,
        )
        on_plan = [preprocess_labels(one, transform, plan) for one in references]
        save_case(tmp_path / "preprocessed", record, image, on_plan, references)
    return tmp_path / "preprocessed"


@pytest.fixture
def fold(root, plan):
    return FoldFolder(root / "results" / plan.dataset / "default" / "fold_0")


def in_slabs(p, planes=2):
    """Probabilities (K, D, H, W) as slabs."""
    for first in range(0, p.shape[1], planes):
        part = np.ascontiguousarray(p[:, first : first + planes], np.float32)
        yield Slab(first, Prediction(torch.from_numpy(part)))


def perfect(predictor, case, bank, uncertainty=False, **_):
    one_hot = np.eye(3, dtype=np.float32)[case.labels[...]].transpose(3, 0, 1, 2)
    return in_slabs(one_hot)


def test_a_mask_is_scored_against_all_references(fold, stored, monkeypatch):
    monkeypatch.setattr(score, "predict_case", perfect)
    summary = validate_fold(fold, stored, ["p", "q"])
    back = summary.cases[0].labels["back"]
    assert back.rater_dice[1] == 0
    assert back.dice == pytest.approx(back.rater_dice[0] / 2)
    assert back.best_dice == back.rater_dice[0] > 0.8
    assert summary.cases[1].labels["back"].rater_dice == ()
    assert (summary.mean.several, summary.mean.ged2) == (1, None)


def test_samples_are_compared_with_the_references(fold, stored, monkeypatch):
    monkeypatch.setattr(score, "predict_case", perfect)
    validate_fold(fold, stored, ["p", "q"])
    assert cases_with_raters(stored, ["p", "q"]) == ["p"]

    def both(predictor, image, transform, queries, answers, progress):
        case = open_case(stored, "p")
        return np.stack([case.original_labels(number % 2) for number in range(predictor.settings.samples)])

    monkeypatch.setattr(distances, "draw_masks", both)
    summary = measure_distances(fold, stored, ["p", "q"])
    assert summary == Summary.read(fold.summary)
    assert summary.labels["back"].ged2 == pytest.approx(0)
    assert summary.notes[-1] == "ged2 was measured on 1 of 1 cases with several references."
    assert "d = 1 - IoU" in summary.ged_rule


def test_real_samples_have_a_distance_and_no_time_means_no_distance(fold, stored):
    validate_fold(fold, stored, ["p", "q"])
    assert measure_distances(fold, stored, ["p", "q"], max_seconds=0).mean.ged2 is None
    assert measure_distances(fold, stored, ["q"], max_seconds=0).notes[-1].startswith("ged2 was measured on 0 of 1")
    assert measure_distances(fold, stored, ["p", "q"]).mean.ged2 >= 0


def test_the_calibration_reads_the_voxels_of_all_raters(plan, stored):
    evidence = Evidence(plan, PredictionSettings())
    for name in ("p", "q"):
        evidence.add(perfect(None, open_case(stored, name), None), open_case(stored, name))
    assert len(evidence.voxels) == 2
    several, one = evidence.voxels
    assert several.truth.size > one.truth.size
    assert np.array_equal(several.truth[: one.truth.size], one.truth)
