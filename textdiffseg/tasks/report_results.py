"""The sections of a report on a data set: scores, cases, calibration, training, data and plan, as far as stored."""

from dataclasses import dataclass
from pathlib import Path

from plans.choices import PRESETS
from plans.errors import UserError, listed
from plans.fingerprint import CaseFingerprint, Fingerprint
from plans.layout import FOLD, PreprocessedFolder, root_of, tree
from plans.plan import Plan
from plans.raw.combined import cases_of
from plans.raw.dataset import read_dataset
from plans.raw.folders import find_datasets, joined_ids
from textdiffseg.arguments import path_of
from textdiffseg.evaluation.summary import Summary, summarise
from textdiffseg.folds.plans import plan_of_dataset
from textdiffseg.folds.postprocessing import listing_of, postprocessing_of
from textdiffseg.progress import OnProgress, ProgressEvent, Report, silent
from textdiffseg.report.calibration import calibration_section
from textdiffseg.report.cases import cases_table, chosen, sentence
from textdiffseg.report.comparison import comparisons
from textdiffseg.report.dataset import dataset_section
from textdiffseg.report.overlays import legend, overlay
from textdiffseg.report.page import Html, Section, join, notes, paragraphs, tiles
from textdiffseg.report.plan import plan_section, training_section
from textdiffseg.report.results import PresetResults, left_out, read_presets
from textdiffseg.report.scores import box_plots, lesions, number, scores_table, volumes
from textdiffseg.report.shown import validation_case
from textdiffseg.report.viewer import ViewedCase
from textdiffseg.tasks.status import name_of

Paths = dict[str, tuple[Path, ...]]


@dataclass(frozen=True)
class Results:
    """Where the report finds a data set."""

    root: Path
    plan: Plan  # of the preset that is shown in detail
    preprocessed: PreprocessedFolder | None  # None: the folder is not there
    main: PresetResults | None  # None: nothing is trained
    others: tuple[PresetResults, ...]
    faults: tuple[str, ...] = ()  # lines on presets and folds that cannot be read


def find_results(source: str | Path, root: Path, preset: str | None, report: Report = silent) -> Results:
    """The results of a data set (id, name, folder name), or in a folder. Raises `UserError` if there are none.

    report: called with a sentence for each preset or fold that cannot be read.
    """
    folder, only = _folder_of_results(path_of(source))
    if folder is None:
        name = name_of(str(source), root)
        place = PreprocessedFolder(tree(root, "preprocessed") / name)
        folder = tree(root, "results") / name
    presets, errors = read_presets(folder)
    main = _main(presets, errors, preset or only, folder)
    if main is None:
        return Results(root, _planned(place, preset), place, None, ())
    above = root_of(main.folds[0].folder) or root
    place = PreprocessedFolder(tree(above, "preprocessed") / main.plan.dataset)
    others = (other for other in presets.values() if other is not main and other.plan.dataset == main.plan.dataset)
    faults = left_out(presets, errors)
    for line in faults:
        report(line)
    return Results(above, main.plan, place if place.path.is_dir() else None, main, tuple(others), faults)


def _folder_of_results(path: Path) -> tuple[Path | None, str | None]:
    """The folder with the presets of a data set, and the preset that the path names. (None, None): no results."""
    if path.name.startswith(FOLD) and path.is_dir():
        path = path.resolve().parent
    if any(path.glob(f"{FOLD}*")):
        return path.absolute().parent, path.absolute().name
    return (path.absolute(), None) if any(path.glob(f"*/{FOLD}*")) else (None, None)


def _main(
    presets: dict[str, PresetResults], errors: dict[str, UserError], wanted: str | None, folder: Path
) -> PresetResults | None:
    """The preset that is shown in detail: the wanted one, else the first with scores, else the first.

    None if none is trained. Raises `UserError` if it cannot be read, or is not there.
    """
    if wanted in errors or (errors and not presets):
        raise errors[wanted] if wanted in errors else next(iter(errors.values()))
    if wanted is None:
        return next((preset for preset in presets.values() if preset.scores), next(iter(presets.values()), None))
    found = presets.get(wanted) or next((preset for preset in presets.values() if preset.plan.preset == wanted), None)
    if found is None and presets:
        raise UserError(f"--preset {wanted}: {folder} does not hold it. Trained there: {listed(list(presets))}.")
    return found


def _planned(place: PreprocessedFolder, preset: str | None) -> Plan:
    """The plan of a data set that is not trained."""
    preset = preset or next((planned for planned in PRESETS if place.plan(planned).is_file()), None)
    if preset is None:
        raise UserError(f"{place.path} has no plan. Run tds_plan_and_preprocess first.")
    return plan_of_dataset(place, preset)


def results_sections(results: Results, progress: OnProgress = silent) -> tuple[list[Section], list[ViewedCase]]:
    """All sections but the viewer, and the cases for the viewer."""
    sections: list[Section | None] = []
    shown: list[ViewedCase] = []
    main = results.main
    if main is None or not main.scores:
        sections.append(_unscored(results))
    else:
        cases, shown = _cases_section(results, main, progress)
        sections += [_scores_section(main, results), cases, calibration_section(main)]
    if main is not None:
        sections.append(training_section((main, *results.others)))
    fingerprint = None if results.preprocessed is None else _fingerprint(results.preprocessed, results.plan)
    if fingerprint is not None:
        sections.append(dataset_section(fingerprint, results.plan))
    sections.append(plan_section(results.plan))
    return [section for section in sections if section is not None], shown


def _unscored(results: Results) -> Section:
    started = results.main is not None
    why = "Training has started, and the validation is not finished." if started else "Nothing is trained yet."
    sentence = paragraphs(f"{why} Run tds_train {results.plan.dataset} 0 for scores.")
    return Section("scores", "Scores", join((sentence, notes(results.faults))))


def _scores_section(main: PresetResults, results: Results) -> Section:
    others = [other for other in results.others if other.scores]
    compared = [other for other in others if not (main.trained_on or other.trained_on)]
    apart = [other.name for other in others if other not in compared]
    whole = summarise(main.cases)
    by_fold = ", ".join(f"fold {name}: {number(summary.mean.dice)}" for name, summary in main.summaries.items())
    warning = "These cases were training cases, too. On new scans the scores will be lower." if main.trained_on else ""
    missing = [fold.name for fold in main.folds if fold.summary is None]
    unscored = f"Not validated yet: fold {', '.join(missing)}." if missing else ""
    uneven = f"Not compared: {listed(apart)}. Scores on training cases say nothing about others." if apart else ""
    body = (
        paragraphs(f"Preset {main.name}. Mean Dice of {by_fold}."),
        notes(filter(None, (warning, unscored, uneven, _postprocessing(main), *results.faults))),
        _numbers(main, whole),
        box_plots({shown.name: shown.cases for shown in (main, *compared)}),
        scores_table(main.cases, [*main.summaries.values()]),
        lesions(whole),
        comparisons(main, compared),
        volumes(main.cases, [label.name for label in main.plan.labels]),
    )
    return Section("scores", "Scores", join(body))


def _postprocessing(main: PresetResults) -> str:
    """A sentence on the postprocessing of predictions; empty if there is none."""
    steps = listing_of(postprocessing_of([[fold.folder for fold in main.folds]]))
    if not steps:
        return ""
    return f"Predictions are postprocessed, as these cases gained by it. {steps}. The scores here are without it."


def _numbers(main: PresetResults, whole: Summary) -> Html:
    counted = ((len(main.cases), "validation case"), (len(main.folds), "fold"), (len(whole.labels), "label"))
    counts = ((str(count), name if count == 1 else f"{name}s") for count, name in counted)
    return tiles(((number(whole.mean.dice), "mean Dice of the labels"), *counts))


def _cases_section(results: Results, main: PresetResults, progress: OnProgress) -> tuple[Section, list[ViewedCase]]:
    """The section with pictures of chosen cases, and these cases. One case is in memory at a time."""
    pictures, viewed, faults = [], [], []
    if results.preprocessed is None:
        where = tree(results.root, "preprocessed") / results.plan.dataset
        faults.append(f"There are no pictures, because {where} does not exist. Give the right folder with --root.")
    else:
        scans = _scans(results)
        if not scans:
            faults.append("The raw scans were not found. The pictures show the stored, resampled images.")
        selected = chosen(main.cases)
        for done, (name, scores) in enumerate(selected.items()):
            progress(ProgressEvent("Draw the cases", done, len(selected), "case", scores.case))
            try:
                fold, title = main.predicted_by[scores.case], f"{name}: {scores.case}"
                files = scans.get(scores.case)
                place = results.preprocessed.at(main.plan.preset, main.plan.resolution).path
                case = validation_case(scores.case, fold, place, main.plan, files, title, (sentence(scores),))
                pictures.append(overlay(case))
                viewed.append(ViewedCase.of(case))
                del case
            except UserError as error:
                faults += [f"There is no picture of case {scores.case}: {line}" for line in error.lines]
        progress(ProgressEvent("Draw the cases", len(selected), len(selected), "case"))
    names = legend(label.name for label in main.plan.labels) if viewed else Html("")
    body = join((notes(faults), names, *pictures, cases_table(main.cases)))
    return Section("cases", "Cases", body), viewed


def _scans(results: Results) -> Paths:
    """The files of each case's scan, by case. Empty if the raw data set is not there or has changed."""
    try:
        parts = [read_dataset(path) for path in find_datasets(joined_ids(results.plan.dataset), results.root)]
    except UserError:
        return {}
    if len(parts) == 1:
        return {case.id: case.images for case in parts[0].cases}
    return {case.id: case.images for cases in cases_of(parts) for case in cases.values()}


def _fingerprint(place: PreprocessedFolder, plan: Plan) -> Fingerprint | None:
    """The measurements of the data set; None if there are none, or if its labels have changed since it was planned."""
    present = place.plan(plan.preset)
    if present.is_file() and plan_of_dataset(place, plan.preset).labels != plan.labels:
        return None
    paths = sorted(place.fingerprints.glob("[!.]*.json"))
    cases = tuple(CaseFingerprint.read(path) for path in paths)
    return Fingerprint(dataset=plan.dataset, cases=cases) if cases else None
