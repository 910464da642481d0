"""Scores against several references, and the laws of the energy distance."""

import json

import numpy as np
import pytest

from plans.errors import UserError
from textdiffseg.evaluation.folders import evaluate_folders
from textdiffseg.evaluation.metrics import score_case
from textdiffseg.evaluation.raters import energy_distance, energy_distances, mean_over_raters
from textdiffseg.evaluation.summary import Summary, summarise, to_csv
from textdiffseg.imaging.sources.files import read_labels
from textdiffseg.imaging.writers.files import write_labels

LABELS = {1: "a", 2: "b"}


def line(*values: int) -> np.ndarray:
    return np.array(values).reshape(1, 1, -1)


def scored(prediction, *references):
    ones = [score_case(prediction, one, (1, 1, 1), LABELS, case="x", surfaces=False) for one in references]
    return mean_over_raters(ones)


def test_dice_is_the_mean_over_the_raters_and_the_best_is_kept():
    found = scored(line(1, 1, 0, 0), line(1, 1, 0, 0), line(1, 1, 1, 1), line(0, 0, 0, 1)).labels["a"]
    assert found.rater_dice == (1.0, 4 / 6, 0.0)
    assert found.dice == pytest.approx((1 + 4 / 6) / 3)
    assert found.best_dice == 1.0
    assert found.reference_ml == pytest.approx((2 + 4 + 1) / 3 / 1000)


def test_a_label_absent_from_the_mask_and_one_reference_scores_one_there_and_none_if_absent_from_all():
    found = scored(line(1, 0), line(1, 0), line(1, 2)).labels
    assert (found["b"].rater_dice, found["b"].dice, found["b"].best_dice) == ((1.0, 0.0), 0.5, 1.0)
    assert found["b"].note == "absent from 1 of 2 references"
    nowhere = scored(line(1, 0), line(1, 0), line(1, 1)).labels["b"]
    assert (nowhere.dice, nowhere.best_dice, nowhere.rater_dice) == (None, None, (None, None))


def test_one_reference_has_its_own_scores():
    one = score_case(line(1, 0), line(1, 1), (1, 1, 1), LABELS, case="x", surfaces=False)
    assert mean_over_raters([one]) is one


def test_equal_distributions_have_no_distance_and_shares_count():
    a, b = line(1, 1, 0, 0), line(1, 1, 1, 0)
    assert energy_distances([a, b], [a, b], LABELS) == {"a": pytest.approx(0)}
    assert energy_distances([a, b, a, b], [a, b], LABELS)["a"] == pytest.approx(0)
    assert energy_distances([a, b], [a, b, b, b], LABELS, [0.25, 0.75])["a"] == pytest.approx(0)
    assert energy_distances([a, b], [a, b, b, b], LABELS)["a"] > 0


def test_the_distance_is_that_of_the_formula():
    """One sample and two references: 2 E[d(S, Y)] - 0 - E[d(Y, Y')], with d = 1 - IoU."""
    sample, first, second = line(1, 1, 0, 0), line(1, 1, 0, 0), line(1, 1, 1, 1)
    assert energy_distances([sample], [first, second], LABELS)["a"] == pytest.approx(2 * 0.25 - 0.25)


def test_the_distance_is_never_negative():
    rng = np.random.default_rng(0)
    for _ in range(20):
        samples, references = rng.integers(0, 3, (5, 1, 3, 4)), rng.integers(0, 3, (3, 1, 3, 4))
        assert min(energy_distances(list(samples), list(references), LABELS).values()) >= -1e-12


def test_the_matrix_holds_samples_first():
    distances = np.array([[0, 0.5, 1.0], [0.5, 0, 0.25], [1.0, 0.25, 0]])
    expected = 2 * (0.5 * 1.0 + 0.5 * 0.25) - 2 * 0.25 * 0.5
    assert energy_distance(distances, np.array([0.5, 0.5])) == pytest.approx(expected)


def test_voxels_that_one_reference_ignores_count_nowhere():
    found = energy_distances([line(1, 1, 0)], [line(1, 0, 0), line(1, -1, 0)], LABELS)
    assert found == {"a": pytest.approx(0)}


def test_a_summary_says_so_only_if_there_are_several_references():
    one = summarise([score_case(line(1, 0), line(1, 1), (1, 1, 1), LABELS, case="x", surfaces=False)])
    assert (one.rater_rule, one.mean.several, one.mean.best_dice) == (None, 0, None)
    assert to_csv(one).splitlines()[0] == "case,label,dice,nsd,hd95_mm,volume_ml,reference_ml,note"
    several = summarise([scored(line(1, 0), line(1, 1), line(1, 0))])
    assert "means over the references" in several.rater_rule
    assert several.ged_rule is None
    assert (several.mean.several, several.labels["a"].best_dice) == (1, 1.0)
    assert to_csv(several).splitlines()[0].endswith("note,best_dice,ged2")
    older = several.model_dump(mode="json", exclude={"rater_rule", "ged_rule"}) | {"version": 1}
    assert Summary.parse(older, "summary.json").mean.dice == several.mean.dice


@pytest.fixture
def folders(tiny_raw, tmp_path):
    """Predictions of two scans, and references: tiny_00 has two raters, tiny_01 one."""
    labels, predictions, references = tiny_raw / "labelsTr", tmp_path / "predictions", tmp_path / "references"
    header = json.loads((tiny_raw / "dataset.json").read_text())
    for folder in (predictions, references):
        folder.mkdir()
    (references / "dataset.json").write_text(json.dumps(header))
    for case in ("tiny_00", "tiny_01"):
        volume = read_labels(labels / f"{case}.nii.gz")
        write_labels(predictions / f"{case}.nii.gz", volume.array[0], volume.geometry)
        write_labels(references / f"{case}.rater1.nii.gz", volume.array[0], volume.geometry)
    volume = read_labels(labels / "tiny_00.nii.gz")
    write_labels(references / "tiny_00.rater2.nii.gz", volume.array[0] * (volume.array[0] == 1), volume.geometry)
    return predictions, references


def test_folders_are_scored_against_all_raters(folders):
    summary = evaluate_folders(*folders)
    assert [case.case for case in summary.cases] == ["tiny_00", "tiny_01"]
    assert summary.cases[0].labels["dark cube"].rater_dice == (1.0, 0.0)
    assert summary.cases[0].labels["bright cube"].rater_dice == (1.0, 1.0)
    assert summary.cases[1].labels["dark cube"].rater_dice == ()
    assert summary.labels["dark cube"].dice == pytest.approx((0.5 + 1) / 2)
    assert summary.mean.several == 1
    assert summary.ged_rule is None


def write_alternatives(predictions, references, shares=None):
    """The two references of tiny_00 as alternatives of its prediction."""
    for number in (1, 2):
        volume = read_labels(references / f"tiny_00.rater{number}.nii.gz")
        write_labels(predictions / f"tiny_00.alternative{number}.nii.gz", volume.array[0], volume.geometry)
    if shares:
        listed = [{"file": f"tiny_00.alternative{n}.nii.gz", "share": share} for n, share in enumerate(shares, start=1)]
        fields = {"request": {}, "labels": {"bright cube": 1, "dark cube": 2}, "alternatives": listed}
        (predictions / "tiny_00.json").write_text(json.dumps(fields))


def test_alternatives_beside_a_prediction_are_compared_with_the_raters(folders):
    write_alternatives(*folders)
    summary = evaluate_folders(*folders)
    assert summary.cases[0].labels["dark cube"].ged2 == pytest.approx(0)
    assert "2 E[d(S,Y)]" in summary.ged_rule
    assert "ged2 was measured on the alternatives beside the predictions, weighted by their shares." in summary.notes
    write_alternatives(*folders, shares=(0.75, 0.25))
    dark = evaluate_folders(*folders).cases[0].labels["dark cube"]
    assert dark.ged2 == pytest.approx(2 * 0.5 - 2 * 0.75 * 0.25 - 0.5)


def test_alternatives_without_several_references_change_nothing(folders):
    predictions, references = folders
    (references / "tiny_00.rater2.nii.gz").unlink()
    plain = evaluate_folders(*folders)
    volume = read_labels(references / "tiny_00.rater1.nii.gz")
    write_labels(predictions / "tiny_00.alternative1.nii.gz", volume.array[0] * 0, volume.geometry)
    assert evaluate_folders(*folders) == plain


def test_alternatives_that_are_not_those_of_the_manifest_are_refused(folders):
    write_alternatives(*folders, shares=(0.5, 0.5))
    (folders[0] / "tiny_00.alternative2.nii.gz").unlink()
    with pytest.raises(UserError, match=r"lists the alternatives .* but the files are others"):
        evaluate_folders(*folders)


def test_a_rater_on_another_grid_or_with_another_value_is_one_line(folders):
    path = folders[1] / "tiny_00.rater2.nii.gz"
    volume = read_labels(path)
    write_labels(path, volume.array[0] * 9, volume.geometry)
    with pytest.raises(UserError, match=r"rater2\.nii\.gz has the label values 9"):
        evaluate_folders(*folders)
    write_labels(path, volume.array[0][1:], type(volume.geometry)((19, 24, 28), volume.geometry.affine))
    with pytest.raises(UserError, match=r"rater2\.nii\.gz has another grid"):
        evaluate_folders(*folders)


def test_a_rater_whose_name_a_prediction_has_is_a_case_of_its_own(folders):
    predictions, references = folders
    for path in list(references.glob("*.nii.gz")):
        (predictions / path.name).write_bytes(path.read_bytes())
    summary = evaluate_folders(predictions, references)
    assert [case.case for case in summary.cases] == ["tiny_00.rater1", "tiny_00.rater2", "tiny_01.rater1"]
    assert summary.mean.several == 0
