"""The stored results of a data set, by preset: plan, training logs, scores, calibrations and masks."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from plans.choices import PRESETS
from plans.errors import UserError, printable
from plans.layout import ALL, FoldFolder, fold_folders
from plans.plan import Plan
from plans.raw.dataset import is_plain_name
from textdiffseg.evaluation.metrics import CaseScores
from textdiffseg.evaluation.summary import Summary
from textdiffseg.folds.calibration import Calibration, read_calibration
from textdiffseg.folds.changed import current_scores
from textdiffseg.folds.find import folders_below
from textdiffseg.folds.plans import plan_of_fold
from textdiffseg.training.log import EpochLog, read_log


@dataclass(frozen=True)
class FoldResults:
    """What one fold has stored."""

    folder: FoldFolder
    plan: Plan
    log: tuple[EpochLog, ...]
    summary: Summary | None  # None: its present weights are not validated
    calibration: Calibration | None

    @property
    def name(self) -> str:
        """`0`, `1`, ... or `all`."""
        return self.folder.name


@dataclass(frozen=True)
class PresetResults:
    """The folds of a preset, and their validation cases together."""

    name: str  # of its folder
    plan: Plan
    folds: tuple[FoldResults, ...]
    scores: Mapping[str, CaseScores]  # by validation case
    predicted_by: Mapping[str, FoldFolder]  # the fold, by validation case
    trained_on: bool  # the scored cases were training cases, too
    faults: tuple[str, ...] = ()  # lines on folds that cannot be read

    @property
    def summaries(self) -> dict[str, Summary]:
        """The summaries that the scores come from, by fold: held-out ones, else that of the fold trained on all."""
        found = {fold.name: fold.summary for fold in self.folds if fold.summary is not None}
        return {name: one for name, one in found.items() if name != ALL} or found

    @property
    def cases(self) -> tuple[CaseScores, ...]:
        """The scores of all validation cases, sorted by case."""
        return tuple(self.scores[case] for case in sorted(self.scores))


def read_preset(folder: Path) -> PresetResults | None:
    """The results in a folder with folds; None if no fold has a plan. `UserError` if none of them can be read."""
    folds: list[FoldResults] = []
    errors: list[UserError] = []
    for fold_folder in filter(lambda fold: fold.plan.is_file(), fold_folders(folder)):
        try:
            folds.append(_read_fold(fold_folder))
        except UserError as error:
            errors.append(error)
    if not folds and errors:
        raise errors[0]
    if not folds:
        return None
    scored = [fold for fold in folds if fold.summary is not None]
    honest = [fold for fold in scored if fold.name != ALL]
    scores: dict[str, CaseScores] = {}
    predicted_by: dict[str, FoldFolder] = {}
    for fold in honest or scored:
        for case in fold.summary.cases if fold.summary else ():
            scores.setdefault(case.case, case)
            predicted_by.setdefault(case.case, fold.folder)
    faults = tuple(line for error in errors for line in error.lines)
    is_trained_on = bool(scored) and not honest
    return PresetResults(folder.name, folds[0].plan, tuple(folds), scores, predicted_by, is_trained_on, faults)


def read_presets(folder: Path) -> tuple[dict[str, PresetResults], dict[str, UserError]]:
    """The presets in the folder of a data set, by folder name, and the errors of those that cannot be read.

    They have the order of `PRESETS`.
    """
    paths = folders_below(folder, 1) if folder.is_dir() else []
    found: dict[str, PresetResults] = {}
    faults: dict[str, UserError] = {}
    for path in paths:
        try:
            if not is_plain_name(path.name) and fold_folders(path):
                raise UserError(f"{printable(str(path))}: not a plain name. Rename the folder.")
            if (preset := read_preset(path)) is not None:
                found[path.name] = preset
        except UserError as error:
            faults[printable(path.name)] = error
    ordered = sorted(found.values(), key=lambda preset: (PRESETS.index(preset.plan.preset), preset.name))
    return {preset.name: preset for preset in ordered}, faults


def left_out(presets: Mapping[str, PresetResults], errors: Mapping[str, UserError]) -> tuple[str, ...]:
    """A line for each fault of the presets and folds that `read_presets` could not read."""
    of_presets = [line for error in errors.values() for line in error.lines]
    of_folds = [line for one in presets.values() for line in one.faults]
    return tuple(f"Left out: {line}" for line in (*of_presets, *of_folds))


def _read_fold(fold: FoldFolder) -> FoldResults:
    return FoldResults(
        folder=fold,
        plan=plan_of_fold(fold),
        log=tuple(read_log(fold.log)),
        summary=current_scores(fold),
        calibration=read_calibration(fold) if fold.calibration.is_file() else None,
    )
