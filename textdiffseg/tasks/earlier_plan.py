"""Whether an earlier plan of a data set is up to date, and the options that it was made with."""

from pathlib import Path
from typing import Any

from plans.choices import Preset
from plans.errors import UserError
from plans.file_names import BUNDLED
from plans.layout import PreprocessedFolder, RawFolder
from plans.planning.spacing import given_spacing
from plans.raw.combined import cases_of
from plans.raw.dataset import Dataset
from plans.raw.folders import find_datasets, find_folder
from textdiffseg.data.splits import read_stored_splits
from textdiffseg.data.store import list_cases
from textdiffseg.folds.plans import plan_of_dataset
from textdiffseg.tasks.datasets import prompts_beside_plan, read_datasets


def why_plan(dataset: str, root: Path, preset: Preset) -> str | None:
    """The reason to plan, in a sentence; None if plan and stored cases are up to date.

    Raw files are compared by their times. `tds_plan_and_preprocess` compares their contents. Raises `UserError` if
    there is no such data set.
    """
    try:
        source = PreprocessedFolder(find_folder(dataset, root, "preprocessed"))
    except UserError:
        names = (folder.resolve().name for folder in find_datasets(dataset, root))
        return f"{' + '.join(names)} is not planned yet."
    if not source.plan(preset).is_file() or not source.splits.is_file():
        return f"{source.path.name} has no plan of preset {preset} yet."
    stored = {*list_cases(source.path)}
    if missing := {*read_stored_splits(source.splits).cases} - stored:
        return f"{len(missing)} cases of {source.path.name} are not stored yet."
    try:
        find_datasets(dataset, root)
    except UserError:  # the raw data set may lie on another machine
        return None
    datasets = read_datasets(dataset, root)
    if len(datasets) == 1:
        cases = list(datasets[0].cases)
    else:
        cases = [case for renamed in cases_of(datasets) for case in renamed.values()]
    if {case.id for case in cases} != stored:
        return f"The cases of {source.path.name} have changed."
    planned = _changed(source.plan(preset))
    if any(_last_change(raw, root) > planned for raw in datasets):
        return f"Files of {source.path.name} have changed since it was planned."
    return None


def earlier_options(dataset: str, root: Path, preset: Preset) -> dict[str, Any]:
    """The options of an earlier plan, as far as it shows them. Otherwise a changed mask would change the plan, too."""
    try:
        source = PreprocessedFolder(find_folder(dataset, root, "preprocessed"))
        before = plan_of_dataset(source, preset) if source.plan(preset).is_file() else None
    except UserError:
        return {}
    if before is None:
        return {}
    options: dict[str, Any] = {"spacing": given_spacing(before), "mirroring": bool(before.mirror_axes)}
    if before.device == "gpu":
        options["gpu_gb"] = before.memory.budget_gb
    if before.text.encoder != BUNDLED:
        options["text_encoder"] = before.text.encoder
    if before.low_resolution is not None:
        options["low_resolution"] = source.low(preset).plan(preset).is_file()
    return options


def _last_change(dataset: Dataset, root: Path) -> float:
    """The time of the last change of a raw data set's files, and of its prompts, which may lie beside the plan."""
    raw = RawFolder(dataset.folder)
    files = [raw.header, raw.prompts, prompts_beside_plan(dataset, root), raw.texts, *raw.texts.glob("*")]
    files.append(raw.nnunet_splits)
    files += [path for case in dataset.cases for path in (*case.images, *case.references)]
    return max(_changed(path) for path in files if path.exists())


def _changed(path: Path) -> float:
    """The time of the last change of a file, or of the link to it. A copy may keep the time of its source (mtime)."""
    return max(time for state in (path.stat(), path.lstat()) for time in (state.st_mtime, state.st_ctime))
