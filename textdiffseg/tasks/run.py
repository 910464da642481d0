"""Do what is not done yet: plan, preprocess, train and validate each fold, report. A second call goes on."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from plans.choices import PRESETS, Preset
from plans.commands import command_line
from plans.errors import UserError, listed
from plans.layout import REPORT, FoldFolder, PreprocessedFolder, model_folder
from plans.raw.folders import find_folder
from textdiffseg.arguments import check_choice, path_of, several
from textdiffseg.data.splits import read_stored_splits
from textdiffseg.data.store import list_cases
from textdiffseg.extras import require
from textdiffseg.folds.agreement import differences
from textdiffseg.folds.cases import FoldCases, refuse_other_cases
from textdiffseg.folds.lock import Busy
from textdiffseg.folds.plans import plan_of_dataset, plan_of_fold
from textdiffseg.folds.state import is_validated
from textdiffseg.pace import duration
from textdiffseg.progress import Cancel, OnProgress, Report, never, silent
from textdiffseg.tasks.damage import damage_of
from textdiffseg.tasks.earlier_plan import earlier_options, why_plan
from textdiffseg.tasks.fold_status import FoldStatus, train_status
from textdiffseg.tasks.plan import PlannedDataset, plan
from textdiffseg.tasks.report import refuse_other_page, write_report
from textdiffseg.tasks.started import refuse_changed_plan
from textdiffseg.tasks.status import TRAINING_SHARE, fold_names
from textdiffseg.tasks.train import train
from textdiffseg.text.bank import TextBank
from textdiffseg.text.stored import stored_words
from textdiffseg.training.options import TrainingOptions
from textdiffseg.training.setup import TooShort
from textdiffseg.training.tracking import require_tracker

MIN_SECONDS = 20.0  # of training; with less, a fold is left for the next call


class TooFewHours(UserError):
    """The hours are too few for a fold."""


@dataclass(frozen=True)
class RunOutcome:
    """The state of all chosen folds after a run."""

    root: Path
    dataset: str
    preset: Preset
    model: Path  # the folder of the folds
    planned: PlannedDataset | None  # None: it was planned before
    folds: tuple[FoldStatus, ...]
    page: Path | None  # the report; None: no fold is validated yet

    @property
    def is_complete(self) -> bool:
        """Whether all chosen folds are trained and validated."""
        return all(fold.state == "validated" for fold in self.folds)


def run(
    dataset: str | Path,
    *,
    root: str | Path = ".",
    hours: float | None = None,
    folds: Sequence[int | str] = (),
    preset: Preset = "default",
    options: TrainingOptions | None = None,
    report: Report = silent,
    progress: OnProgress = silent,
    cancel: Cancel = never,
) -> RunOutcome:
    """The folds of a data set, after everything that was not done yet is done.

    Args:
        dataset: id, name, folder's name or path; `4+101`: two data sets as one.
        root: the folder that holds raw/, preprocessed/ and results/.
        hours: of this call after planning, shared by the folds that are not trained; None: the plan's lengths.
        folds: to train; (): all of the cross-validation.
        preset: of the plan.
        options: of the training; its length is replaced.

    A fold that was interrupted keeps its length. A fold that another process trains is left to it. If a fold cannot be
    trained, the others are, and its error is raised at the end. Raises `UserError` for faults of the data, for finished
    folds of another plan, and if the hours are too few.
    """
    require("train", "tds_run")
    options = options or TrainingOptions()
    require_tracker(options.track)
    check_choice("preset", preset, PRESETS)
    root = path_of(root)
    planned = _planned(str(dataset), root, preset, report, progress, cancel)
    source = PreprocessedFolder(find_folder(str(dataset), root, "preprocessed")) if planned is None else planned.folder
    name = source.path.name
    if planned is None:
        report(f"{name} is planned for preset {preset}, and {len(list_cases(source.path))} cases are stored.")
    chosen = _chosen(source, several(folds))
    work = _Work(root, name, preset, options, report, progress, cancel)
    _refuse_other_folds(source, {fold: work.folder(fold) for fold in chosen}, preset)
    model = model_folder(root, name, preset)
    page = model.with_name(REPORT)
    refuse_other_page(page)
    faults = work.all(chosen, None if hours is None else time.monotonic() + 3600 * hours)
    states = tuple(work.status(fold) for fold in chosen)
    if any(state.state == "validated" for state in states):
        faults += _report_faults(name, page, root, preset)
    if faults:
        raise UserError(*dict.fromkeys(faults))
    return RunOutcome(root, name, preset, model, planned, states, page if page.is_file() else None)


def _report_faults(name: str, page: Path, root: Path, preset: Preset) -> tuple[str, ...]:
    """Write the report; returns the lines of an error."""
    try:
        write_report(name, page, root=root, preset=preset)
    except UserError as error:
        return error.lines
    except OSError as error:
        return (f"{page}: {error.strerror}. The report is not written.",)
    return ()


def _planned(
    dataset: str, root: Path, preset: Preset, report: Report, progress: OnProgress, cancel: Cancel
) -> PlannedDataset | None:
    """The data set, planned now with the options of an earlier plan; None: it was planned before."""
    why = why_plan(dataset, root, preset)
    if why is None:
        return None
    report(why)
    options = earlier_options(dataset, root, preset)
    planned = plan(dataset, root=root, preset=preset, report=report, progress=progress, cancel=cancel, **options)
    for note in planned.notes:
        report(note)
    return planned


def _refuse_other_folds(source: PreprocessedFolder, folds: Mapping[str, FoldFolder], preset: Preset) -> None:
    """Raise `UserError` for finished folds of an earlier plan, or of other cases. They fit no ensemble."""
    faults, splits, plan = list[str](), read_stored_splits(source.splits), plan_of_dataset(source, preset)
    words = TextBank.load(stored_words(source, plan)).words
    for name, fold in folds.items():
        if damage_of(fold) is not None or not fold.plan.is_file() or not is_validated(fold):
            continue  # a damaged one is left out later
        try:
            of_fold = plan_of_fold(fold)
            split = splits.split(name)
            refuse_changed_plan(fold, of_fold, source, preset)
            refuse_other_cases(fold, FoldCases.of(source.dataset, split.train, split.validation))
            fields = [field for field in differences(of_fold, plan) if field != "patch"]  # it may have been fitted
            if TextBank.load(fold.words).words != words:
                faults.append(f"{fold.path} was trained with other phrasings than {source.path} has now.")
            elif fields:
                faults.append(f"{fold.path} was trained with a plan with other {listed(fields)} than the present one.")
        except UserError as error:
            faults += error.lines
    if faults:
        again = command_line("tds_train", source.dataset, "FOLD", "--restart", preset=preset)
        advice = f"Such folds fit no ensemble of the others. Undo the change, or train them again: {again}."
        raise UserError(*faults, advice)


def _chosen(source: PreprocessedFolder, folds: Sequence[int | str]) -> tuple[str, ...]:
    """The names of the folds to train. Raises `UserError` for a fold that does not exist."""
    splits = read_stored_splits(source.splits)
    for fold in folds:
        splits.split(fold)
    return tuple(dict.fromkeys(map(str, folds))) or fold_names(source)


@dataclass(frozen=True)
class _Work:
    """The training of folds, one after the other."""

    root: Path
    dataset: str
    preset: Preset
    options: TrainingOptions
    report: Report
    progress: OnProgress
    cancel: Cancel

    def folder(self, fold: str) -> FoldFolder:
        """The folder of a fold."""
        return FoldFolder.of(self.root, self.dataset, self.preset, fold)

    def status(self, fold: str) -> FoldStatus:
        """The present state of a fold."""
        now = train_status(self.root, self.dataset, self.preset, "full", fold)
        command = command_line("tds_run", self.dataset, "--folds", fold, preset=self.preset, root=self.root)
        return replace(now, command=command) if now.is_open else now

    def all(self, chosen: Sequence[str], end: float | None) -> list[str]:
        """Do all folds. Returns the lines of errors that stopped single folds; the others are still trained.

        Raises `TooFewHours` only if this call has done nothing before.
        """
        faults, trained = list[str](), False
        for fold in chosen:
            try:
                trained = self.do(fold, chosen, end) or trained
            except TooFewHours:
                if not (trained or faults):
                    raise
                self._no_time(fold)
            except Busy:
                self.report(f"Fold {fold}: another process is at work. It is left to that process.")
            except UserError as error:
                self.report(f"Fold {fold} is left out: {error.lines[0]}")
                faults += error.lines
        return faults

    def _no_time(self, fold: str) -> None:
        self.report(f"Fold {fold}: no time is left for it.")

    def _skip(self, now: FoldStatus) -> bool:
        """Whether nothing is to do here for a fold. Raises `UserError` if one of its files is damaged."""
        if now.state == "damaged":
            raise UserError(now.error or f"Fold {now.fold} is damaged.")
        if now.state == "validated":
            dice = "none" if now.dice is None else f"{now.dice:.3f}"
            self.report(f"Fold {now.fold} is trained and validated (mean Dice {dice}).")
        if now.state == "running":
            where = "" if now.host is None else f" on {now.host}, process {now.process}"
            self.report(f"Fold {now.fold} is in training elsewhere{where}. It is left to that process.")
        return now.state in ("validated", "running")

    def do(self, fold: str, chosen: Sequence[str], end: float | None) -> bool:
        """Train and validate a fold, as far as that is not done. False: nothing was done.

        end: of the call, on the monotonic clock.
        """
        now = self.status(fold)
        if self._skip(now):
            return False
        options = replace(self.options, epochs=None, max_minutes=None)
        only_best = now.state == "trained" and not self.folder(fold).checkpoint("latest").is_file()
        if end is not None and now.iterations and now.state == "interrupted":
            left, rest = now.seconds_left or 0.0, end - time.monotonic()
            if rest < MIN_SECONDS:
                self._no_time(fold)
                return False
            if left > rest:
                self.report(f"Fold {fold} keeps its length: about {duration(left)} of training, beyond the hours.")
        if end is not None and now.state != "trained" and not now.iterations:
            seconds = self._share([self.status(name) for name in chosen[chosen.index(fold) :]], end - time.monotonic())
            if seconds < MIN_SECONDS:
                self._no_time(fold)
                return False
            self.report(f"Fold {fold}: its share of the hours is {duration(seconds)} of training.")
            options = replace(options, max_minutes=seconds / 60)
        try:
            train(
                self.dataset,
                fold,
                root=self.root,
                options=options,
                preset=self.preset,
                only_validate=only_best,
                report=self.report,
                progress=self.progress,
                cancel=self.cancel,
            )
        except TooShort as error:
            open_folds = sum(self.status(name).is_open for name in chosen)
            hours = math.ceil(10 * open_folds * error.needed_minutes / TRAINING_SHARE / 60 - 1e-6) / 10
            raise TooFewHours(
                f"Fold {fold}: its share of the hours is too short. On this machine, now, a fold needs about "
                f"{duration(60 * error.needed_minutes)} to learn anything. Give --hours {hours:g}, or fewer --folds."
            ) from None
        return True

    def _share(self, folds: Sequence[FoldStatus], left: float) -> float:
        """The seconds of training for the first of the folds that are left. With little time, fewer folds share it."""
        new = sum(fold.state in ("not begun", "interrupted") and not fold.iterations for fold in folds)
        resumed = sum(fold.seconds_left or 0.0 for fold in folds if fold.state == "interrupted")
        seconds = TRAINING_SHARE * left - resumed
        return seconds / max(1, min(new, int(seconds / MIN_SECONDS)))
