"""What tds_run prints at the end."""

from pathlib import Path

from textdiffseg.tasks.fold_status import FoldStatus
from textdiffseg.tasks.run import RunOutcome
from textdiffseg_cli.run import few_iterations_note


def outcome(*folds):
    return RunOutcome(Path("."), "Dataset001_Neck", "default", Path("model"), None, folds, Path("report.html"))


def test_a_fold_of_few_iterations_has_a_note_with_the_command_that_trains_it_longer():
    short = FoldStatus("0", "validated", 150, 150, limit_seconds=600.0)
    note = few_iterations_note(outcome(FoldStatus("1", "not begun"), short))
    assert "fold 0 learned in 150 iterations" in note
    assert note.endswith("tds_train Dataset001_Neck 0 --max-minutes 20")


def test_a_long_training_and_one_without_a_limit_have_no_note():
    assert few_iterations_note(outcome(FoldStatus("0", "validated", 900, 900, limit_seconds=600.0))) is None
    assert few_iterations_note(outcome(FoldStatus("0", "validated", 150, 150))) is None
