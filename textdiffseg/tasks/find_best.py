"""`find_best`: compare the trained models of a data set on their validation cases, and choose the best.

Candidates are all presets and resolutions, and each pair of models that can be averaged. All are compared on the
validation cases that every model has. The single model with the highest mean Dice is the best one. A pair takes twice
the time, so it is chosen only if its gain is certain: the 95% interval of the paired difference lies above 0, over at
least `MIN_CASES` cases. Scores are compared without postprocessing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Literal

from plans.commands import command_line
from plans.errors import UserError, listed
from plans.layout import ALL, FoldFolder, PreprocessedFolder, averaged_folder, averaged_scores, best_models, tree
from plans.records import Record
from textdiffseg.arguments import path_of
from textdiffseg.data.checks import check_cases
from textdiffseg.evaluation.comparison import compare
from textdiffseg.evaluation.means import mean_of_defined
from textdiffseg.evaluation.metrics import CaseScores
from textdiffseg.files import hash_files, write_record
from textdiffseg.folds.best import BestModels, Candidate, validated_weights, why_not_averaged
from textdiffseg.folds.changed import changes
from textdiffseg.folds.ensemble import chosen_folds
from textdiffseg.folds.package import has_identifiers
from textdiffseg.folds.plans import plan_of_fold
from textdiffseg.folds.postprocessing import Postprocessing, postprocessing_of
from textdiffseg.leftovers import sweep
from textdiffseg.pace import Forecast
from textdiffseg.progress import Cancel, OnProgress, Report, StepProgress, never, share_of, silent, step_reporter
from textdiffseg.report.results import FoldResults, PresetResults, left_out, read_presets
from textdiffseg.resources import choose_device
from textdiffseg.tasks.status import name_of
from textdiffseg.validation.averaged import score_averaged

MIN_CASES = 6  # for the gain of a pair; the interval of two gains would nearly always lie on one side of 0
Scores = Mapping[str, CaseScores]
Key = tuple[str, ...]  # the names of a candidate's models


class AveragedScores(Record):
    """The scores of several averaged models, `averaged/A+B.json`."""

    version: Literal[1] = 1
    folds: dict[str, str]  # by MODEL/fold_N, hash of its checkpoint, its sampling and its scores
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
    root = path_of(root)
    name = name_of(str(dataset), root)
    results = tree(root, "results") / name
    models = _validated(results, root, name, report)
    cases = sorted(_common(models))
    scored: dict[Key, Scores] = {(key,): one.scores for key, one in models.items()}
    if pairs:
        source = PreprocessedFolder(tree(root, "preprocessed") / name)
        scored |= _Averaging(results, source, device, report, progress, cancel).do(models, cases)
    chosen, candidates = _choose(scored, cases)
    made_of = validated_weights(results, {key for candidate in candidates for key in candidate.models})
    record = BestModels(dataset=name, models=chosen, cases=len(cases), candidates=candidates, folds=made_of)
    sweep([results, averaged_folder(results)])
    write_record(best_models(results), record)
    steps = postprocessing_of([[fold.folder for fold in models[key].folds] for key in chosen])
    return ModelChoice(record, tuple(results / key for key in chosen), best_models(results), steps)


def _choose(scored: Mapping[Key, Scores], cases: Sequence[str]) -> tuple[Key, tuple[Candidate, ...]]:
    """The chosen candidate, and all of them, the best first."""
    single = [key for key in scored if len(key) == 1]
    best = max(single, key=lambda key: _mean(scored[key], cases, "dice"))
    candidates = {key: _candidate(key, scores, best, scored[best], cases) for key, scores in scored.items()}
    certain = [
        key
        for key, one in candidates.items()
        if len(key) > 1 and len(cases) >= MIN_CASES and one.interval_95 is not None and one.interval_95[0] > 0
    ]
    chosen = max(certain, key=lambda key: candidates[key].dice or 0.0, default=best)
    return chosen, tuple(sorted(candidates.values(), key=lambda candidate: candidate.dice or 0.0, reverse=True))


def _validated(results: Path, root: Path, name: str, report: Report) -> dict[str, PresetResults]:
    """The models with validated folds, by folder name, that have the same labels and common validation cases."""
    presets, errors = read_presets(results)
    for line in left_out(presets, errors):
        report(line)
    presets = {key: one for key, one in presets.items() if not one.faults}  # a prediction needs all folds
    models: dict[str, PresetResults] = {}
    for key, one in presets.items():
        for fold in one.folds:
            for line in changes(fold.folder):
                report(f"Note: {line}")
        waiting = [fold for fold in one.folds if fold.name != ALL and fold.summary is None]
        if waiting:
            names = listed([fold.name for fold in waiting])
            report(f"{key}: fold {names} is not validated, so its cases are not compared.")
            one = _without(one, waiting)
        if not one.scores or one.trained_on:
            report(f"Left out: {key} has no validated fold of the cross-validation.")
        elif len(presets) > 1 and (nameless := [fold for fold in one.folds if not has_identifiers(fold.folder)]):
            names = listed([fold.name for fold in nameless])
            report(f"Left out: {key} has no ids of the cases of fold {names}. Export it with --keep-identifiers.")
        elif models and (one.plan.labels, one.plan.value_numbers) != _labels(models):
            report(f"Left out: {key} has other labels than {listed(list(models))}.")
        elif models and not _common(models) & {*one.scores}:
            report(f"Left out: {key} has no validation case in common with {listed(list(models))}.")
        else:
            models[key] = one
    if not models:
        raise UserError(
            f"{results} has no validated model to compare. Train one first: {command_line('tds_run', name, root=root)}."
        )
    return models


def _labels(models: Mapping[str, PresetResults]) -> tuple[object, object]:
    """The labels of the models, which are equal, and how they overlap."""
    plan = next(iter(models.values())).plan
    return plan.labels, plan.value_numbers


def _without(model: PresetResults, folds: Sequence[FoldResults]) -> PresetResults:
    """The model without the scores of some folds."""
    left_out = {fold.folder for fold in folds}
    scores = {case: one for case, one in model.scores.items() if model.predicted_by[case] not in left_out}
    return replace(model, scores=scores)


def _common(models: Mapping[str, PresetResults]) -> set[str]:
    """The validation cases that all models have."""
    return set[str].intersection(*({*model.scores} for model in models.values()))


def _mean(scores: Scores, cases: Sequence[str], field: str) -> float:
    """The mean score of cases, each the mean over its labels; 0 if none is defined."""
    means = (mean_of_defined(getattr(score, field) for score in scores[case].labels.values()) for case in cases)
    return mean_of_defined(means) or 0.0


def _candidate(key: Key, scores: Scores, best: Key, best_scores: Scores, cases: Sequence[str]) -> Candidate:
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

    def do(self, models: Mapping[str, PresetResults], cases: Sequence[str]) -> dict[Key, Scores]:
        """The scores of each pair that can be averaged, by the models' names."""
        found: dict[Key, Scores] = {}
        for pair in combinations(models, 2):
            try:
                found[pair] = self._scores(pair, models, cases)
            except UserError as error:
                self.report(f"{' and '.join(pair)} are not averaged: {' '.join(error.lines)}")
        return found

    def _scores(self, pair: Key, models: Mapping[str, PresetResults], cases: Sequence[str]) -> Scores:
        """The scores of a pair by case, stored after each pair of folds. `UserError` if it cannot be averaged."""
        if why := why_not_averaged([models[key].plan for key in pair]):
            raise UserError(f"Their plans differ in {why}.")
        first, second = ([fold.name for fold in chosen_folds(self.results / key, None, "best")] for key in pair)
        if len(first) != len(second):  # a prediction averages all folds, so one model would count more than here
            raise UserError(f"They have other folds: {listed(first)} and {listed(second)}.")
        folds = [models[key].predicted_by for key in pair]
        groups: dict[tuple[Path, ...], list[str]] = {}  # cases that the same two folds were not trained on
        for case in cases:
            groups.setdefault(tuple(of[case].path for of in folds), []).append(case)
        made = {f"{path.parent.name}/{path.name}": _hash_of(FoldFolder(path)) for group in groups for path in group}
        place = averaged_scores(self.results, pair)
        stored = AveragedScores.read(place) if place.is_file() else None
        scores = {one.case: one for one in stored.cases} if stored is not None and stored.folds == made else {}
        progress = self._steps(f"Average {' and '.join(pair)}")
        for group, own in groups.items():
            if missing := [case for case in own if case not in scores]:
                places, device = [FoldFolder(path) for path in group], choose_device(self.device)
                part = share_of(progress, len(scores) / len(cases), len(missing) / len(cases), len(cases))
                found = score_averaged(places, self._stored(places, missing), missing, device, part)
                scores |= {case.case: case for case in found}
                write_record(place, AveragedScores(folds=made, cases=tuple(scores.values())))
        return scores

    def _stored(self, folds: Sequence[FoldFolder], cases: Sequence[str]) -> Path:
        """The folder of the cases at the folds' resolution. `UserError` if they do not fit the folds' plans."""
        plans = [plan_of_fold(fold) for fold in folds]
        folder = self.preprocessed.at(plans[0].preset, plans[0].resolution).path
        for plan in plans:
            check_cases(folder, cases, plan)
        return folder

    def _steps(self, stage: str) -> StepProgress:
        """A callback that reports the cases that are done, and stops the work if `cancel` returns True."""
        stopped = f"{stage}: stopped. Call it again: finished folds are not repeated."
        return step_reporter(self.progress, self.cancel, stage, "case", stopped, forecast=Forecast(stage, self.report))


def _hash_of(fold: FoldFolder) -> str:
    """The hash of what the scores of a fold depend on: weights, sampling, and its own scores of the same references."""
    return hash_files([file for file in (fold.checkpoint("best"), fold.sampling, fold.summary) if file.is_file()])
