"""DESIGN 2: planning and training are functions that report, can be cancelled, and go on when called again."""

import pytest

import textdiffseg as tds
from plans.layout import FoldFolder
from textdiffseg.data.store import list_cases
from textdiffseg.folds.progress import read_progress


@pytest.fixture(scope="module")
def planned(tmp_path_factory, write_raw, shrink_plan):
    """A small data set, planned and preprocessed, whose training takes seconds."""
    root = tmp_path_factory.mktemp("root")
    write_raw(root)
    found = tds.plan("901", root=root, workers=0)
    shrink_plan(found.folder.plan("default"))
    return found


def test_a_cancelled_planning_keeps_what_is_done_and_goes_on(tmp_path, write_raw):
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


def test_what_planning_says_is_reported_and_returned(tmp_path, write_raw):
    write_raw(tmp_path)
    lines = []
    planned = tds.plan(tmp_path / "raw" / "Dataset901_Tiny", root=tmp_path, workers=0, report=lines.append)
    assert any("4 training cases, 2 labels" in line for line in lines)
    assert any("4 folds instead of 5" in note for note in planned.notes)
    assert planned.plan.reasons
    assert planned.folder.plan("default").is_file()


def test_a_cancelled_training_is_saved_and_goes_on(planned):
    events, options = [], tds.TrainingOptions(epochs=2)
    with pytest.raises(tds.Cancelled):
        tds.train(planned, 1, options=options, progress=events.append, cancel=lambda: len(events) == 2)
    assert read_progress(FoldFolder.of(planned.root, "Dataset901_Tiny", "default", 1)).iteration == 2
    trained = tds.train(planned, 1, progress=events.append)
    assert trained.held_out
    assert set(trained.summary.labels) == {"bright cube", "dark cube"}
    assert trained.sampling.table
    done = [event.done for event in events if event.stage == "Train"]
    assert done == list(range(1, 7))
    assert {event.stage for event in events} >= {"Choose steps and mirroring", "Predict the validation cases"}


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
        ({"fold": 3, "must_exist": True}, "holds no run to go on with"),
        ({"options": tds.TrainingOptions(restart=True), "only_validate": True}, "give one of them"),
    ],
)
def test_a_request_that_does_not_fit_is_one_sentence(planned, arguments, words):
    with pytest.raises(tds.UserError, match=words):
        tds.train(**({"dataset": "901", "fold": 0, "root": planned.root} | arguments))


def test_a_restart_deletes_what_the_fold_holds_and_needs_nothing_to_be_there(planned):
    again = tds.TrainingOptions(epochs=1, restart=True)
    first = tds.train(planned, 2, options=again)
    stray = first.fold.path / "stray.txt"
    stray.write_text("of an older run")
    tds.train(planned, 2, options=again)
    assert not stray.exists()
