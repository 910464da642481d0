"""DESIGN 4: low resolution is planned, stored and trained, in folders of its own."""

import json

import pytest

import textdiffseg as tds
from plans.plan import Plan
from plans.planning.budget import Budget
from textdiffseg.data.store import list_cases, read_record
from textdiffseg.folds.state import is_validated, train_command
from textdiffseg.tasks import plan as plan_task

SMALL = Budget(device="cpu", memory_gb=2, gmacs_per_iteration=0.2)  # its patch covers little


@pytest.fixture(scope="module")
def planned(tmp_path_factory, write_raw):
    root = tmp_path_factory.mktemp("root")
    write_raw(root, shape=(40, 56, 64))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan_task, "budget_of", lambda *_: SMALL)
        yield tds.plan("901", root=root, workers=0, spacing="full")


def again(planned, monkeypatch, **options):
    monkeypatch.setattr(plan_task, "budget_of", lambda *_: SMALL)
    return tds.plan("901", root=planned.root, workers=0, spacing="full", **options)


def test_cases_are_stored_at_both_resolutions(planned, monkeypatch):
    low, folder = planned.low, planned.folder.low("default")
    assert (low.resolution, planned.stored, planned.stored_low) == ("low", 4, 4)
    assert Plan.read(folder.plan("default")) == low
    assert list_cases(folder.path) == list_cases(planned.folder.path)
    for case in list_cases(folder.path):
        record, full = read_record(folder.path, case), read_record(planned.folder.path, case)
        expected = [round(size / mm) for size, mm in zip(full.shape, low.spacing, strict=True)]  # the cases have 1 mm
        assert list(record.shape) == expected
        assert record.transform.crop == full.transform.crop, "both grids cover the same part of the scan"
    repeated = again(planned, monkeypatch)
    assert (repeated.stored, repeated.stored_low) == (0, 0)


def test_a_fold_of_low_resolution_is_trained_beside_the_full_one(planned):
    path = planned.folder.low("default").plan("default")
    plan = json.loads(path.read_text())
    plan["training"]["iterations_per_epoch"] = 2
    path.write_text(json.dumps(plan))
    trained = tds.train(planned, 0, resolution="low", options=tds.TrainingOptions(epochs=1))
    assert trained.fold.path == planned.root / "results" / "Dataset901_Tiny" / "default-low" / "fold_0"
    assert trained.plan.spacing == planned.low.spacing
    assert set(trained.summary.labels) == {"bright cube", "dark cube"}
    assert is_validated(trained.fold)
    assert train_command(trained.fold).startswith("tds_train Dataset901_Tiny 0 --resolution low --root")
    model = tds.load(trained.fold.path.parent)
    assert (model.plan.resolution, model.low) == ("low", None)


def test_without_low_resolution_its_folder_is_removed_and_training_it_says_so(planned, monkeypatch):
    left_out = again(planned, monkeypatch, low_resolution=False)
    assert (left_out.low, left_out.stored_low) == (None, 0)
    assert not planned.folder.low("default").path.exists()
    with pytest.raises(tds.UserError, match="planned with --no-low-resolution, or by an older version"):
        tds.train("901", 0, root=planned.root, resolution="low")
    assert again(planned, monkeypatch).stored_low == 4, "the advice leads out"


def test_a_patch_that_covers_enough_has_no_low_resolution_to_train(tmp_path, write_raw):
    write_raw(tmp_path)
    planned = tds.plan("901", root=tmp_path, workers=0)
    assert planned.low is None
    with pytest.raises(tds.UserError, match=r"has no low resolution \(the patch covers .*\). Leave --resolution out"):
        tds.train(planned, 0, resolution="low")
    path = planned.folder.plan("default")
    plan = json.loads(path.read_text())
    assert plan.pop("resolution") == "full"
    path.write_text(json.dumps(plan))  # as older versions wrote it
    assert Plan.read(path) == planned.plan
