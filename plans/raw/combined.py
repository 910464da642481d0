"""A combination of data sets: `4+101` becomes one `Dataset`, which is planned and trained like any other.

Labels with the same normalised name are one label. Each case is annotated only with the labels of its own data set.
Each data set keeps its groups and folds.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from plans.errors import UserError
from plans.names import normalise
from plans.plan import LabelPlan
from plans.raw.dataset import MAX_ID_BYTES, Case, Dataset, is_plain_name
from plans.raw.folders import id_and_title
from plans.raw.prompts import Prompts


def combined_name(datasets: Sequence[Dataset]) -> str:
    """The folder name of a combination, e.g. `Dataset004+101_Hippocampus+SoftTissueSarcoma`.

    The ids are left out if one of the data sets has none.
    """
    names = [id_and_title(dataset.name) for dataset in in_order(datasets)]
    titles = "+".join(title for _, title in names)
    if any(number is None for number, _ in names):
        return titles
    return f"Dataset{'+'.join(f'{number:03d}' for number, _ in names)}_{titles}"


def in_order(datasets: Sequence[Dataset]) -> list[Dataset]:
    """The data sets sorted by folder name, so that 4+101 and 101+4 are the same."""
    return sorted(datasets, key=lambda dataset: dataset.name)


def combine(datasets: Sequence[Dataset], folder: Path) -> Dataset:
    """The combination of data sets. `folder` is its raw folder, which need not exist.

    Each label keeps its value if no two labels share one, else the values are 1, 2, ... (`keeps_values`). Raises
    `UserError` if the data sets cannot be combined.
    """
    datasets = in_order(datasets)
    repeated = [name for name, count in Counter(dataset.name for dataset in datasets).items() if count > 1]
    if repeated:
        raise UserError(f"{', '.join(repeated)} is named twice. Name each data set once.")
    faults = [
        f"{dataset.name}: its labels overlap (regions_class_order). Train this data set alone."
        for dataset in datasets
        if dataset.regions
    ]
    if faults:
        raise UserError(*faults)
    return Dataset(
        folder=folder,
        name=combined_name(datasets),
        title=" and ".join(dataset.title for dataset in datasets),
        channels=_channels(datasets),
        optional=tuple(sorted({number for dataset in datasets for number in dataset.optional})),
        labels=_labels(datasets),
        file_ending=max((dataset.file_ending for dataset in datasets), key=lambda ending: ending.endswith(".gz")),
        cases=tuple(case for cases in cases_of(datasets) for case in cases.values()),
        notes=tuple(note for dataset in datasets for note in dataset.notes),
    )


def cases_of(datasets: Sequence[Dataset]) -> list[dict[str, Case]]:
    """The cases of the combination: one dict per data set, in order, by their original ids.

    If two data sets share a case id, all ids get their data set's id or name as a prefix. Groups always get it.
    """
    datasets = in_order(datasets)
    counts = Counter(case.id for dataset in datasets for case in dataset.cases)
    shared = any(count > 1 for count in counts.values())
    names = _names(datasets)
    all_cases: list[dict[str, Case]] = []
    for dataset, prefix in zip(datasets, _prefixes(datasets), strict=True):
        cases: dict[str, Case] = {}
        for case in dataset.cases:
            own = case.annotation
            annotation = own.model_copy(
                update={
                    "values": {names[normalise(name)]: value for name, value in own.values.items()},
                    "annotated": tuple(names[normalise(name)] for name in own.annotated),
                    "absent": tuple(names[normalise(name)] for name in own.absent),
                }
            )
            name = f"{prefix}_{case.id}" if shared else case.id
            if not is_plain_name(name):  # too long with the data set's name in front
                raise UserError(
                    f"{dataset.name}: case {case.id} would get the id {name}: expected at most {MAX_ID_BYTES} bytes. "
                    "Rename it."
                )
            changes = {
                "id": name,
                "group": None if case.group is None else f"{prefix}_{case.group}",
                "annotation": annotation,
            }
            cases[case.id] = case.model_copy(update=changes)
        all_cases.append(cases)
    return all_cases


def keeps_values(dataset: Dataset) -> bool:
    """Whether every label has the same value in all label files and in predicted masks."""
    values = {label.name: label.value for label in dataset.labels}
    return all(values[name] == value for case in dataset.cases for name, value in case.annotation.values.items())


def combine_prompts(datasets: Sequence[Dataset], prompts: Sequence[Prompts]) -> Prompts:
    """The prompts of a combination: the phrasings of each label in all data sets, and all scan descriptions.

    `prompts[i]` belongs to `datasets[i]`. Raises `UserError` if a phrasing stands for two labels.
    """
    by_name = {dataset.name: own for dataset, own in zip(datasets, prompts, strict=True)}
    ordered = [by_name[dataset.name] for dataset in in_order(datasets)]
    names = _names(datasets)
    labels: dict[str, list[str]] = {}
    for own in ordered:
        for name, phrasings in own.labels.items():
            known = labels.setdefault(names[normalise(name)], [])
            known += [phrasing for phrasing in phrasings if normalise(phrasing) not in map(normalise, known)]
    scan = "; ".join(dict.fromkeys(own.scan for own in ordered))
    return Prompts.parse({"scan": scan, "labels": labels}, f"prompts.json of {combined_name(datasets)}")


def _names(datasets: Sequence[Dataset]) -> dict[str, str]:
    """The label names of the combination, by normalised name. The first data set's spelling is kept."""
    names: dict[str, str] = {}
    for dataset in in_order(datasets):
        own: dict[str, str] = {}
        for label in dataset.labels:
            other = own.setdefault(normalise(label.name), label.name)
            if other != label.name:
                raise UserError(
                    f"{dataset.name}: its labels {other!r} and {label.name!r} would be one label in a combination. "
                    "Rename one of them."
                )
            names.setdefault(normalise(label.name), label.name)
    return names


def _labels(datasets: Sequence[Dataset]) -> tuple[LabelPlan, ...]:
    names = _names(datasets)
    pairs = {(names[normalise(label.name)], label.value) for dataset in datasets for label in dataset.labels}
    if len({name for name, _ in pairs}) == len({value for _, value in pairs}) == len(pairs):
        return tuple(LabelPlan(name=name, value=value) for name, value in sorted(pairs, key=lambda pair: pair[1]))
    return tuple(LabelPlan(name=name, value=value) for value, name in enumerate(names.values(), start=1))


def _channels(datasets: Sequence[Dataset]) -> tuple[str, ...]:
    """The channel names, which must be equal in all data sets.

    Different names of a single channel are joined: `CT or MRI`. Such a name has no intensity scheme, so each case is
    normalised with its own statistics.
    """
    spelled = {tuple(name.strip().casefold() for name in dataset.channels): dataset.channels for dataset in datasets}
    if len(spelled) == 1:
        return datasets[0].channels
    if {len(channels) for channels in spelled} != {1}:
        found = "; ".join(f"{dataset.name} has {', '.join(dataset.channels)}" for dataset in datasets)
        raise UserError(
            f"channel_names differ: {found}. Data sets trained together need the same channels in the same order."
        )
    return (" or ".join(channels[0] for channels in spelled.values()),)


def _prefixes(datasets: Sequence[Dataset]) -> list[str]:
    """The prefix of each data set's case ids: its id, or its name if an id is missing or repeated."""
    numbers = [id_and_title(dataset.name)[0] for dataset in datasets]
    if None in numbers or len(set(numbers)) < len(numbers):
        return [dataset.name for dataset in datasets]
    return [f"{number:03d}" for number in numbers]
