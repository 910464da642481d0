"""The data set that a name stands for, or the combination of several, with its prompts and its folds."""

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from plans.errors import UserError
from plans.layout import PreprocessedFolder, RawFolder, tree
from plans.raw.combined import cases_of, combine, combine_prompts, combined_name, in_order, keeps_values
from plans.raw.dataset import Dataset, read_dataset
from plans.raw.folders import find_datasets
from plans.raw.prompts import PROMPTS_AGAIN, Prompts, default_prompts, is_default, read_prompts
from plans.records import is_there
from textdiffseg.data.splits import (
    Splits,
    drawn_for_others,
    join_splits,
    make_splits,
    read_splits,
    refuse_parted_groups,
)
from textdiffseg.files import write_record
from textdiffseg.progress import Report


def read_datasets(names: str, root: Path) -> list[Dataset]:
    """The named data sets, e.g. `4` or `4+101`. Raises `UserError` with the faults of all of them."""
    datasets: list[Dataset] = []
    faults: list[str] = []
    for folder in find_datasets(names, root):
        try:
            datasets.append(read_dataset(folder))
        except UserError as error:
            faults += error.lines
    if faults:
        raise UserError(*faults)
    return datasets


@dataclass(frozen=True)
class Words:
    """The prompts of a data set, and the files that planning must write."""

    prompts: Prompts
    unwritten: tuple[tuple[Path, Dataset, Prompts], ...] = ()  # each file with its data set and prompts

    def write(self, root: Path, report: Report) -> None:
        """Write the files that are missing or out of date. If a folder cannot be written, write beside the plan."""
        for path, dataset, prompts in self.unwritten:
            existed = path.is_file()
            place = _write(path, prompts_beside_plan(dataset, root), prompts)
            if existed:
                report(f"Brought {place} up to date: the labels of {dataset.name} have changed.")
            else:
                report(f"Wrote the phrasings of each label to {place}. Add synonyms there, and run this command again.")


def joined(datasets: Sequence[Dataset], root: Path, report: Report) -> tuple[Dataset, Words]:
    """The data set, or the combination of several, and its prompts. `report` receives the values of outputs."""
    if len(datasets) == 1:
        return datasets[0], words_of(datasets[0], root)
    joint = combine(datasets, tree(root, "preprocessed") / combined_name(datasets))
    words = [words_of(dataset, root) for dataset in datasets]
    prompts = combine_prompts(datasets, [words_of_one.prompts for words_of_one in words])
    values = ", ".join(f"{label.value} {label.name}" for label in joint.labels)
    why = "as in the data sets" if keeps_values(joint) else "numbered from 1, as two labels share a value"
    members = ", ".join(f"{dataset.name} ({len(dataset.cases)} cases)" for dataset in datasets)
    report(f"Trained together: {members}.")
    report(f"Label values of the output, {why}: {values}.")
    return joint, Words(prompts, tuple(file for words_of_one in words for file in words_of_one.unwritten))


def words_of(dataset: Dataset, root: Path) -> Words:
    """The prompts of the data set: those of `prompts.json`, or default ones if there is no file yet.

    The file lies beside `dataset.json`. If that folder is outside the root or cannot be written, it lies beside the
    plan.
    """
    own, beside_plan = RawFolder(dataset.folder).prompts, prompts_beside_plan(dataset, root)
    if existing := [path for path in (own, beside_plan) if is_there(path)]:
        edited = [path for path in existing if not is_default(Prompts.read(path, PROMPTS_AGAIN), dataset)]
        path = (edited or existing)[0]
        prompts = read_prompts(path, dataset)
        return Words(prompts, () if prompts == Prompts.read(path) else ((path, dataset, prompts),))
    prompts = default_prompts(dataset)
    inside = tree(root, "raw").resolve() in dataset.folder.resolve().parents
    return Words(prompts, ((own if inside else beside_plan, dataset, prompts),))


def prompts_beside_plan(dataset: Dataset, root: Path) -> Path:
    """The path of a data set's prompts where its own folder cannot be written."""
    return PreprocessedFolder(tree(root, "preprocessed") / dataset.name).prompts


def _write(path: Path, elsewhere: Path, prompts: Prompts) -> Path:
    """Write to `path`, or to `elsewhere` if that is not allowed. Returns the path."""
    try:
        write_record(path, prompts)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS) or path == elsewhere:
            raise
        write_record(elsewhere, prompts)
        return elsewhere
    return path


def splits_of(joint: Dataset, datasets: Sequence[Dataset], folder: PreprocessedFolder, report: Report) -> Splits:
    """The folds: existing ones, else those of nnU-Net's file, else those of the combined data sets, else new ones.

    Folds that were drawn for other cases are drawn again, with a line to `report`. Raises `UserError` if a user's
    folds are of other cases, or if existing folds split a group.
    """
    cases = [case.id for case in joint.cases]
    groups = {case.id: case.group for case in joint.cases}
    outdated = folder.splits.is_file() and drawn_for_others(folder.splits, cases, groups)
    if outdated:
        report(f"{folder.splits}: the cases have changed, so there are new folds. Trained folds have other cases.")
    of_user = folder.nnunet_splits, RawFolder(joint.folder).nnunet_splits
    for path in of_user if outdated else (folder.splits, *of_user):
        if is_there(path):
            splits = read_splits(path, cases)
            refuse_parted_groups(splits, groups, path)
            return splits
    for path in of_user:
        if is_there(pickled := path.with_suffix(".pkl")):  # of nnU-Net 1
            report(
                f"{pickled} is not read, as a pickle can run programs. To keep these folds, write them into "
                f'{path.name} beside it: a list of {{"train": [...], "val": [...]}}.'
            )
    if len(datasets) > 1:
        own = []
        for dataset in in_order(datasets):
            sibling = PreprocessedFolder(folder.path.parent / dataset.name)
            own.append(splits_of(dataset, [dataset], sibling, report))
        new_ids = [{before: case.id for before, case in renamed.items()} for renamed in cases_of(datasets)]
        return join_splits(list(zip(own, new_ids, strict=True)))
    return make_splits(cases, groups)
