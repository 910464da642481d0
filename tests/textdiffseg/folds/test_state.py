"""The state of folds, from their own files."""

import errno
import os
import re
from contextlib import nullcontext

import pytest
from safetensors.torch import load_file, save_file

import textdiffseg as tds
from plans.errors import UserError
from plans.layout import FoldFolder
from textdiffseg.files import write_atomically, write_record
from textdiffseg.folds.calibration import Calibration
from textdiffseg.folds.ensemble import load_ensemble
from textdiffseg.folds.find import find_model
from textdiffseg.folds.lock import alone
from textdiffseg.folds.position import TrainingPosition
from textdiffseg.folds.sampling import Sampling
from textdiffseg.folds.state import is_validated, note_validated, why_unfinished
from textdiffseg.folds.weights import hash_weights


def mark(fold, which, iteration, **fields):
    """Write a checkpoint's position of 4 iterations as training does."""
    fields = {"cases": fold.name} | fields
    position = TrainingPosition(seed=0, epochs=2, iterations_per_epoch=2, iteration=iteration, **fields)
    path = fold.checkpoint(which)
    save_file(load_file(path), path, metadata={"progress": position.model_dump_json()})


@pytest.fixture
def folder(root, plan):
    return root / "results" / plan.dataset / "default"


@pytest.fixture
def fold(folder):
    """Fold 0, finished after 4 iterations; its best checkpoint is of iteration 2."""
    fold = FoldFolder(folder / "fold_0")
    mark(fold, "latest", 4)
    mark(fold, "best", 2, ended=True)
    return fold


def test_the_latest_checkpoint_decides_or_the_best_one_if_it_is_alone(fold):
    assert why_unfinished(fold) is None
    mark(fold, "latest", 3)
    assert why_unfinished(fold) == "was interrupted (3 of 4 iterations)"
    with alone(fold):
        assert why_unfinished(fold) == "is in training (3 of 4 iterations)"
    fold.checkpoint("latest").unlink()
    assert why_unfinished(fold) is None
    mark(fold, "best", 2)
    assert why_unfinished(fold) == "was interrupted (2 of 4 iterations)"


def test_folds_of_older_versions_stay_usable(fold):
    mark(fold, "best", 2, cases=None)
    assert why_unfinished(fold) is None
    fold.checkpoint("latest").unlink()
    assert why_unfinished(fold) is None, "a copied one may be of any iteration"
    save_file(load_file(fold.checkpoint("best")), fold.checkpoint("best"))
    assert why_unfinished(fold) is None


def test_unfinished_folds_are_left_out_and_reported(folder, fold):
    mark(FoldFolder(folder / "fold_1"), "latest", 1)
    found = load_ensemble(folder)
    assert found.folds == ("0",)
    assert found.notes[0] == ("Left out: fold 1 was interrupted (1 of 4 iterations). To use it: --include-unfinished.")
    both = load_ensemble(folder, include_unfinished=True)
    assert both.folds == ("0", "1")
    assert "fold 1 was interrupted" in both.notes[0]
    assert tds.load(folder, include_unfinished=True, device="cpu").notes == both.notes
    with pytest.raises(UserError, match=r"^fold 1 was interrupted .*tds_train \S+ 1\b.*--include-unfinished"):
        load_ensemble(folder, ["1"])
    assert load_ensemble(folder, ["0"]).folds == ("0",)


def test_a_fold_without_a_checkpoint_is_no_unfinished_fold_to_include(folder, fold, plan):
    for which in ("latest", "best"):
        FoldFolder(folder / "fold_1").checkpoint(which).unlink()
    note = load_ensemble(folder).notes[0]
    assert note.startswith("Left out: fold 1 was interrupted (no checkpoint yet). To train it: tds_train ")


def test_without_a_finished_fold_the_error_has_advice(root, folder, fold, plan):
    for number in (0, 1):
        mark(FoldFolder(folder / f"fold_{number}"), "latest", 1)
    with alone(fold), pytest.raises(UserError, match="No fold is finished") as error:
        load_ensemble(folder)
    (line,) = error.value.lines
    assert "fold 0 is in training (1 of 4 iterations); fold 1 was interrupted" in line
    assert f"(tds_train {plan.dataset} 0 --root {root}, tds_train {plan.dataset} 1 --root {root})" in line
    assert "--include-unfinished" in line
    with pytest.raises(UserError, match="No fold is finished"):
        load_ensemble(folder / "fold_1")


def test_a_fold_without_a_checkpoint_is_reported(root, folder, fold):
    for path in (folder / "fold_1").glob("checkpoint_*"):
        path.unlink()
    with alone(FoldFolder(folder / "fold_1")):
        assert "fold 1 is in training (no checkpoint yet)" in load_ensemble(folder).notes[0]
    for path in folder.glob("fold_0/checkpoint_*"):
        path.unlink()
    with pytest.raises(UserError, match=r"No trained model.*fold_0 was interrupted \(no checkpoint yet\)"):
        find_model(root)


def test_a_fit_is_used_only_with_its_own_checkpoint(folder, fold):
    """DESIGN 6: if nothing was chosen, the mask and no mirroring."""
    own = {"weights": hash_weights(fold, "best")}
    write_record(fold.sampling, Sampling(steps=4, mirroring=True, **own))
    write_record(fold.calibration, Calibration(**own))
    assert (load_ensemble(fold.path).sampling.steps, load_ensemble(fold.path).notes) == (4, ())
    latest = load_ensemble(fold.path, checkpoint="latest")
    assert (latest.sampling, latest.calibrations[0].fits) == (Sampling(), ())
    assert latest.notes == (
        "Fold 0: sampling and calibration were fitted to checkpoint_best and are not used: no mirroring, "
        "no calibration.",
    )
    mark(fold, "best", 4)
    other = load_ensemble(fold.path)
    assert (other.sampling, other.calibrations[0].weights) == (Sampling(), None)
    assert "fitted to an earlier checkpoint_best" in other.notes[0]


def test_a_fit_of_an_older_version_belongs_to_the_best_checkpoint(fold):
    write_atomically(fold.sampling, '{"version": 1, "steps": 4, "samples": 1, "cases": 2, "table": []}')
    found = load_ensemble(fold.path)
    assert (found.sampling.steps, found.sampling.mirroring, found.notes) == (4, True, ())
    assert load_ensemble(fold.path, checkpoint="latest").sampling == Sampling()


def test_a_fold_without_validation_uses_plain_sampling_and_reports_it(root, folder, fold, plan):
    assert load_ensemble(fold.path).sampling == Sampling(steps=0, samples=1, mirroring=False)
    assert load_ensemble(fold.path).notes == (
        "Fold 0: its validation has not chosen the sampling: no mirroring, no calibration. To validate "
        f"it: tds_train {plan.dataset} 0 --root {root}.",
    )
    write_record(folder / "fold_1" / "sampling.json", Sampling(steps=4))
    both = load_ensemble(folder)
    assert both.sampling.steps == 4
    assert "the other folds decide" in both.notes[0]


def test_a_validation_belongs_to_the_present_weights(fold):
    assert not is_validated(fold)
    write_atomically(fold.summary, "{}")
    assert not is_validated(fold)
    note_validated(fold)
    assert is_validated(fold)
    mark(fold, "best", 4)
    assert not is_validated(fold)
    write_atomically(fold.validated, "{")
    assert not is_validated(fold)
    fold.validated.unlink()
    mark(fold, "latest", 4, cases=None)
    assert is_validated(fold), "in older versions, the scores showed it"


def test_a_lock_that_is_a_link_is_refused(fold, tmp_path):
    fold.lock.parent.mkdir(exist_ok=True)
    fold.lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is a link, expected a plain file"), alone(fold):
        pass
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(("number", "runs"), [(errno.ENOLCK, True), (errno.ENOTSUP, True), (errno.EIO, False)])
def test_only_a_file_system_without_locks_runs_without_a_lock(fold, monkeypatch, number, runs):
    def failing(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("textdiffseg.folds.lock.FileLock.acquire", failing)
    with nullcontext() if runs else pytest.raises(OSError, match=re.escape(os.strerror(number))), alone(fold):
        pass


@pytest.mark.parametrize("function", ["textdiffseg.folds.lock.FileLock.acquire", "textdiffseg.folds.lock.write_record"])
def test_a_folder_that_cannot_be_written_is_named_and_not_a_hidden_file_in_it(fold, monkeypatch, function):
    def refused(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(fold.lock))

    monkeypatch.setattr(function, refused)
    with pytest.raises(PermissionError) as caught, alone(fold):
        pass
    assert caught.value.filename == str(fold.path.parent)
