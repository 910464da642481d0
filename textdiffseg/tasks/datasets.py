"""What the name of a data set stands for: one data set or several as one, with its words and its folds."""

import errno
from collections.abc import Sequence
from pathlib import Path

from plans.combined import cases_of, combine, combine_prompts, combined_name, in_order, keeps_values
from plans.dataset import Dataset, read_dataset
from plans.errors import UserError
from plans.folders import find_datasets
from plans.layout import PreprocessedFolder, RawFolder, tree
from plans.prompts import Prompts, default_prompts, read_prompts
from textdiffseg.data.splits import Splits, join_splits, make_splits, read_splits, refuse_parted_groups
from textdiffseg.files import write_record
from textdiffseg.progress import Report


def read_datasets(names: str, root: Path) -> list[Dataset]:
    """The data sets named, e.g. `4` or `4+101`. `UserError` has the faults of all of them."""
    found: list[Dataset] = []
    faults: list[str] = []
    for folder in find_datasets(names, root):
        try:
            found.append(read_dataset(folder))
        except UserError as error:
            faults += error.lines
    if faults:
        raise UserError(*faults)
    return found


def joined(parts: Sequence[Dataset], root: Path, report: Report) -> tuple[Dataset, Prompts]:
    """The data set, or several as one, and its words. `report` gets the values that outputs will have."""
    if len(parts) == 1:
        return parts[0], words_of(parts[0], root, report)
    dataset = combine(parts, tree(root, "preprocessed") / combined_name(parts))
    prompts = combine_prompts(parts, [words_of(part, root, report) for part in parts])
    values = ", ".join(f"{label.value} {label.name}" for label in dataset.labels)
    why = "as in the data sets" if keeps_values(dataset) else "counted anew, as the data sets' own collide"
    report(f"Trained together: {', '.join(f'{part.name} ({len(part.cases)} cases)' for part in parts)}.")
    report(f"Label values of the output, {why}: {values}.")
    return dataset, prompts


def words_of(dataset: Dataset, root: Path, report: Report) -> Prompts:
    """The words of the data set: its own `prompts.json`, or a first one, which is written.

    It goes beside `dataset.json`; where that folder is outside the root or cannot be written, beside the plan.
    """
    beside = RawFolder(dataset.folder).prompts
    elsewhere = PreprocessedFolder(tree(root, "preprocessed") / dataset.name).prompts
    for path in (beside, elsewhere):
        if path.is_file():
            return read_prompts(path, dataset)
    prompts = default_prompts(dataset)
    ours = tree(root, "raw").resolve() in dataset.folder.resolve().parents
    path = beside if ours else elsewhere
    try:
        write_record(path, prompts)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        path = elsewhere
        write_record(path, prompts)
    report(f"Wrote the words of each label to {path}: add synonyms there, and run this command again.")
    return prompts


def splits_of(dataset: Dataset, parts: Sequence[Dataset], folder: PreprocessedFolder) -> Splits:
    """The folds: those made before, else nnU-Net's where its file is there, else new ones, or those of the parts.

    Raises `UserError` where folds that are there part a group.
    """
    cases = [case.id for case in dataset.cases]
    for path in (folder.splits, folder.nnunet_splits, RawFolder(dataset.folder).nnunet_splits):
        if path.is_file():
            splits = read_splits(path, cases)
            refuse_parted_groups(splits, {case.id: case.group for case in dataset.cases}, path)
            return splits
    if len(parts) > 1:
        siblings = [PreprocessedFolder(folder.path.parent / part.name) for part in in_order(parts)]
        own = [splits_of(part, [part], one) for part, one in zip(in_order(parts), siblings, strict=True)]
        called = [{before: case.id for before, case in part.items()} for part in cases_of(parts)]
        return join_splits(list(zip(own, called, strict=True)))
    return make_splits(cases, {case.id: case.group for case in dataset.cases})
