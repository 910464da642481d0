"""`Annotation`: the values of one case's label file, and the labels that its annotator looked for.

Two optional fields of `dataset.json` define it. Each is one list of label names for all cases, or a list per case:

- `annotated`: the labels that the annotator looked for. A case that is not named is annotated with all labels.
- `absent`: the labels that are known to have no voxel in the case.
"""

from collections.abc import Collection, Sequence

from plans.errors import merged
from plans.raw.header import DatasetHeader, LabelTable
from plans.records import Record
from plans.regions import Regions


class Annotation(Record):
    """The meaning of the values in one case's label file."""

    values: dict[str, int | tuple[int, ...]]  # label name -> value in this file, or its values if labels overlap
    ignore: int | None = None  # value of ignored voxels
    annotated: tuple[str, ...]  # labels that the annotator looked for; the voxels of all others are unknown
    absent: tuple[str, ...] = ()  # labels known to have no voxel here, annotated or not

    @property
    def known(self) -> frozenset[str]:
        """The names of the labels whose voxels are known."""
        return frozenset((*self.annotated, *self.absent))

    @property
    def regions(self) -> Regions | None:
        """The values of each label, or None if labels do not overlap."""
        regions = tuple(value for value in self.values.values() if isinstance(value, tuple))
        return regions or None


def annotations_of(
    header: DatasetHeader,
    table: LabelTable,
    cases: Sequence[str],
    others: Collection[str],
    source: str,
    faults: list[str],
) -> dict[str, Annotation]:
    """The annotation of each case, by case id.

    Args:
        header: the parsed `dataset.json`.
        table: its labels.
        cases: the training cases.
        others: other cases that `dataset.json` may name, e.g. test cases.
        source: path of `dataset.json`, for messages.
        faults: receives one line per fault.
    """
    names = tuple(label.name for label in table.labels)
    annotated = _by_case("annotated", header.annotated, names, cases, others, source, faults)
    absent = _by_case("absent", header.absent, names, cases, others, source, faults)
    lists = header.annotated if isinstance(header.annotated, dict) else {"all cases": header.annotated}
    if empty := ", ".join(case for case, labels in lists.items() if labels == []):
        faults.append(f"{source}: annotated: no label is named for {empty}. Name one, or leave the entry out.")
    values = dict(zip(names, table.regions or [label.value for label in table.labels], strict=True))
    return {
        case: Annotation(
            values=values, ignore=table.ignore, annotated=annotated.get(case, names), absent=absent.get(case, ())
        )
        for case in (*cases, *others)
    }


def _by_case(
    field: str,
    entry: object,
    names: tuple[str, ...],
    cases: Sequence[str],
    others: Collection[str],
    source: str,
    faults: list[str],
) -> dict[str, tuple[str, ...]]:
    """The label names of a field per case, in label order. Cases that are not named are left out."""
    if entry is None:
        return {}
    if isinstance(entry, list):
        labels = _known(entry, f"{source}: {field}", names, faults)
        return dict.fromkeys((*cases, *others), labels)
    if not isinstance(entry, dict):
        faults.append(f"{source}: {field}: expected a list of label names, or one per case, found {entry!r}.")
        return {}
    labels_of, case_faults = {}, []
    for case, labels in entry.items():
        where, lines = f"{source}: {field}.{case}", list[str]()
        if case not in cases and case not in others:
            lines.append(f"{where}: no such case. Correct the id, or remove the entry.")
        elif not isinstance(labels, list):
            lines.append(f"{where}: expected a list of label names, found {labels!r}.")
        else:
            labels_of[case] = _known(labels, where, names, lines)
        case_faults += [(case, line) for line in lines]
    faults += merged(case_faults)
    return labels_of


def _known(labels: list[object], where: str, names: tuple[str, ...], faults: list[str]) -> tuple[str, ...]:
    known = ", ".join(names)
    faults += [
        f"{where}: {label!r} is not a label of this data set; it has {known}. Correct the name."
        for label in labels
        if label not in names
    ]
    return tuple(name for name in names if name in labels)
