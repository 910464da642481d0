"""What DATASET on a command line stands for: one data set or several as one, with its words and its folds."""

import errno
from pathlib import Path


def read_datasets(names: str, root: Path) -> list:
    """The data sets named; their faults are told together."""
    from plans.dataset import read_dataset
    from plans.errors import UserError
    from plans.folders import find_datasets

    found, faults = [], []
    for folder in find_datasets(names, root):
        try:
            found.append(read_dataset(folder))
        except UserError as error:
            faults += error.lines
    if faults:
        raise UserError(*faults)
    return found


def combined(parts: list, root: Path):
    """Several data sets as one, and its words; says which values its outputs will have."""
    from plans.combined import combine, combine_prompts, combined_name, keeps_values

    dataset = combine(parts, root / "preprocessed" / combined_name(parts))
    prompts = combine_prompts(parts, [words_of(part, root) for part in parts])
    values = ", ".join(f"{label.value} {label.name}" for label in dataset.labels)
    why = "as in the data sets" if keeps_values(dataset) else "counted anew, as the data sets' own collide"
    print(f"Trained together: {', '.join(f'{part.name} ({len(part.cases)} cases)' for part in parts)}.")
    print(f"Label values of the output, {why}: {values}.")
    return dataset, prompts


def words_of(dataset, root: Path):
    """The words of the data set: its own `prompts.json`, or a first one, which is written.

    It goes beside `dataset.json`; where that folder is outside the root or cannot be written, beside the plan.
    """
    from plans.prompts import default_prompts, read_prompts

    beside, elsewhere = dataset.folder / "prompts.json", root / "preprocessed" / dataset.name / "prompts.json"
    for path in (beside, elsewhere):
        if path.is_file():
            return read_prompts(path, dataset)
    prompts = default_prompts(dataset)
    ours = (root / "raw").resolve() in dataset.folder.resolve().parents
    try:
        path = beside if ours else elsewhere
        prompts.write(path)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        path = elsewhere
        prompts.write(path)
    print(f"Wrote the words of each label to {path}: add synonyms there, and run this command again.")
    return prompts


def splits_of(dataset, parts: list, folder: Path):
    """The folds: those made before, else nnU-Net's where its file is there, else new ones, or those of the parts.

    Raises `UserError` where folds that are there part a group.
    """
    from plans.combined import cases_of, in_order
    from textdiffseg.data.splits import join_splits, make_splits, read_splits, refuse_parted_groups

    cases = [case.id for case in dataset.cases]
    for path in (folder / "splits.json", folder / "splits_final.json", dataset.folder / "splits_final.json"):
        if path.is_file():
            splits = read_splits(path, cases)
            refuse_parted_groups(splits, {case.id: case.group for case in dataset.cases}, path)
            return splits
    if len(parts) > 1:
        own = [splits_of(part, [part], folder.parent / part.name) for part in in_order(parts)]
        called = [{before: case.id for before, case in part.items()} for part in cases_of(parts)]
        return join_splits(list(zip(own, called, strict=True)))
    return make_splits(cases, {case.id: case.group for case in dataset.cases})
