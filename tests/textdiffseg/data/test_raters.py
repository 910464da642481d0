"""Cases with several references: all are stored, and each sample learns from one of them."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from plans.errors import UserError
from plans.plan import TextPlan
from plans.planning.budget import cpu_budget
from plans.planning.planner import make_plan
from plans.raw.dataset import read_dataset
from textdiffseg.data.arrays import ARRAYS
from textdiffseg.data.batch import SampleKey
from textdiffseg.data.checks import check_cases, is_complete
from textdiffseg.data.preparing import preprocess_dataset
from textdiffseg.data.samples import TrainingSamples, ValidationPatches
from textdiffseg.data.sampling import choose_rater
from textdiffseg.data.store import list_cases, open_case, remove_case
from textdiffseg.preprocessing.fingerprinting import fingerprint_dataset


@pytest.fixture
def raw(tiny_raw) -> Path:
    """The tiny data set. Case tiny_00 has three references: empty, plain, and one label only."""
    labels = tiny_raw / "labelsTr"
    plain = sitk.ReadImage(str(labels / "tiny_00.nii.gz"))
    sitk.WriteImage(plain * 0, str(labels / "tiny_00.rater1.nii.gz"))
    sitk.WriteImage(sitk.Cast(plain == 1, plain.GetPixelID()), str(labels / "tiny_00.rater2.nii.gz"))
    (labels / "tiny_00.nii.gz").rename(labels / "tiny_00.rater3.nii.gz")
    return tiny_raw


def planned(raw):
    dataset = read_dataset(raw)
    fingerprint = fingerprint_dataset(dataset, 0)
    facts = (dataset.name, dataset.channels, dataset.labels, fingerprint)
    plan = make_plan(*facts, budget=cpu_budget(1), preset="default", text=TextPlan(encoder="bundled", width=8))
    return dataset, fingerprint, plan


def files_of(folder, case):
    return {path.name for path in (folder / "cases").iterdir() if path.name.startswith(f"{case}.")}


def test_each_reference_is_stored_and_labels_of_any_of_them_are_present(raw, tmp_path):
    dataset, fingerprint, plan = planned(raw)
    assert [label.label for label in fingerprint.cases[0].labels] == [1, 2]
    out = tmp_path / "out"
    assert preprocess_dataset(dataset, plan, out, 0) == 4
    case = open_case(out, "tiny_00", plan)
    assert (case.record.references, case.record.present) == (3, (1, 2))
    for place, path in enumerate(dataset.cases[0].references):
        truth = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        assert np.array_equal(case.original_labels(place), truth)
    assert [set(np.unique(one[...])) for one in case.references] == [{0}, {0, 1}, {0, 1, 2}]
    assert set(case.foreground[:, 0]) == {1, 2}
    assert open_case(out, "tiny_01", plan).record.references == 1
    further = {f"tiny_00.{name}_{place}.b2nd" for place in (2, 3) for name in ("labels", "original")}
    usual = {f"tiny_00.{name}" for name in ("json", *(f"{array}.b2nd" for array in ARRAYS))}
    assert files_of(out, "tiny_00") == usual | further
    check_cases(out, [case.id for case in dataset.cases], plan)


def test_a_reference_that_changes_comes_or_goes_is_stored_again_and_leaves_no_file(raw, tmp_path):
    dataset, _, plan = planned(raw)
    out = tmp_path / "out"
    preprocess_dataset(dataset, plan, out, 0)
    assert preprocess_dataset(dataset, plan, out, 0) == 0
    (raw / "labelsTr" / "tiny_00.rater2.nii.gz").unlink()
    assert preprocess_dataset(read_dataset(raw), plan, out, 0) == 1
    assert open_case(out, "tiny_00").record.references == 2
    assert len(files_of(out, "tiny_00")) == 7
    remove_case(out, "tiny_00")
    assert files_of(out, "tiny_00") == set()


@pytest.mark.parametrize("array", ["labels_2", "original_3"])
def test_a_damaged_reference_is_reported_before_training(raw, tmp_path, array):
    dataset, _, plan = planned(raw)
    out = tmp_path / "out"
    preprocess_dataset(dataset, plan, out, 0)
    (out / "cases" / f"tiny_00.{array}.b2nd").write_bytes(b"nothing")
    with pytest.raises(UserError, match=f"tiny_00 .*{array}"):
        check_cases(out, ["tiny_00"], plan)
    assert not is_complete(out, "tiny_00", open_case(out, "tiny_01").record.hash)
    assert list_cases(out) == ("tiny_00", "tiny_01", "tiny_02", "tiny_03")


def test_every_reference_is_checked_and_all_faults_are_reported_together(raw):
    labels = raw / "labelsTr"
    plain = sitk.ReadImage(str(labels / "tiny_00.rater3.nii.gz"))
    sitk.WriteImage(plain * 9, str(labels / "tiny_00.rater1.nii.gz"))
    moved = sitk.Image(plain)
    moved.SetOrigin((50.0, 0.0, 0.0))
    sitk.WriteImage(moved, str(labels / "tiny_00.rater2.nii.gz"))
    (labels / "tiny_00.rater4.nii.gz").write_bytes(b"broken")
    with pytest.raises(UserError) as error:
        fingerprint_dataset(read_dataset(raw), 0)
    rater1, rater2, rater4 = error.value.lines
    assert "tiny_00.rater1.nii.gz: unknown label values 9, 18" in rater1
    assert "Only its place differs, by 50 mm. If the voxels of both correspond" in rater2
    assert "tiny_00.rater2.nii.gz" in rater2
    assert "tiny_00.rater4.nii.gz" in rater4


def test_a_stored_case_of_version_3_has_one_reference(tiny_raw, tmp_path):
    dataset, _, plan = planned(tiny_raw)
    out = tmp_path / "out"
    preprocess_dataset(dataset, plan, out, 0)
    path = out / "cases" / "tiny_00.json"
    fields = json.loads(path.read_text())
    assert (fields.pop("references"), fields["version"]) == (1, 4)
    path.write_text(json.dumps(fields | {"version": 3}))
    assert open_case(out, "tiny_00").record.references == 1
    assert preprocess_dataset(dataset, plan, out, 0) == 0, "it is complete"


def test_raters_are_drawn_alike_and_apart_from_everything_else():
    draws = [choose_rater(3, 0, 0, index) for index in range(3000)]
    assert all(abs(draws.count(place) - 1000) < 120 for place in range(3))
    assert draws == [choose_rater(3, 0, 0, index) for index in range(3000)]
    assert draws != [choose_rater(3, 1, 0, index) for index in range(3000)]
    assert {choose_rater(1, 0, 0, index) for index in range(50)} == {0}


def test_a_sample_learns_from_one_reference_and_is_otherwise_the_same(raw, tmp_path):
    dataset, _, plan = planned(raw)
    plan = plan.model_copy(update={"mirror_axes": ()})
    out, alone = tmp_path / "out", tmp_path / "alone"
    preprocess_dataset(dataset, plan, out, 0)
    single = dataset.cases[0].model_copy(update={"label": dataset.cases[0].references[2], "raters": ()})
    preprocess_dataset(dataset.model_copy(update={"cases": (single,)}), plan, alone, 0)
    several, one = (TrainingSamples(folder, ["tiny_00"], plan, (2, 2), 0) for folder in (out, alone))
    kinds = set()
    for index in range(24):
        drawn = several[SampleKey(0, index)]
        place = choose_rater(3, 0, 0, index)
        values = set(torch.unique(drawn.labels).tolist())
        assert values <= ({0}, {0, 1}, {0, 1, 2})[place]
        kinds.add(place)
        if index % plan.batch == 0 and plan.batch > 1:  # not forced: the candidate centres are not read
            other = one[SampleKey(0, index)]
            assert torch.equal(drawn.image, other.image)
            assert drawn.query == other.query
            assert torch.equal(drawn.labels, other.labels) or place != 2
    assert kinds == {0, 1, 2}
    patches = [batch.labels for batch in ValidationPatches(out, ["tiny_00"], plan, 0, 12)]
    assert torch.equal(
        torch.cat(patches), torch.cat([b.labels for b in ValidationPatches(out, ["tiny_00"], plan, 0, 12)])
    )
