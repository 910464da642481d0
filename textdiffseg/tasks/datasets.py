"""What the name of a data set stands for: one data set or several as one, with its words and its folds."""

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from plans.combined import cases_of, combine, combine_prompts, combined_name, in_order, keeps_values
from plans.dataset import Dataset, read_dataset
from plans.errors import UserError
from plans.folders import find_datasets
from plans.layout import PreprocessedFolder, RawFolder, tree
from plans.prompts import Prompts, default_prompts, is_default, read_prompts
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


@dataclass(frozen=True)
class Words:
    """The words of a data set, and the files that planning is to write them to."""

    prompts: Prompts
    unwritten: tuple[tuple[Path, Dataset, Prompts], ...] = ()  # by file, the words of one data set

    def write(self, root: Path, report: Report) -> None:
        """Write what is new. A folder that cannot be written gets none; the words then lie beside the plan."""
        for path, dataset, prompts in self.unwritten:
            known = path.is_file()
            place = _write(path, _beside_plan(dataset, root), prompts)
            if known:
                report(f"Brought {place} up to date: the labels of {dataset.name} have changed.")
            else:
                report(f"Wrote the words of each label to {place}: add synonyms there, and run this command again.")


def joined(parts: Sequence[Dataset], root: Path, report: Report) -> tuple[Dataset, Words]:
    """The data set, or several as one, and its words. `report` gets the values that outputs will have."""
    if len(parts) == 1:
        return parts[0], words_of(parts[0], root)
    dataset = combine(parts, tree(root, "preprocessed") / combined_name(parts))
    words = [words_of(part, root) for part in parts]
    prompts = combine_prompts(parts, [one.prompts for one in words])
    values = ", ".join(f"{label.value} {label.name}" for label in dataset.labels)
    why = "as in the data sets" if keeps_values(dataset) else "counted anew, as the data sets' own collide"
    report(f"Trained together: {', '.join(f'{part.name} ({len(part.cases)} cases)' for part in parts)}.")
    report(f"Label values of the output, {why}: {values}.")
    return dataset, Words(prompts, tuple(file for one in words for file in one.unwritten))


def words_of(dataset: Dataset, root: Path) -> Words:
    """The words of the data set: its own `prompts.json`, or first ones, which nobody has written yet.

    The file lies beside `dataset.json`; where that folder is outside the root or cannot be written, beside the plan.
    """
    beside, elsewhere = RawFolder(dataset.folder).prompts, _beside_plan(dataset, root)
    if found := [path for path in (beside, elsewhere) if path.is_file()]:
        edited = [path for path in found if not is_default(Prompts.read(path), dataset)]
        path = (edited or found)[0]
        prompts = read_prompts(path, dataset)
        return Words(prompts, () if prompts == Prompts.read(path) else ((path, dataset, prompts),))
    prompts = default_prompts(dataset)
    ours = tree(root, "raw").resolve() in dataset.folder.resolve().parents
    return Words(prompts, ((beside if ours else elsewhere, dataset, prompts),))


def _beside_plan(dataset: Dataset, root: Path) -> Path:
    return PreprocessedFolder(tree(root, "preprocessed") / dataset.name).prompts


def _write(path: Path, elsewhere: Path, prompts: Prompts) -> Path:
    """Write to `path`, or `elsewhere` where that is not allowed; returns the place."""
    try:
        write_record(path, prompts)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS) or path == elsewhere:
            raise
        write_record(elsewhere, prompts)
        return elsewhere
    return path


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
