"""DESIGN 2: planning and training report, can be cancelled, and resume when they are called again."""

import json

import pytest
import SimpleITK as sitk

import textdiffseg as tds
from plans.errors import UserError
from plans.layout import FoldFolder
from plans.plan import Plan
from textdiffseg.data.store import list_cases
from textdiffseg.files import write_record
from textdiffseg.folds.lock import alone, planning_alone
from textdiffseg.folds.position import read_position
from textdiffseg.folds.sampling import Sampling
from textdiffseg.folds.state import is_validated
from textdiffseg.tasks import validate as validate_task
from textdiffseg.tasks.started import refuse_changed_plan
from textdiffseg.training import loop

pytestmark = pytest.mark.usefixtures("few_patches")


@pytest.fixture(scope="module")
def planned(tmp_path_factory, write_raw, shrink_plan):
    """A small data set, planned and preprocessed, whose training takes seconds."""
    root = tmp_path_factory.mktemp("root")
    write_raw(root)
    found = tds.plan("901", root=root, workers=0)
    shrink_plan(found.folder.plan("default"))
    return found


def test_a_cancelled_planning_keeps_stored_cases_and_resumes(tmp_path, write_raw):
    write_raw(tmp_path)
    events, stored = [], lambda: list_cases(tmp_path / "preprocessed" / "Dataset901_Tiny")
    with pytest.raises(tds.Cancelled, match="2 of 4 cases"):
        tds.plan("901", root=tmp_path, workers=0, progress=events.append, cancel=lambda: len(stored()) == 2)
    assert len(stored()) == 2
    planned = tds.plan("901", root=tmp_path, workers=0)
    assert planned.stored == 2
    assert len(stored()) == 4
    assert [(event.stage, event.done, event.total) for event in events] == [
        *(("Fingerprint", done, 4) for done in range(5)),
        *(("Preprocess", done, 4) for done in range(3)),
    ]


def test_notes_of_planning_are_reported_and_returned(tmp_path, write_raw):
    write_raw(tmp_path)
    lines = []
    planned = tds.plan(tmp_path / "raw" / "Dataset901_Tiny", root=tmp_path, workers=0, report=lines.append)
    assert any("4 training cases, 2 labels" in line for line in lines)
    assert any("4 folds instead of 5" in note for note in planned.notes)
    assert planned.plan.reasons
    assert planned.folder.plan("default").is_file()


def test_folds_that_came_too_late_and_unused_cases_are_notes(tmp_path, write_raw):
    raw = write_raw(tmp_path)
    fold = {"train": ["tiny_00", "tiny_01"], "val": ["tiny_02"]}
    late = raw / "splits_final.json"
    first = tds.plan(raw, root=tmp_path, workers=0)
    assert not any("splits" in note for note in first.notes)
    late.write_text(json.dumps([fold]))
    again = tds.plan(raw, root=tmp_path, workers=0)
    assert any(f"{late} has other folds than" in note for note in again.notes)
    assert again.splits == first.splits
    first.folder.splits.unlink()
    third = tds.plan(raw, root=tmp_path, workers=0)
    assert not any("other folds" in note for note in third.notes)
    assert "Cases that are in no fold are never used: tiny_03." in third.notes
    late.write_text("[")
    assert any("splits_final.json" in note for note in tds.plan(raw, root=tmp_path, workers=0).notes)


def test_changed_cases_get_new_folds_but_the_folds_of_a_user_are_kept(tmp_path, write_raw):
    raw, lines = write_raw(tmp_path), []
    first = tds.plan(raw, root=tmp_path, workers=0)
    for path in sorted((*raw.glob("imagesTr/tiny_03*"), *raw.glob("labelsTr/tiny_03*"))):
        path.unlink()
    again = tds.plan(raw, root=tmp_path, workers=0, report=lines.append)
    assert again.splits.cases == first.splits.cases[:3]
    assert all({*fold.train, *fold.validation} == {*again.splits.cases} for fold in again.splits.folds)
    assert sum("the cases have changed, so there are new folds" in line for line in lines) == 1
    own = again.splits.model_copy(update={"folds": again.splits.folds[:1]})
    first.folder.splits.write_text(own.model_copy(update={"cases": first.splits.cases}).model_dump_json())
    with pytest.raises(UserError, match=r"splits.json: cases: 4 listed, 3 in the data set"):
        tds.plan(raw, root=tmp_path, workers=0)


def test_values_that_are_too_large_to_be_stored_as_they_are_are_noted(tmp_path, write_raw):
    raw = write_raw(tmp_path)
    header = json.loads((raw / "dataset.json").read_text())
    (raw / "dataset.json").write_text(json.dumps(header | {"channel_names": {"0": "noNorm"}}))
    assert not any("become equal" in note for note in tds.plan(raw, root=tmp_path, workers=0).notes)
    for path in (raw / "imagesTr").iterdir():
        sitk.WriteImage(sitk.Cast(sitk.ReadImage(str(path)), sitk.sitkFloat32) * 1e5, str(path))
    notes = tds.plan(raw, root=tmp_path, workers=0).notes
    assert sum("noNorm has values beyond 65504" in note for note in notes) == 1


def test_a_scan_that_shows_nothing_is_noted(tmp_path, write_raw):
    raw = write_raw(tmp_path)
    path = raw / "imagesTr" / "tiny_01_0000.nii.gz"
    blank = sitk.ReadImage(str(path)) * 0
    sitk.WriteImage(blank, str(path))
    notes = tds.plan(raw, root=tmp_path, workers=0).notes
    assert [note for note in notes if "Channel MRI has one value" in note and note.endswith("1 of 4 cases: tiny_01.")]


def test_a_cancelled_training_is_saved_and_resumes(planned):
    events, options = [], tds.TrainingOptions(epochs=2)
    with pytest.raises(tds.Cancelled):
        tds.train(planned, 1, options=options, progress=events.append, cancel=lambda: len(events) == 3)
    assert read_position(FoldFolder.of(planned.root, "Dataset901_Tiny", "default", 1)).iteration == 2
    trained = tds.train(planned, 1, progress=events.append)
    assert trained.held_out
    assert set(trained.summary.labels) == {"bright cube", "dark cube"}
    assert trained.sampling.table
    done = [event.done for event in events if event.stage == "Train"]
    assert done == [0, 1, 2, *range(2, 5)]  # each call begins where it stands; the sampler has one iteration
    assert {event.stage for event in events} >= {"Choose mirroring", "Predict the validation cases"}


def test_a_trained_fold_is_loaded_by_its_folder(planned):
    tds.train(planned, 0, options=tds.TrainingOptions(epochs=1))
    model = tds.load(planned.root / "results" / "Dataset901_Tiny" / "default", folds=["0"])
    assert dict(model.labels) == {"bright cube": 1, "dark cube": 2}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"dataset": "Dataset999_None"}, "No data set"),
        ({"fold": 9}, "Fold 9 does not exist"),
        ({"preset": "unet"}, "has no plan plan_unet.json"),
        ({"preset": "Default"}, r"^preset: expected one of 'default', .*, found 'Default'\.$"),
        ({"resolution": "Low"}, r"^resolution: expected one of 'full', 'low', found 'Low'\.$"),
        ({"resolution": None}, r"^resolution: expected one of 'full', 'low', found None\.$"),
        ({"fold": 3, "must_exist": True}, "holds no run to resume"),
        ({"options": tds.TrainingOptions(restart=True), "only_validate": True}, "Give one of them"),
    ],
)
def test_arguments_that_do_not_fit_are_one_sentence(planned, arguments, words):
    with pytest.raises(tds.UserError, match=words):
        tds.train(**({"dataset": "901", "fold": 0, "root": planned.root} | arguments))


def test_misspelt_choices_are_refused_for_the_result_of_plan_too(planned):
    before = sorted(planned.root.rglob("*"))
    for wrong in ({"preset": "Default"}, {"resolution": "Low"}):
        with pytest.raises(tds.UserError, match=f"^{next(iter(wrong))}: expected "):
            tds.train(planned, 3, **wrong)
    assert sorted(planned.root.rglob("*")) == before


def test_a_plan_of_another_preset_is_refused_under_its_name(planned):
    source = planned.folder
    write_record(source.plan("unet"), planned.plan)
    try:
        with pytest.raises(tds.UserError, match=r"plan_unet\.json: preset: expected unet, found default\. Put the"):
            tds.train(planned, 0, preset="unet")
    finally:
        source.plan("unet").unlink()


def test_a_restart_deletes_the_old_fold_and_works_without_one(planned):
    restart = tds.TrainingOptions(epochs=1, restart=True)
    first = tds.train(planned, 2, options=restart)
    stray = first.fold.path / "stray.txt"
    stray.write_text("of an older run")
    tds.train(planned, 2, options=restart)
    assert not stray.exists()


def train_again(planned, number, lines=None, **options):
    lines = [] if lines is None else lines
    return tds.train(planned, number, options=tds.TrainingOptions(**options), report=lines.append)


def test_a_finished_fold_is_not_trained_again_unless_more_epochs_are_given(planned, monkeypatch):
    first = train_again(planned, 3, epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "set_up_fold", lambda *_: pytest.fail("opened for training"))
        patch.setattr(validate_task, "validate_fold", lambda *_, **__: pytest.fail("validated"))
        lines = []
        assert train_again(planned, 3, lines, epochs=1).summary == first.summary
        assert "is trained (1 epochs" in lines[-1]
        assert "Nothing is left to do" in lines[-1]
    weights = Sampling.read(first.fold.sampling).weights
    train_again(planned, 3, epochs=2)
    assert read_position(first.fold).epochs == 2
    assert is_validated(first.fold)
    assert Sampling.read(first.fold.sampling).weights != weights, "chosen anew"


def test_an_interrupted_validation_is_done_without_training(planned, monkeypatch):
    fold = train_again(planned, 3, epochs=2).fold
    fold.validated.unlink()
    lines = []
    with monkeypatch.context() as patch:
        patch.setattr(loop, "set_up_fold", lambda *_: pytest.fail("opened for training"))
        train_again(planned, 3, lines)
    assert "its validation was interrupted" in lines[0]
    assert is_validated(fold)


def test_planning_and_training_do_not_run_at_once(planned):
    fold = FoldFolder.of(planned.root, "Dataset901_Tiny", "default", 3)
    with alone(fold), pytest.raises(tds.UserError, match=r"tds_train is at work on \S*fold_3, and planning may change"):
        tds.plan("901", root=planned.root, workers=0)
    with (
        planning_alone(planned.folder, planned.root),
        pytest.raises(tds.UserError, match="tds_plan_and_preprocess is at work here"),
    ):
        train_again(planned, 3)
    with (
        planning_alone(planned.folder, planned.root),
        pytest.raises(tds.UserError, match="tds_plan_and_preprocess is at work here"),
    ):
        tds.plan("901", root=planned.root, workers=0)


def test_a_run_whose_labels_were_renamed_is_refused_with_advice(planned):
    path = planned.folder.plan("default")
    before = path.read_text()
    path.write_text(before.replace("dark cube", "black cube"))
    with pytest.raises(tds.UserError, match=r"fold_3 was started with a plan with other labels.*--restart") as error:
        train_again(planned, 3)
    assert len(error.value.lines) == 1
    path.write_text(before)
    train_again(planned, 3)


def test_a_run_that_was_planned_with_a_spacing_is_refused_with_this_spacing(planned):
    fold = FoldFolder.of(planned.root, "Dataset901_Tiny", "default", 3)
    plan = Plan.read(planned.folder.plan("default"))
    started = plan.model_copy(update={"spacing": (1.0, 1.25, 1.5)})
    lines = []
    for changed in ({}, {"resolution": "low"}, {"labels": plan.labels[:1]}):
        with pytest.raises(tds.UserError) as error:
            refuse_changed_plan(fold, started.model_copy(update=changed), planned.folder, "default")
        lines.append(str(error.value))
    again = "run tds_plan_and_preprocess Dataset901_Tiny --spacing 1.0 1.25 1.5. To use"
    assert f"To resume it, {again}" in lines[0]
    assert "To resume it, run tds_plan_and_preprocess with the options of the first time. To" in lines[1]
    assert f"undo the change of the data set and {again}" in lines[2]


def test_a_refused_restart_does_not_change_the_fold(planned):
    fold = FoldFolder.of(planned.root, "Dataset901_Tiny", "default", 3)
    before = {one: one.read_bytes() for one in fold.path.rglob("*") if one.is_file()}
    path = planned.folder.plan("default")
    plan = path.read_text()
    path.write_text(plan.replace("dark cube", "black cube"))
    with pytest.raises(tds.UserError):
        train_again(planned, 3, restart=True)
    path.write_text(plan)
    with pytest.raises(tds.UserError, match="--max-minutes"):
        train_again(planned, 3, restart=True, max_minutes=1e-5)
    assert {one: one.read_bytes() for one in fold.path.rglob("*") if one.is_file()} == before


def test_a_fold_with_only_the_best_checkpoint_is_not_overwritten(planned):
    fold = FoldFolder.of(planned.root, "Dataset901_Tiny", "default", 3)
    latest = fold.checkpoint("latest").read_bytes()
    fold.checkpoint("latest").unlink()
    with pytest.raises(tds.UserError, match=r"checkpoint_best\S+ without checkpoint_latest.*--val.*--restart"):
        train_again(planned, 3)
    assert tds.train(planned, 3, only_validate=True).summary.labels
    with pytest.raises(tds.Cancelled):
        tds.train(planned, 3, only_validate=True, cancel=lambda: True)
    assert not is_validated(fold), "its calibration may be lost"
    fold.checkpoint("latest").write_bytes(latest[:99])
    with pytest.raises(tds.UserError, match="damaged"):
        train_again(planned, 3)
    assert train_again(planned, 3, epochs=1, restart=True).fold == fold
