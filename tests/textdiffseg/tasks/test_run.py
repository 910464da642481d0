"""`run`, `status` and `finalize`: what is done is skipped, time is shared, folds of several machines are joined."""

import errno
import json
import os
import shutil
import time
from dataclasses import replace

import pytest

from plans.errors import UserError
from plans.layout import FoldFolder, PreprocessedFolder, RawFolder
from plans.plan import Plan
from textdiffseg.data.splits import Splits
from textdiffseg.folds.changed import note_contents
from textdiffseg.folds.lock import Busy, alone, planning_alone
from textdiffseg.folds.position import POSITION_KEY, parse_position
from textdiffseg.folds.state import position_of
from textdiffseg.progress import Cancelled
from textdiffseg.tasks import fold_status
from textdiffseg.tasks import run as module
from textdiffseg.tasks import status as status_module
from textdiffseg.tasks.finalize import finalize
from textdiffseg.tasks.find_best import find_best
from textdiffseg.tasks.fold_status import FoldStatus
from textdiffseg.tasks.plan import plan
from textdiffseg.tasks.run import run
from textdiffseg.tasks.status import status
from textdiffseg.tasks.train import train
from textdiffseg.tensors import read_tensor_file, write_tensor_file
from textdiffseg.training.options import TrainingOptions
from textdiffseg.training.setup import TooShort

pytestmark = pytest.mark.usefixtures("few_patches")
NAME = "Dataset901_Tiny"


@pytest.fixture(scope="module")
def planned(tmp_path_factory, write_raw, shrink_plan):
    """A root with a planned data set of two folds, each of which trains in seconds."""
    root = tmp_path_factory.mktemp("planned")
    write_raw(root, cases=2)
    folder = plan(NAME, root=root, workers=0).folder
    shrink_plan(folder.plan("default"))
    fields = json.loads(folder.plan("default").read_text())
    fields["training"]["epochs"] = 1
    folder.plan("default").write_text(json.dumps(fields))
    return root


@pytest.fixture(scope="module")
def trained(planned):
    """The same root after a run, with the outcome and the reports."""
    lines = []
    outcome = run(NAME, root=planned, options=TrainingOptions(device="cpu"), report=lines.append)
    return planned, outcome, lines


@pytest.fixture
def scripted(planned, monkeypatch):
    """A function that runs with given states of the folds; returns [(fold, minutes)] of trainings, and the reports."""

    def of(states, **options):
        calls, lines = [], []
        monkeypatch.setattr(module, "train_status", lambda *of: states[of[-1]])

        def train(_, fold, **arguments):
            calls.append((fold, arguments["options"].max_minutes))
            states[fold] = replace(states[fold], state="validated", seconds_left=None)

        monkeypatch.setattr(module, "train", train)
        outcome = run(NAME, root=planned, report=lines.append, **options)
        return calls, lines, outcome

    return of


def test_a_planned_data_set_is_trained_and_a_second_run_does_nothing(trained):
    root, outcome, lines = trained
    assert [(fold.fold, fold.state) for fold in outcome.folds] == [("0", "validated"), ("1", "validated")]
    assert outcome.is_complete
    assert outcome.page.read_text().startswith("<!")
    assert lines[0] == f"{NAME} is planned for preset default, and 2 cases are stored."
    again = []
    run(NAME, root=root, hours=1, report=again.append)
    assert again[0] == lines[0]
    assert [line.partition(" (")[0] for line in again[1:]] == [f"Fold {n} is trained and validated" for n in (0, 1)]


def test_changes_of_the_data_are_planned(planned, scripted, monkeypatch):
    def planned_again(*_, **__):
        raise InterruptedError

    monkeypatch.setattr(module, "plan", planned_again)
    states = {"0": FoldStatus("0", "validated"), "1": FoldStatus("1", "validated")}
    assert scripted(states)[2].is_complete
    (planned / "raw" / NAME / "dataset.json").touch()
    with pytest.raises(InterruptedError):
        scripted(states)
    (planned / "preprocessed" / NAME / "plan.json").touch()
    assert scripted(states)[2].is_complete
    mask = next((planned / "raw" / NAME / "labelsTr").iterdir())
    corrected = mask.with_name("corrected")
    corrected.write_bytes(mask.read_bytes())
    os.utime(corrected, (0, 0))  # a copy may keep the time of its source
    corrected.replace(mask)
    with pytest.raises(InterruptedError):
        scripted(states)
    (planned / "preprocessed" / NAME / "plan.json").touch()
    (planned / "raw" / NAME / "splits_final.json").write_text("[]")
    with pytest.raises(InterruptedError):
        scripted(states)
    (planned / "raw" / NAME / "splits_final.json").unlink()
    texts = planned / "raw" / NAME / "texts"
    assert RawFolder(planned / "raw" / NAME).texts == texts
    case = mask.name.removesuffix(".nii.gz")
    texts.mkdir()
    (texts / f"{case}.txt").write_text("a lesion")
    (planned / "preprocessed" / NAME / "plan.json").touch()
    assert scripted(states)[2].is_complete
    (texts / f"{case}.txt").write_text("two lesions")  # the folder's time stays
    with pytest.raises(InterruptedError):
        scripted(states)
    shutil.rmtree(texts)
    (planned / "preprocessed" / NAME / "plan.json").touch()
    beside = planned / "preprocessed" / NAME / "prompts.json"
    beside.write_text("{}")
    with pytest.raises(InterruptedError):
        scripted(states)
    beside.unlink()
    mask.rename(mask.with_name("away"))
    with pytest.raises(UserError, match="is missing"):
        scripted(states)
    mask.with_name("away").rename(mask)
    (planned / "preprocessed" / NAME / "plan.json").touch()  # the next tests find it planned


def test_the_hours_are_shared_by_the_folds_that_are_left(scripted):
    new = {"0": FoldStatus("0", "not begun"), "1": FoldStatus("1", "not begun")}
    calls, _, _ = scripted(new, hours=1)
    assert [fold for fold, _ in calls] == ["0", "1"]
    assert [minutes for _, minutes in calls] == pytest.approx([0.75 * 30, 0.75 * 60], rel=0.01)


def test_an_interrupted_fold_keeps_its_length(scripted):
    half = FoldStatus("1", "interrupted", iteration=5, iterations=10, seconds_left=900.0)
    calls, _, _ = scripted({"0": FoldStatus("0", "not begun"), "1": half}, hours=1)
    assert calls == [("0", pytest.approx(0.75 * 60 - 15, rel=0.01)), ("1", None)]


def test_an_interrupted_fold_beyond_the_hours_is_announced(scripted):
    long = FoldStatus("0", "interrupted", iteration=5, iterations=10, seconds_left=9000.0)
    other = FoldStatus("1", "interrupted", iteration=5, iterations=10, seconds_left=9.0)
    calls, lines, _ = scripted({"0": long, "1": other}, hours=1)
    assert calls == [("0", None), ("1", None)]
    assert lines[1] == "Fold 0 keeps its length: about 2.5 hours of training, beyond the hours."
    calls, lines, _ = scripted({"0": long, "1": other}, hours=0.001)
    assert calls == []
    assert lines[1:] == ["Fold 0: no time is left for it.", "Fold 1: no time is left for it."]


def test_a_fold_that_cannot_be_trained_does_not_stop_the_others(scripted, planned, monkeypatch):
    new = {"0": FoldStatus("0", "not begun"), "1": FoldStatus("1", "not begun")}
    assert scripted(dict(new))[0] == [("0", None), ("1", None)]
    done, lines = [], []

    def train(_, fold, **__):
        if fold == "0":
            raise UserError("fold 0 is damaged")
        if fold == "1":
            raise Busy("at work")
        done.append(fold)

    monkeypatch.setattr(module, "train_status", lambda *of: new[of[-1]])
    monkeypatch.setattr(module, "train", train)
    with pytest.raises(UserError, match="fold 0 is damaged"):
        run(NAME, root=planned, report=lines.append)
    assert lines[1:] == [
        "Fold 0 is left out: fold 0 is damaged",
        "Fold 1: another process is at work. It is left to that process.",
    ]


def test_finished_folds_of_an_earlier_plan_are_refused_before_anything_is_trained(trained, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(trained[0], root)
    fold = FoldFolder.of(root, NAME, "default", 1)
    shutil.rmtree(fold.path)
    prompts = root / "raw" / NAME / "prompts.json"
    fields = json.loads(prompts.read_text())
    fields["labels"]["dark cube"].append("black box")
    prompts.write_text(json.dumps(fields))
    with pytest.raises(UserError, match=r"fold_0 was trained with other phrasings(.|\n)*tds_train \S+ FOLD --restart"):
        run(NAME, root=root)
    assert not fold.path.exists()


def test_finished_folds_of_another_network_are_refused_but_not_those_of_another_share(trained, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(trained[0], root)
    path = root / "preprocessed" / NAME / "plan.json"
    fields = json.loads(path.read_text())
    fields["diffusion"]["share"] = 0.15
    path.write_text(json.dumps(fields))
    assert run(NAME, root=root).is_complete
    fields["mirror_axes"] = []
    path.write_text(json.dumps(fields))
    with pytest.raises(UserError, match=r"fold_0 was trained with a plan with other mirror_axes than the present one"):
        run(NAME, root=root)


def test_finished_folds_of_other_cases_are_refused(trained, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(trained[0], root)
    path = root / "preprocessed" / NAME / "splits.json"
    fields = json.loads(path.read_text())
    fields["folds"].reverse()
    path.write_text(json.dumps(fields))
    with pytest.raises(UserError, match=r"started with other cases than splits.json(.|\n)*FOLD --restart"):
        run(NAME, root=root)


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of the trained root."""
    root = tmp_path / "root"
    shutil.copytree(trained[0], root)
    (root / "preprocessed" / NAME / "plan.json").touch()  # newer than the copies of the raw files
    return root


def test_a_case_that_was_changed_is_not_taken_for_the_one_that_was_trained_and_scored(copied, monkeypatch):
    splits = Splits.read(copied / "preprocessed" / NAME / "splits.json")
    (case,) = splits.folds[0].validation  # fold 1 was trained on it
    record = copied / "preprocessed" / NAME / "cases" / f"{case}.json"
    assert status(NAME, root=copied).notes == ()
    record.write_text(json.dumps(json.loads(record.read_text()) | {"hash": "other"}))
    found = status(NAME, root=copied)
    assert [fold.state for fold in found.presets[0].folds] == ["trained", "validated"]
    first, second = (FoldFolder.of(copied, NAME, "default", name).path for name in (0, 1))
    assert found.notes[0].startswith(f"{first}: changed since its validation: {case}. ")
    assert found.notes[1].startswith(f"{second}: changed since its training: {case}. ")
    lines = []
    find_best(NAME, root=copied, pairs=False, report=lines.append)
    assert lines[2:] == ["default: fold 0 is not validated, so its cases are not compared."]
    monkeypatch.setattr("textdiffseg.tasks.train.validate", lambda *_: "validated")
    lines = []
    assert train(NAME, 0, root=copied, options=TrainingOptions(device="cpu"), report=lines.append) == "validated"
    assert lines[0] == f"Note: {found.notes[0]}"
    assert lines[-1].endswith("its validation cases were changed. The validation starts again.")
    note_contents(FoldFolder(first), copied / "preprocessed" / NAME, [case])
    assert status(NAME, root=copied).notes == found.notes[1:]


def test_what_is_not_planned_is_named_and_an_unknown_data_set_is_an_error_alone(tmp_path, write_raw, monkeypatch):
    def stop(*_, **__):
        raise Cancelled

    write_raw(tmp_path)
    monkeypatch.setattr("textdiffseg.tasks.run.plan", stop)
    lines = []
    with pytest.raises(Cancelled):
        run("901", root=tmp_path, report=lines.append)
    assert lines == [f"{NAME} is not planned yet."]
    with pytest.raises(UserError, match="905"):
        run("905", root=tmp_path, report=lines.append)
    assert len(lines) == 1


def test_a_fold_that_the_splits_no_longer_list_is_named(copied):
    path = copied / "preprocessed" / NAME / "splits.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps(fields | {"folds": fields["folds"][:1]}))
    (note,) = status(NAME, root=copied).notes
    assert "fold_1 was trained on other cases than splits.json lists now" in note


def test_a_fold_is_not_started_beside_folds_of_other_splits(copied):
    path = copied / "preprocessed" / NAME / "splits.json"
    fields = json.loads(path.read_text())
    fields["folds"].reverse()
    path.write_text(json.dumps(fields))
    assert "fold_0 was trained on other cases than splits.json lists now" in status(NAME, root=copied).notes[0]
    new = FoldFolder.of(copied, NAME, "default", 1)
    shutil.rmtree(new.path)
    options = TrainingOptions(device="cpu")
    with pytest.raises(UserError, match=r"fold_0 was trained on other cases than \S+splits.json .*--restart"):
        train(NAME, 1, root=copied, options=options)
    assert not new.path.exists()
    FoldFolder.of(copied, NAME, "default", 0).cases.unlink()
    with pytest.raises(Cancelled):  # as a fold of an older version
        train(NAME, 1, root=copied, options=options, cancel=lambda: True)


def test_planning_again_keeps_the_options_of_the_first_time(tmp_path, write_raw, monkeypatch):
    def stopped(*_):
        raise InterruptedError

    monkeypatch.setattr(module, "_refuse_other_folds", stopped)
    raw, lines = write_raw(tmp_path, cases=2), []
    first = plan(NAME, root=tmp_path, workers=0, spacing=(3.0, 2.0, 2.0), gpu_gb=5.0)
    time.sleep(0.02)  # the clock of files has steps
    (raw / "dataset.json").touch()
    with pytest.raises(InterruptedError):
        run(NAME, root=tmp_path, report=lines.append)
    again = Plan.read(first.folder.plan("default"))
    assert (again.spacing, again.device, again.memory.budget_gb) == ((3.0, 2.0, 2.0), "gpu", 5.0)
    assert lines[0] == f"Files of {NAME} have changed since it was planned."
    assert {*first.notes} <= {*lines}


def test_what_others_train_is_left_to_them(scripted):
    elsewhere = FoldStatus("0", "running", host="gpu1", process=7)
    calls, lines, outcome = scripted({"0": elsewhere, "1": FoldStatus("1", "trained", iterations=9)}, hours=1)
    assert calls == [("1", None)]
    assert lines[1] == "Fold 0 is in training elsewhere on gpu1, process 7. It is left to that process."
    assert not outcome.is_complete


def test_too_few_hours_are_reported(scripted):
    new = {"0": FoldStatus("0", "not begun"), "1": FoldStatus("1", "not begun")}
    calls, lines, _ = scripted(dict(new), hours=0.001)
    assert calls == []
    assert lines[1:] == ["Fold 0: no time is left for it.", "Fold 1: no time is left for it."]
    assert scripted(dict(new), hours=0.01)[0][0] == ("0", pytest.approx(0.75 * 0.6, rel=0.01)), "one fold gets all"


def test_hours_that_leave_no_iteration_name_the_hours_that_do(scripted, planned, monkeypatch):
    def too_short(*_, **__):
        raise TooShort("--max-minutes leaves 5 minutes", needed_minutes=27.0)

    new = {"0": FoldStatus("0", "not begun", command="x"), "1": FoldStatus("1", "not begun", command="x")}
    monkeypatch.setattr(module, "train_status", lambda *of: new[of[-1]])
    monkeypatch.setattr(module, "train", too_short)
    with pytest.raises(UserError, match=r"needs about 27 minutes to learn anything\. Give --hours 1\.2, or fewer"):
        run(NAME, root=planned, hours=0.2)


def test_a_last_fold_without_time_does_not_hide_what_was_done(scripted, trained, monkeypatch):
    root, new = trained[0], {fold: FoldStatus(fold, "not begun", command="x") for fold in ("0", "1")}
    lines = []

    def train(_, fold, **__):
        if fold == "1":
            raise TooShort("--max-minutes leaves 5 minutes", needed_minutes=27.0)
        new["0"] = replace(new["0"], state="validated")

    monkeypatch.setattr(module, "train_status", lambda *of: new[of[-1]])
    monkeypatch.setattr(module, "train", train)
    outcome = run(NAME, root=root, hours=0.2, report=lines.append)
    assert [fold.state for fold in outcome.folds] == ["validated", "not begun"]
    assert lines[-1] == "Fold 1: no time is left for it."
    assert outcome.page.is_file()


def test_a_last_fold_without_time_and_a_report_that_fails_do_not_hide_faults(planned, monkeypatch):
    new = {fold: FoldStatus(fold, "not begun", command="x") for fold in ("0", "1")}

    def train(_, fold, **__):
        if fold == "1":
            new["1"] = replace(new["1"], state="validated")
            raise TooShort("--max-minutes leaves 5 minutes", needed_minutes=27.0)
        raise UserError("fold 0 is damaged")

    def write(name, page, **_):
        raise PermissionError(13, "Permission denied", page)

    monkeypatch.setattr(module, "train_status", lambda *of: new[of[-1]])
    monkeypatch.setattr(module, "train", train)
    monkeypatch.setattr(module, "write_report", write)
    with pytest.raises(UserError) as caught:
        run(NAME, root=planned, hours=0.2)
    assert caught.value.lines[0] == "fold 0 is damaged"
    assert caught.value.lines[1].endswith("report.html: Permission denied. The report is not written.")


def test_a_page_of_the_user_is_noticed_before_the_training(scripted, planned):
    page = planned / "results" / NAME / "report.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    before = page.read_text() if page.is_file() else None
    page.write_text("<p>mine</p>")
    new = {fold: FoldStatus(fold, "not begun") for fold in ("0", "1")}
    try:
        with pytest.raises(UserError, match="is not a report"):
            scripted(new)
        assert {one.state for one in new.values()} == {"not begun"}
    finally:
        page.unlink()
        if before is not None:
            page.write_text(before)


def test_only_the_chosen_folds_are_trained(scripted):
    new = {"0": FoldStatus("0", "not begun"), "1": FoldStatus("1", "not begun")}
    assert scripted(new, folds=["1"], hours=1)[0] == [("1", pytest.approx(45, rel=0.01))]
    with pytest.raises(UserError, match="Fold 7 does not exist"):
        scripted(new, folds=["7"])


def test_the_status_of_a_data_set(trained, write_raw, tmp_path):
    root, *_ = trained
    found = status("901", root=root)
    assert (found.dataset, found.cases, found.stored, found.planning) == (NAME, 2, 2, False)
    (default,) = found.presets
    assert (default.planned, [fold.state for fold in default.folds]) == (True, ["validated", "validated"])
    assert default.folds[0].labels.keys() == {"bright cube", "dark cube"}
    assert default.folds[0].command is None
    assert found.next.startswith("tds_predict -i SCANS -o SEGMENTATIONS -m ")
    write_raw(tmp_path, cases=2)
    new = status(NAME, root=tmp_path)
    assert (new.stored, new.presets) == (0, ())
    assert new.next == f"tds_run {NAME} --hours 4 --root {tmp_path}"


def test_the_states_of_a_fold(trained, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(trained[0], root)
    fold = FoldFolder.of(root, NAME, "default", 0)

    def state():
        return status(NAME, root=root).presets[0].folds[0]

    with alone(fold):
        held = state()
    assert (held.state, held.command) == ("running", None)
    assert held.host
    assert held.process
    assert not fold.owner.exists()
    fold.validated.unlink()
    other = FoldFolder.of(root, NAME, "default", 1)
    other.validated.unlink()
    with alone(fold), alone(other):
        assert status(NAME, root=root).next == f"tds_status {NAME} --root {root}"
    assert (state().state, state().command) == ("trained", f"tds_train {NAME} 0 --root {root}")
    fold.checkpoint("best").unlink()
    fold.checkpoint("latest").unlink()
    fold.text_bank.unlink()
    assert state().state == "interrupted", "a start was killed: it is begun from the start"
    shutil.rmtree(fold.path)
    assert state().state == "not begun"
    assert status(NAME, root=root).next == f"tds_run {NAME} --root {root}"


def test_a_resumed_fold_counts_from_its_start_not_from_its_checkpoint(trained, tmp_path, monkeypatch):
    root = tmp_path / "root"
    shutil.copytree(trained[0], root)
    fold = FoldFolder.of(root, NAME, "default", 0)
    half = position_of(fold).after(iteration=1, limit_seconds=900.0, seconds=300.0, epochs=9, denoiser_epoch=None)
    monkeypatch.setattr(fold_status, "position_of", lambda _: half)
    long_ago = time.time() - 3600
    os.utime(fold.checkpoint("latest"), (long_ago, long_ago))
    with alone(fold):
        assert status(NAME, root=root).presets[0].folds[0].seconds_left == pytest.approx(600, abs=60)


def test_the_next_command_has_the_hours_that_the_other_folds_need():
    def of(*folds):
        return status_module._hours(folds)

    half = FoldStatus("0", "interrupted", iterations=9, seconds_left=900, limit_seconds=2160, command="x")
    new = FoldStatus("1", "not begun", command="x")
    assert of(half, new, new) == ("--hours", "2"), "(900 + 2 x 2160) s are three quarters of 1.93 hours"
    assert of(half) == (), "it keeps its length"
    assert of(replace(half, limit_seconds=None), new) == (), "the lengths are those of the plan"
    assert of(replace(half, seconds_left=None, command=None), new) == ("--hours", "0.8")
    assert of(FoldStatus("0", "interrupted", command="x"), new) == ("--hours", "4"), "a first training"


def test_an_error_of_a_training_is_shown_until_the_next_start(planned, tmp_path, monkeypatch):
    root = tmp_path / "root"
    shutil.copytree(planned / "raw", root / "raw")
    shutil.copytree(planned / "preprocessed", root / "preprocessed")

    def stop(error):
        def failing(*_):
            raise error

        monkeypatch.setattr("textdiffseg.tasks.train.train_fold", failing)
        with pytest.raises(type(error)):
            train(NAME, 0, root=root, options=TrainingOptions(device="cpu"))
        return status(NAME, root=root).presets[0].folds[0].error if root.joinpath("results").is_dir() else None

    assert stop(RuntimeError("no kernel\nmore")) == "RuntimeError: no kernel"
    assert stop(UserError("case a is damaged", "case b")) == "case a is damaged"
    assert stop(OSError(errno.ENOSPC, "No space left on device", "x.safetensors")) == (
        "The disk is full while writing x.safetensors. Make room and run the same command again: it resumes."
    )
    fold = FoldFolder.of(root, NAME, "default", 0)
    with alone(fold):
        assert status(NAME, root=root).presets[0].folds[0].error is None
    assert stop(Cancelled("stopped")) is None
    assert stop(TooShort("too short")) is None
    assert stop(KeyboardInterrupt()) is None
    assert not fold.error.exists()


def test_a_start_that_fails_is_noted_and_a_busy_fold_is_not(copied):
    bank = copied / "preprocessed" / NAME / "text_bank.safetensors"
    fold = FoldFolder.of(copied, NAME, "default", 1)
    shutil.rmtree(fold.path)

    def start(name=1, **options):
        with pytest.raises(UserError) as caught:
            train(NAME, name, root=copied, options=TrainingOptions(device="cpu"), **options)
        return caught.value.lines[0]

    def noted():
        return status(NAME, root=copied).presets[0].folds[1].error

    content = bank.read_bytes()
    bank.write_bytes(content[:99])
    assert start() == noted()
    bank.write_bytes(content)
    start("7")
    assert not fold.error.with_name(".fold_7.error.txt").exists()
    with alone(fold):
        start()
    assert "text_bank" in noted()
    with planning_alone(PreprocessedFolder(bank.parent), copied):
        start()
    assert "text_bank" in noted()
    start(must_exist=True)
    assert "text_bank" in noted(), "the error of a mistyped option is not kept"
    (bank.parent / "plan.json").write_text("{")
    assert start() == noted(), "a later failure replaces it"


LATEST, BEST = "checkpoint_latest.safetensors", "checkpoint_best.safetensors"


@pytest.mark.parametrize(
    ("name", "option"),
    [
        (LATEST, None),
        (BEST, None),
        ("plan.json", "--restart"),
        ("cases.json", None),
        ("log.jsonl", None),
        ("text_bank.safetensors", "--restart"),
        ("sampling.json", "--val"),
        ("calibration.json", "--val"),
        ("postprocessing.json", "--val"),
    ],
)
def test_a_damaged_file_of_one_fold_hides_and_stops_no_other(copied, monkeypatch, name, option):
    damaged, other = (FoldFolder.of(copied, NAME, "default", number) for number in (0, 1))
    path = damaged.path / name
    path.write_bytes(path.read_bytes()[:-5] if name in (LATEST, BEST) else b"{")
    other.validated.unlink()  # its validation is left to do
    first, second = status(NAME, root=copied).presets[0].folds
    assert (first.state, second.state) == ("damaged", "trained")
    assert str(path) in first.error
    assert first.error.count(".") > 1, "it has a way out"
    assert first.command == (f"tds_train {NAME} 0 --root {copied} {option}" if option else None)
    assert status(NAME, root=copied).next.startswith("tds_run")
    calls, lines = [], []
    monkeypatch.setattr(module, "train", lambda _, fold, **__: calls.append(fold))
    with pytest.raises(UserError) as caught:
        run(NAME, root=copied, report=lines.append)
    assert calls == ["1"]
    assert f"Fold 0 is left out: {first.error}" in lines
    assert first.error in caught.value.lines
    assert "Such folds fit no ensemble" not in str(caught.value)


@pytest.mark.parametrize("name", ["log.jsonl", "cases.json", LATEST, BEST])
def test_a_whole_model_is_not_trained_anew_for_a_file_beside_it(copied, name):
    path = FoldFolder.of(copied, NAME, "default", 0).path / name
    path.write_bytes(path.read_bytes()[:-5] if name in (LATEST, BEST) else b"{")
    found = status(NAME, root=copied)
    assert found.presets[0].folds[0].iterations > 0 or name == LATEST
    assert found.presets[0].folds[0].command is None
    assert "--restart" not in found.next


def test_a_fold_without_a_checkpoint_that_can_be_read_is_trained_again(copied):
    fold = FoldFolder.of(copied, NAME, "default", 0)
    for which in ("best", "latest"):
        path = fold.checkpoint(which)
        path.write_bytes(path.read_bytes()[:-5])
    assert status(NAME, root=copied).presets[0].folds[0].command.endswith("--restart")


def test_a_fold_that_only_the_user_can_mend_is_the_next_command(copied):
    """The state that an older version left behind after a full disk in the first epoch."""
    fold = FoldFolder.of(copied, NAME, "default", 0)
    fold.checkpoint("latest").unlink()
    fold.validated.unlink()
    assert status(NAME, root=copied).presets[0].folds[0].state == "trained", "a finished one that was copied"
    path = fold.checkpoint("best")
    tensors = read_tensor_file(path)
    unfinished = parse_position(path, tensors.metadata).after(iteration=1, ended=False)
    write_tensor_file(path, tensors.tensors, {POSITION_KEY: unfinished.model_dump_json()})
    found = status(NAME, root=copied)
    assert found.presets[0].folds[0].state == "damaged"
    assert found.next == found.presets[0].folds[0].command == f"tds_train {NAME} 0 --root {copied} --restart"


def test_an_open_fold_is_gone_on_with_by_tds_run(copied, monkeypatch):
    FoldFolder.of(copied, NAME, "default", 1).validated.unlink()
    monkeypatch.setattr(module, "train", lambda *_, **__: None)
    assert run(NAME, root=copied).folds[1].command == f"tds_run {NAME} --folds 1 --root {copied}"


def test_a_copied_fold_with_its_best_checkpoint_alone_is_validated(copied, monkeypatch):
    fold = FoldFolder.of(copied, NAME, "default", 0)
    fold.checkpoint("latest").unlink()
    fold.validated.unlink()
    command = status(NAME, root=copied).presets[0].folds[0].command
    assert command == f"tds_train {NAME} 0 --root {copied} --val"
    monkeypatch.setattr("textdiffseg.tasks.train.validate", lambda *_: fold.validated.write_text("done"))
    run(NAME, root=copied)
    assert fold.validated.read_text() == "done"


def test_a_damaged_file_of_the_data_set_is_named_and_the_folds_are_shown(copied):
    source = copied / "preprocessed" / NAME
    plan_text, splits_text = ((source / name).read_text() for name in ("plan.json", "splits.json"))
    (source / "plan.json").write_text("{")
    found = status(NAME, root=copied)
    assert (found.presets[0].planned, len(found.presets[0].folds)) == (True, 2)
    assert found.presets[0].error.startswith(f"{source / 'plan.json'} is not valid JSON")
    assert "run tds_plan_and_preprocess" in found.presets[0].error
    assert found.next == f"tds_plan_and_preprocess {NAME} --root {copied}"
    with pytest.raises(UserError, match=r"plan.json is not valid JSON.* run tds_plan_and_preprocess"):
        run(NAME, root=copied)
    (source / "plan.json").write_text(plan_text)
    (source / "splits.json").write_text("{")
    (copied / "results" / NAME / "best.json").write_text("{")
    found = status(NAME, root=copied)
    assert [fold.state for fold in found.presets[0].folds] == ["validated", "validated"]
    assert [note.partition(" is not")[0] for note in found.notes] == [
        str(source / "splits.json"),
        str(copied / "results" / NAME / "best.json"),
    ]
    (source / "splits.json").write_text(splits_text)
    assert status(NAME, root=copied).next.startswith("tds_predict")


@pytest.fixture
def machines(trained, tmp_path):
    """Two roots, each with the data set and one of the folds."""
    roots = tmp_path / "first", tmp_path / "second"
    for number, root in enumerate(roots):
        shutil.copytree(trained[0], root)
        shutil.rmtree(FoldFolder.of(root, NAME, "default", 1 - number).path)
    return roots


@pytest.mark.parametrize("below", ["", "results", f"results/{NAME}/default", f"results/{NAME}/default/fold_1"])
def test_folds_of_two_machines_are_joined(machines, below):
    first, second = machines
    joined = finalize("901", [second / below], root=first)
    assert joined.copied == ("1",)
    assert [(fold.fold, fold.state) for fold in joined.folds] == [("0", "validated"), ("1", "validated")]
    assert finalize("901", [second / below], root=first).copied == ()


def test_a_fold_that_cannot_be_copied_is_one_line_and_leaves_nothing(machines):
    first, second = machines
    source = FoldFolder.of(second, NAME, "default", 1).path
    (source / "dangling.txt").symlink_to(second / "nowhere")
    with pytest.raises(UserError, match=r"fold_1 cannot be copied: .*dangling\.txt") as caught:
        finalize("901", [source], root=first)
    assert len(caught.value.lines) == 1
    assert not FoldFolder.of(first, NAME, "default", 1).path.exists()


def test_a_folder_without_a_trained_fold_is_not_replaced(machines):
    first, second = machines
    target = FoldFolder.of(first, NAME, "default", 1)
    target.path.mkdir()
    target.plan.write_text("{}")
    with pytest.raises(UserError, match="fold_1 exists, but holds no trained fold"):
        finalize(NAME, [second], root=first)
    assert [one.name for one in target.path.iterdir()] == ["plan.json"]


def test_folds_that_do_not_fit_are_refused(machines):
    first, second = machines
    fold = FoldFolder.of(second, NAME, "default", 1)
    target = FoldFolder.of(first, NAME, "default", 1).path

    def refused(match):
        with pytest.raises(UserError, match=match):
            finalize(NAME, [second], root=first)
        assert not target.exists()

    plan_text = fold.plan.read_text()
    fields = json.loads(plan_text)
    fold.plan.write_text(json.dumps(fields | {"dataset": "Dataset007_Other"}))
    refused("is a fold of Dataset007_Other")
    fold.plan.write_text(json.dumps(fields | {"spacing": [2, 2, 2]}))
    refused("these folds are not an ensemble")
    fold.plan.write_text(plan_text)
    own = FoldFolder.of(first, NAME, "default", 0)
    shutil.copytree(own.path, second / "results" / NAME / "default" / "fold_0")
    shutil.copy(fold.checkpoint("latest"), second / "results" / NAME / "default" / "fold_0")
    refused("different trainings of one fold")
    shutil.rmtree(second / "results")
    shutil.copytree(own.path, fold.path)
    refused("is a copy of|both validated")
    shutil.rmtree(second / "results")
    (second / "results").mkdir()
    refused("holds no trained fold")
