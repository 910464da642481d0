"""`find_best`: compare the trained models of a data set on their validation cases, and choose the best.

Candidates are all presets and resolutions, and each pair of models that can be averaged. All are compared on the
validation cases that every model has. The single model with the highest mean Dice is the best one. A pair takes twice
the time, so it is chosen only if its gain is certain: the 95% interval of the paired difference lies above 0.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

from plans.commands import command_line
from plans.errors import UserError, listed
from plans.layout import FoldFolder, PreprocessedFolder, averaged_scores, best_models, tree
from plans.records import Record
from textdiffseg.data.splits import ALL
from textdiffseg.evaluation.comparison import compare
from textdiffseg.evaluation.means import mean_of_defined
from textdiffseg.evaluation.metrics import CaseScores
from textdiffseg.files import write_record
from textdiffseg.folds.best import BestModels, Candidate, why_not_averaged
from textdiffseg.folds.postprocessing import Postprocessing, choose_postprocessing, read_postprocessing
from textdiffseg.folds.state import is_validated
from textdiffseg.folds.weights import hash_weights
from textdiffseg.pace import Forecast
from textdiffseg.progress import Cancel, Cancelled, OnProgress, ProgressEvent, Report, never, silent
from textdiffseg.report.results import PresetResults, read_presets
from textdiffseg.resources import choose_device
from textdiffseg.tasks.status import name_of
from textdiffseg.validation.averaged import score_averaged
from textdiffseg.validation.cases import WindowProgress

Scores = Mapping[str, CaseScores]


class AveragedScores(Record):
    """The scores of several averaged models, `ensembles/A+B.json`."""

    version: Literal[1] = 1
    weights: dict[str, str]  # hash of each fold's checkpoint, by MODEL/fold_N
    cases: tuple[CaseScores, ...]


@dataclass(frozen=True)
class ModelChoice:
    """The chosen models of a data set, and what was compared."""

    record: BestModels
    folders: tuple[Path, ...]  # of the chosen models
    file: Path  # `best.json`
    postprocessing: Mapping[str, Postprocessing]  # of the chosen models, by label


def find_best(
    dataset: str | Path,
    *,
    root: str | Path = ".",
    pairs: bool = True,
    device: str | None = None,
    report: Report = silent,
    progress: OnProgress = silent,
    cancel: Cancel = never,
) -> ModelChoice:
    """Compare the trained models of a data set, and write the choice where prediction finds it.

    Pairs of models are predicted on the validation cases. Their scores are kept, so a second call is fast.

    Args:
        dataset: id, name or folder's name.
        root: the folder that holds preprocessed/ and results/.
        pairs: whether pairs of models are averaged and compared, too.
        device: "cpu" or "cuda", for pairs; None: cuda if there is a GPU.

    Raises `UserError` if no model is validated.
    """
    root = Path(root)
    name = name_of(str(dataset), root)
    results = tree(root, "results") / name
    models = _validated(results, root, name, report)
    cases = sorted(_common(models))
    scored: dict[tuple[str, ...], Scores] = {(key,): one.scores for key, one in models.items()}
    best = max(scored, key=lambda key: _mean(scored[key], cases, "dice"))
    if pairs:
        source = PreprocessedFolder(tree(root, "preprocessed") / name)
        scored |= _Averaging(results, source, device, report, progress, cancel).do(models, cases)
    candidates = {key: _candidate(key, scores, best, scored[best], cases) for key, scores in scored.items()}
    certain = [key for key, one in candidates.items() if one.interval_95 is not None and one.interval_95[0] > 0]
    chosen = max(certain, key=lambda key: candidates[key].dice or 0.0, default=best)
    ordered = sorted(candidates.values(), key=lambda one: one.dice or 0.0, reverse=True)
    record = BestModels(dataset=name, models=chosen, cases=len(cases), candidates=tuple(ordered))
    write_record(best_models(results), record)
    steps = [read_postprocessing(fold.folder, "best") for key in chosen for fold in models[key].folds]
    folders = tuple(results / key for key in chosen)
    return ModelChoice(record, folders, best_models(results), choose_postprocessing(steps))


def _validated(results: Path, root: Path, name: str, report: Report) -> dict[str, PresetResults]:
    """The models with validated folds, by folder name, that share validation cases with the first one."""
    presets, faults = read_presets(results)
    for error in faults.values():
        for line in error.lines:
            report(f"Left out: {line}")
    models: dict[str, PresetResults] = {}
    for key, one in presets.items():
        if waiting := [fold.name for fold in one.folds if fold.name != ALL and not is_validated(fold.folder)]:
            report(f"{key}: fold {listed(waiting)} is not validated, so its cases are not compared.")
        if not one.scores or one.trained_on:
            report(f"Left out: {key} has no validated fold of the cross-validation.")
        elif models and not _common(models) & {*one.scores}:
            report(f"Left out: {key} has no validation case in common with {listed(list(models))}.")
        else:
            models[key] = one
    if not models:
        raise UserError(
            f"{results} has no validated model to compare. Train one first: {command_line('tds_run', name, root=root)}."
        )
    return models


def _common(models: Mapping[str, PresetResults]) -> set[str]:
    """The validation cases that all models have."""
    return set[str].intersection(*({*one.scores} for one in models.values()))


def _mean(scores: Scores, cases: Sequence[str], field: str) -> float:
    """The mean score of cases, each the mean over its labels; 0 if none is defined."""
    means = (mean_of_defined(getattr(one, field) for one in scores[case].labels.values()) for case in cases)
    return mean_of_defined(means) or 0.0


def _candidate(
    key: tuple[str, ...], scores: Scores, best: tuple[str, ...], best_scores: Scores, cases: Sequence[str]
) -> Candidate:
    """The row of a candidate: its mean scores, and its difference to the best single model."""
    means = Candidate(models=key, dice=_mean(scores, cases, "dice"), nsd=_mean(scores, cases, "nsd"))
    if key == best:
        return means
    own, other = ([one[case] for case in cases] for one in (scores, best_scores))
    dice = compare(own, other, "+".join(best)).mean["dice"]
    return means.model_copy(update={"difference": dice.difference, "interval_95": dice.interval_95})


@dataclass(frozen=True)
class _Averaging:
    """The scores of pairs of models, which are predicted as far as they are not stored."""

    results: Path
    preprocessed: PreprocessedFolder
    device: str | None
    report: Report
    progress: OnProgress
    cancel: Cancel

    def do(self, models: Mapping[str, PresetResults], cases: Sequence[str]) -> dict[tuple[str, ...], Scores]:
        """The scores of each pair that can be averaged, by the models' names."""
        found: dict[tuple[str, ...], Scores] = {}
        for pair in combinations(models, 2):
            names = " and ".join(pair)
            if why := why_not_averaged([models[key].plan for key in pair]):
                self.report(f"{names} cannot be averaged: their plans differ in {why}.")
            elif not self.preprocessed.cases.is_dir():
                self.report(f"{names} are not averaged: {self.preprocessed.cases} is not there.")
            else:
                found[pair] = self._scores(pair, models, cases)
        return found

    def _scores(self, pair: tuple[str, ...], models: Mapping[str, PresetResults], cases: Sequence[str]) -> Scores:
        """The scores of a pair by case. They are stored after each pair of folds."""
        folds = [models[key].predicted_by for key in pair]
        groups: dict[tuple[Path, ...], list[str]] = {}  # cases that the same two folds were not trained on
        for case in cases:
            groups.setdefault(tuple(of[case].path for of in folds), []).append(case)
        weights = {f"{path.parent.name}/{path.name}": _weights(path) for group in groups for path in group}
        place = averaged_scores(self.results, pair)
        stored = AveragedScores.read(place) if place.is_file() else None
        scores = {one.case: one for one in stored.cases} if stored is not None and stored.weights == weights else {}
        follow = self._follow(f"Average {' and '.join(pair)}", len(cases))
        for group, own in groups.items():
            if missing := [case for case in own if case not in scores]:
                device = choose_device(self.device)
                places = [FoldFolder(path) for path in group]
                done = follow(len(scores), len(missing))
                found = score_averaged(places, self.preprocessed.path, missing, device, done)
                scores |= {one.case: one for one in found}
                write_record(place, AveragedScores(weights=weights, cases=tuple(scores.values())))
        return scores

    def _follow(self, stage: str, total: int) -> Callable[[int, int], WindowProgress]:
        """A function of (cases done before, cases of a step) that gives the progress of the step."""
        forecast = Forecast(stage, self.report)

        def of_step(before: int, count: int) -> WindowProgress:
            def after(done: float, of: float) -> None:
                overall = before + count * done / of
                self.progress(ProgressEvent(stage, overall, total, "case"))
                forecast(overall, total)
                if self.cancel():
                    raise Cancelled(f"{stage}: stopped. Call it again: finished folds are not repeated.")

            return after

        return of_step


def _weights(fold: Path) -> str:
    return hash_weights(FoldFolder(fold), "best") or ""
