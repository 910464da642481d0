"""A data set to stored cases: resuming, what makes a case stale, and many workers."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

from plans.errors import UserError
from plans.plan import TextPlan
from plans.planning.budget import cpu_budget
from plans.planning.planner import make_plan
from plans.raw.dataset import read_dataset
from textdiffseg.data import preparing
from textdiffseg.data.checks import check_cases
from textdiffseg.data.preparing import preprocess_dataset
from textdiffseg.data.store import list_cases, open_case
from textdiffseg.preprocessing.case import restore
from textdiffseg.preprocessing.fingerprinting import fingerprint_dataset


def planned(raw, **changes):
    dataset = read_dataset(raw)
    fingerprint = fingerprint_dataset(dataset, 0)
    text = TextPlan(encoder="bundled", width=8)
    facts = (dataset.name, dataset.channels, dataset.labels, fingerprint)
    plan = make_plan(*facts, budget=cpu_budget(1), preset="default", text=text)
    return dataset, plan.model_copy(update=changes)


def test_label_values_come_back_on_the_files_grid(write_raw, tmp_path):
    raw = write_raw(tmp_path, cases=2, values=(7, 255), spacing=(2.0, 1.0, 1.0))
    dataset, plan = planned(raw, spacing=(1.0, 1.0, 1.0))
    assert preprocess_dataset(dataset, plan, tmp_path / "out", 0) == 2
    for case in dataset.cases:
        stored, truth = open_case(tmp_path / "out", case.id), sitk.GetArrayFromImage(sitk.ReadImage(str(case.label)))
        values = np.array([0, 7, 255])
        assert np.array_equal(values[stored.original_labels()], truth)
        assert stored.record.present == stored.record.annotated == (1, 2)
        assert stored.record.shape == stored.image.shape[1:] == (40, 24, 28)
        back = restore(np.stack([stored.labels[...] == number for number in range(3)]), stored.record.transform)
        assert (values[back] == truth).mean() > 0.99


def test_a_second_run_makes_only_what_changed(tiny_raw, tmp_path):
    dataset, plan = planned(tiny_raw)
    out = tmp_path / "out"
    assert preprocess_dataset(dataset, plan, out, 0) == 4
    times = {path: path.stat().st_mtime_ns for path in (out / "cases").iterdir()}
    assert preprocess_dataset(dataset, plan, out, 0) == 0
    assert {path: path.stat().st_mtime_ns for path in (out / "cases").iterdir()} == times
    (out / "cases" / "tiny_00.labels.b2nd").unlink()
    image = dataset.cases[1].images[0]
    sitk.WriteImage(sitk.ReadImage(str(image)) + 1, str(image))
    assert preprocess_dataset(dataset, plan, out, 0) == 2
    assert preprocess_dataset(dataset, plan.model_copy(update={"preset": "unet", "batch": 3}), out, 0) == 0
    assert preprocess_dataset(dataset, plan.model_copy(update={"spacing": (1.0, 1.0, 1.1)}), out, 0) == 4


def test_the_number_of_workers_changes_nothing(tiny_raw, tmp_path):
    dataset, plan = planned(tiny_raw)
    for workers in (0, 2):
        preprocess_dataset(dataset, plan, tmp_path / str(workers), workers)
    inline, pooled = ({path.name: path.read_bytes() for path in (tmp_path / n / "cases").iterdir()} for n in "02")
    assert inline == pooled


def test_ignored_voxels_and_what_is_known_of_labels_are_stored(write_raw, tmp_path):
    absent = {"tiny_00": ["ghost"]}
    raw = write_raw(tmp_path, cases=2, labels=("bright cube", "dark cube", "ignore", "ghost"), values=(1, 2, 7, 9))
    header = json.loads((raw / "dataset.json").read_text())
    for path in (raw / "labelsTr").iterdir():
        image = sitk.ReadImage(str(path))
        sitk.WriteImage(image * sitk.Cast(image != 9, image.GetPixelID()), str(path))
    known_labels = {"annotated": ["bright cube", "dark cube"], "absent": absent}
    (raw / "dataset.json").write_text(json.dumps(header | known_labels))
    dataset, plan = planned(raw, spacing=(0.7, 0.7, 0.7))
    preprocess_dataset(dataset, plan, tmp_path / "out", 0)
    first, second = (open_case(tmp_path / "out", case.id) for case in dataset.cases)
    assert (first.record.annotated, first.record.absent, first.record.present) == ((1, 2), (3,), (1, 2))
    assert (second.record.annotated, second.record.absent) == ((1, 2), ())
    assert set(np.unique(first.labels[...])) == set(np.unique(first.original_labels())) == {-1, 0, 1, 2}
    truth = sitk.GetArrayFromImage(sitk.ReadImage(str(dataset.cases[0].label)))
    assert np.array_equal(first.original_labels() == -1, truth == 7)
    assert np.mean(first.labels[...] == -1) == pytest.approx(np.mean(truth == 7), rel=0.1)
    known = first.centres(foreground=False)
    assert len(known)
    assert (first.labels[...][tuple(known[:, 1:].T)] >= 0).all()
    assert set(first.centres(foreground=True)[:, 0]) == {1, 2}
    (raw / "dataset.json").write_text(json.dumps(header | known_labels | {"absent": ["ghost"]}))
    assert preprocess_dataset(read_dataset(raw), plan, tmp_path / "out", 0) == 1  # the second case's annotation changed


def test_cases_that_left_the_data_set_are_removed(tiny_raw, tmp_path):
    dataset, plan = planned(tiny_raw)
    preprocess_dataset(dataset, plan, tmp_path / "out", 0)
    fewer = dataset.model_copy(update={"cases": dataset.cases[1:]})
    others = [tmp_path / "out" / "cases" / name for name in ("my_notes.json", "scan.image.b2nd")]
    for path in others:
        path.write_text("{}")
    preprocess_dataset(fewer, plan, tmp_path / "out", 0)
    assert list_cases(tmp_path / "out") == ("tiny_01", "tiny_02", "tiny_03")
    assert not [*(tmp_path / "out" / "cases").glob("tiny_00.*")]
    assert all(path.exists() for path in others), "files of the user"


def test_broken_cases_are_named_and_the_others_stored(tiny_raw, tmp_path):
    dataset, plan = planned(tiny_raw)
    for case in dataset.cases[1:3]:
        case.images[0].write_bytes(b"broken")
    with pytest.raises(UserError) as caught:
        preprocess_dataset(dataset, plan, tmp_path / "out", 0)
    assert ["tiny_01" in caught.value.lines[0], "tiny_02" in caught.value.lines[1]] == [True, True]
    assert list_cases(tmp_path / "out") == ("tiny_00", "tiny_03")


def test_memory_is_counted_from_the_largest_case(tiny_raw):
    dataset, plan = planned(tiny_raw)
    fingerprint = fingerprint_dataset(dataset, 0)
    assert preparing.bytes_per_case(fingerprint, plan) > 20 * 24 * 28 * 12
    finer = plan.model_copy(update={"spacing": (0.5, 0.5, 0.5)})
    assert preparing.bytes_per_case(fingerprint, finer) > 2 * preparing.bytes_per_case(fingerprint, plan)


def test_a_case_that_does_not_fit_in_memory_is_refused_unless_it_is_stored(tiny_raw, tmp_path, monkeypatch):
    dataset, plan = planned(tiny_raw)
    fingerprint = fingerprint_dataset(dataset, 0)
    first = dataset.model_copy(update={"cases": dataset.cases[:1]})
    assert preprocess_dataset(first, plan, tmp_path, 0) == 1
    monkeypatch.setattr(preparing, "free_memory", lambda: 1e3)
    with pytest.raises(UserError, match=r"They need 0\.0 GB of memory, and 0\.0 are free") as caught:
        preparing.refuse_too_large(fingerprint, plan, tmp_path)
    assert [line.split(":")[0] for line in caught.value.lines] == ["case tiny_01", "case tiny_02", "case tiny_03"]
    finer = plan.model_copy(update={"spacing": (0.5, 0.5, 0.5)})
    with pytest.raises(UserError, match="case tiny_00"):
        preparing.refuse_too_large(fingerprint, finer, tmp_path)


def test_labels_that_overlap_are_stored_as_numbers_of_their_values(write_raw, tmp_path):
    labels = {"background": 0, "both": [7, 255], "dark cube": 255}
    raw = write_raw(tmp_path, cases=1, values=(7, 255))
    header = json.loads((raw / "dataset.json").read_text())
    (raw / "dataset.json").write_text(json.dumps(header | {"labels": labels, "regions_class_order": [7, 255]}))
    dataset, apart = planned(raw)
    plan = apart.model_copy(update={"regions": dataset.regions})
    assert preprocess_dataset(dataset, plan, tmp_path / "out", 0) == 1
    stored = open_case(tmp_path / "out", "tiny_00")
    truth = sitk.GetArrayFromImage(sitk.ReadImage(str(dataset.cases[0].label)))
    assert np.array_equal(np.array([0, 7, 255])[stored.original_labels()], truth)
    assert stored.record.present == stored.record.annotated == (1, 2)
    check_cases(tmp_path / "out", ["tiny_00"], plan)
    for other in (apart, plan.model_copy(update={"regions": ((255,), (7, 255))})):
        with pytest.raises(UserError, match="a plan with other regions"):
            check_cases(tmp_path / "out", ["tiny_00"], other)
