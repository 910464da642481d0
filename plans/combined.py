"""Several data sets as one: `4+101` becomes a `Dataset` like any other, from which plan and training follow unchanged.

Labels of the same name (normalised) are one label, each case is annotated with its own data set's labels alone, and
groups and folds stay those of each data set.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from plans.dataset import MAX_ID_BYTES, Case, Dataset, is_plain_name
from plans.errors import UserError
from plans.folders import parts_of
from plans.names import normalise
from plans.plan import LabelPlan
from plans.prompts import Prompts


def combined_name(datasets: Sequence[Dataset]) -> str:
    """`Dataset004+101_Hippocampus+SoftTissueSarcoma`; without `Dataset` where one of them has no number."""
    parts = [parts_of(dataset.name) for dataset in in_order(datasets)]
    titles = "+".join(title for _, title in parts)
    if any(number is None for number, _ in parts):
        return titles
    return f"Dataset{'+'.join(f'{number:03d}' for number, _ in parts)}_{titles}"


def in_order(datasets: Sequence[Dataset]) -> list[Dataset]:
    """By folder name, so that 4+101 and 101+4 are the same."""
    return sorted(datasets, key=lambda dataset: dataset.name)


def combine(datasets: Sequence[Dataset], folder: Path) -> Dataset:
    """One data set of all cases; `folder` is where files of its own would lie.

    Output values are the data sets' own where no two labels share one, else 1, 2, ... (`keeps_values`).
    Raises `UserError` where the data sets do not go together.
    """
    datasets = in_order(datasets)
    repeated = [name for name, count in Counter(dataset.name for dataset in datasets).items() if count > 1]
    if repeated:
        raise UserError(f"{', '.join(repeated)} is given twice. Name each data set once.")
    faults = [
        f"{dataset.name}: its labels overlap (regions_class_order). Such a data set is trained alone."
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
        labels=_labels(datasets),
        file_ending=max((dataset.file_ending for dataset in datasets), key=lambda ending: ending.endswith(".gz")),
        cases=tuple(case for part in cases_of(datasets) for case in part.values()),
        notes=tuple(note for dataset in datasets for note in dataset.notes),
    )


def cases_of(datasets: Sequence[Dataset]) -> list[dict[str, Case]]:
    """Of each data set, in order, its cases as the combination has them, by the ids that they had.

    Where two data sets share an id, all ids get their data set's number or name in front. Groups always do.
    """
    datasets = in_order(datasets)
    counts = Counter(case.id for dataset in datasets for case in dataset.cases)
    shared = any(count > 1 for count in counts.values())
    names = _names(datasets)
    found: list[dict[str, Case]] = []
    for dataset, prefix in zip(datasets, _prefixes(datasets), strict=True):
        cases: dict[str, Case] = {}
        for case in dataset.cases:
            told = case.annotation
            annotation = told.model_copy(
                update={
                    "values": {names[normalise(name)]: value for name, value in told.values.items()},
                    "annotated": tuple(names[normalise(name)] for name in told.annotated),
                    "absent": tuple(names[normalise(name)] for name in told.absent),
                }
            )
            name = f"{prefix}_{case.id}" if shared else case.id
            if not is_plain_name(name):  # too long with the data set's name in front
                raise UserError(
                    f"{dataset.name}: case {case.id} would be called {name}: expected at most {MAX_ID_BYTES} bytes. "
                    "Rename it."
                )
            changes = {
                "id": name,
                "group": None if case.group is None else f"{prefix}_{case.group}",
                "annotation": annotation,
            }
            cases[case.id] = case.model_copy(update=changes)
        found.append(cases)
    return found


def keeps_values(dataset: Dataset) -> bool:
    """Whether the output has the values that every case's own label file has."""
    values = {label.name: label.value for label in dataset.labels}
    return all(values[name] == value for case in dataset.cases for name, value in case.annotation.values.items())


def combine_prompts(datasets: Sequence[Dataset], prompts: Sequence[Prompts]) -> Prompts:
    """The phrasings of all data sets, each label's in their order, and their scans' descriptions one after the other.

    `prompts[i]` are those of `datasets[i]`. Raises `UserError` where a phrasing names two labels.
    """
    by_name = {dataset.name: one for dataset, one in zip(datasets, prompts, strict=True)}
    ordered = [by_name[dataset.name] for dataset in in_order(datasets)]
    names = _names(datasets)
    labels: dict[str, list[str]] = {}
    for one in ordered:
        for name, phrases in one.labels.items():
            known = labels.setdefault(names[normalise(name)], [])
            known += [phrase for phrase in phrases if normalise(phrase) not in map(normalise, known)]
    scan = "; ".join(dict.fromkeys(one.scan for one in ordered))
    return Prompts.parse({"scan": scan, "labels": labels}, f"prompts.json of {combined_name(datasets)}")


def _names(datasets: Sequence[Dataset]) -> dict[str, str]:
    """Normalised name of each label -> its name in the combination: the first data set's spelling."""
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
    """The channels' names, which must agree; single channels that differ are joined: `CT or MRI`, whose name has no
    intensity scheme, so that each case is normalised by itself."""
    spelled = {tuple(name.strip().casefold() for name in dataset.channels): dataset.channels for dataset in datasets}
    if len(spelled) == 1:
        return datasets[0].channels
    if {len(channels) for channels in spelled} != {1}:
        told = "; ".join(f"{dataset.name} has {', '.join(dataset.channels)}" for dataset in datasets)
        raise UserError(
            f"channel_names differ: {told}. Data sets trained together need the same channels in one order."
        )
    return (" or ".join(channels[0] for channels in spelled.values()),)


def _prefixes(datasets: Sequence[Dataset]) -> list[str]:
    """What stands before ids: the data set's number, or its name where numbers are missing or repeated."""
    numbers = [parts_of(dataset.name)[0] for dataset in datasets]
    if None in numbers or len(set(numbers)) < len(numbers):
        return [dataset.name for dataset in datasets]
    return [f"{number:03d}" for number in numbers]
