import json
import subprocess
import sys

import numpy as np
import pytest

from textdiffseg.data.store import CaseRecord, open_case, save_case
from textdiffseg.imaging.volume import Volume
from textdiffseg.inference.ensemble import read_sampling
from textdiffseg.inference.predictor import Predictor
from textdiffseg.inference.validation import choose_sampling, measure_coverage, spread, validate_fold
from textdiffseg.preprocessing.case import preprocess_image, preprocess_labels, restore


@pytest.fixture
def stored(tmp_path, plan, make_geometry):
    """Two stored cases, their labels a block each."""
    for index, case in enumerate(("p", "q")):
        shape = (9, 20, 17)
        rng = np.random.default_rng(index)
        volume = Volume(rng.normal(100, 20, (1, *shape)).astype(np.float32), make_geometry(shape))
        labels = np.zeros(shape, np.int16)
        labels[2:5, 4:10, 3:9], labels[5:8, 10:16, 8:14] = 1, 2
        image, trail = preprocess_image(volume, plan)
        on_plan = preprocess_labels(labels, trail, plan)
        record = CaseRecord(
            case=case, hash="0", settings={}, shape=trail.shape, present=(1, 2), annotated=(1, 2), trail=trail
        )
        save_case(tmp_path / "preprocessed", record, image, on_plan, labels)
    return tmp_path / "preprocessed"


@pytest.fixture
def fold(root, plan):
    return root / "results" / plan.dataset / "default" / "fold_0"


def test_scores_are_those_of_the_original_grid(fold, stored, monkeypatch):
    from textdiffseg.inference import validation

    case = open_case(stored, "p")
    slots = restore(np.eye(3, dtype=np.float32)[case.labels[...]].transpose(3, 0, 1, 2), case.record.trail)
    truth = case.original_labels()
    expected = 2 * np.sum((slots == 1) & (truth == 1)) / (np.sum(slots == 1) + np.sum(truth == 1))
    assert expected > 0.8

    def perfect(predictor, case, queries, uncertainty=False):
        import torch

        from textdiffseg.inference.predictor import Prediction

        one_hot = np.eye(3, dtype=np.float32)[case.labels[...]].transpose(3, 0, 1, 2)
        return Prediction(torch.from_numpy(np.ascontiguousarray(one_hot)))

    monkeypatch.setattr(validation, "_predict", perfect)
    summary = validate_fold(fold, stored, ["p", "q"])
    assert summary.cases[0].labels["Front_Part"].dice == pytest.approx(expected)
    assert summary.cases[0].labels["Front_Part"].reference_ml == pytest.approx(3 * 6 * 6 * 2 / 1000)


def test_labels_that_are_not_annotated_and_voxels_that_are_ignored_are_not_scored(fold, stored):
    whole = validate_fold(fold, stored, ["p"]).cases[0].labels
    case = open_case(stored, "p")
    record = case.record.model_copy(update={"annotated": (2,)})
    original = case.original_labels()
    original[original == 2] = -1
    original[0, 0, 0] = 2
    save_case(stored, record, case.image[...], case.labels[...], original)
    scores = validate_fold(fold, stored, ["p"]).cases[0].labels
    assert set(whole) == {"Front_Part", "back"}
    assert set(scores) == {"back"}
    assert scores["back"].reference_ml < whole["back"].reference_ml
    assert scores["back"].volume_ml < whole["back"].volume_ml  # what was predicted on ignored voxels
    assert measure_coverage(fold, stored, ["p"]).labels == {}


def test_a_fold_is_validated_and_its_summary_and_masks_written(fold, stored, plan):
    from textdiffseg.imaging.io import read_labels

    told = []
    summary = validate_fold(fold, stored, ["p", "q"], progress=lambda *at: told.append(at))
    assert told == [(1, 2), (2, 2)]
    written = json.loads((fold / "validation" / "summary.json").read_text())
    assert [case["case"] for case in written["cases"]] == ["p", "q"]
    assert set(summary.labels) == {"Front_Part", "back"}
    mask = read_labels(fold / "validation" / "p.nii.gz")
    assert mask.array.shape == (1, 9, 20, 17)
    assert set(np.unique(mask.array)) <= {0, 3, 7}


def test_the_choice_of_sampling_is_a_table_that_prediction_reads(fold, stored):
    sampling = choose_sampling(fold, stored, ["p", "q"])
    assert [(row.steps, row.mirroring) for row in sampling.table] == [(1, False), (1, True), (4, False)]
    assert sampling.cases == 2
    assert read_sampling(fold) == sampling
    best = max(row.dice for row in sampling.table)
    chosen = next(row for row in sampling.table if (row.steps, row.mirroring) == (sampling.steps, sampling.mirroring))
    assert chosen.dice >= best - 0.002
    assert len(Predictor.from_folder(fold.parent, ["0"]).settings.mirror_axes) == 2 * sampling.mirroring


def test_unet_tries_mirroring_alone(tmp_path, stored, make_plan, make_fold, bank):
    fold = tmp_path / "fold_0"
    make_fold(fold, make_plan("unet"), bank, 0)
    assert [row.steps for row in choose_sampling(fold, stored, ["p"]).table] == [1, 1]
    assert validate_fold(fold, stored, ["p"]).cases[0].case == "p"


def test_coverage_is_measured_in_the_file_s_voxels(fold, stored):
    result = measure_coverage(fold, stored, ["p", "q"])
    assert (result.steps, result.samples, result.cases) == (4, 8, 2)
    assert set(result.labels) == {"Front_Part", "back"}
    assert (fold / "validation" / "coverage.json").is_file()


def test_few_cases_are_spread_over_all():
    assert spread(list("abcdefgh"), 4) == list("aceg")
    assert spread(["a"], 4) == ["a"]


def test_validation_runs_where_simpleitk_is_not_installed(fold, stored):
    code = (
        "import sys; sys.modules['SimpleITK'] = None\n"
        "from textdiffseg.inference.validation import choose_sampling, validate_fold\n"
        f"choose_sampling({str(fold)!r}, {str(stored)!r}, ['p'])\n"
        f"validate_fold({str(fold)!r}, {str(stored)!r}, ['p'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert (fold / "validation" / "summary.json").is_file()
