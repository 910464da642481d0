"""`Annotation`: what one case's label file may hold, and which labels its annotator looked for.

Two optional fields of `dataset.json` say it, each a list of label names for all cases or a list for each case:
`annotated`, the labels that were looked for (a case not named: all), and `absent`, labels that were not looked for
but are known not to be there.
"""

from collections.abc import Collection, Sequence

from plans.errors import merged
from plans.header import DatasetHeader, LabelTable
from plans.records import Record
from plans.regions import Regions


class Annotation(Record):
    """How to read one case's label file."""

    values: dict[str, int | tuple[int, ...]]  # label name -> value in this file, or its values where labels overlap
    ignore: int | None = None  # value of voxels that nobody labelled
    annotated: tuple[str, ...]  # every other label is unknown here, wherever it may be
    absent: tuple[str, ...] = ()  # known to have no voxel here, whether annotated or not

    @property
    def known(self) -> frozenset[str]:
        """The labels of which it is known where they are."""
        return frozenset((*self.annotated, *self.absent))

    @property
    def regions(self) -> Regions | None:
        """Of each label, the values that it is made of; None where labels do not overlap."""
        found = tuple(value for value in self.values.values() if isinstance(value, tuple))
        return found or None


def annotations_of(
    header: DatasetHeader,
    table: LabelTable,
    cases: Sequence[str],
    others: Collection[str],
    source: str,
    faults: list[str],
) -> dict[str, Annotation]:
    """The annotation of each case; `others` are cases that may be named too (held-out ones)."""
    names = tuple(label.name for label in table.labels)
    annotated = _by_case("annotated", header.annotated, names, cases, others, source, faults)
    absent = _by_case("absent", header.absent, names, cases, others, source, faults)
    lists = header.annotated if isinstance(header.annotated, dict) else {"all cases": header.annotated}
    if nothing := ", ".join(case for case, labels in lists.items() if labels == []):
        faults.append(f"{source}: annotated: no label is named for {nothing}. Name one, or leave the entry out.")
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
    """The label names given for each case, in label order; cases that are not named are left out."""
    if entry is None:
        return {}
    if isinstance(entry, list):
        wanted = _known(entry, f"{source}: {field}", names, faults)
        return dict.fromkeys((*cases, *others), wanted)
    if not isinstance(entry, dict):
        faults.append(f"{source}: {field}: expected a list of label names, or one for each case, found {entry!r}.")
        return {}
    found, faulty = {}, []
    for case, labels in entry.items():
        where, lines = f"{source}: {field}.{case}", list[str]()
        if case not in cases and case not in others:
            lines.append(f"{where}: no such case.")
        elif not isinstance(labels, list):
            lines.append(f"{where}: expected a list of label names, found {labels!r}.")
        else:
            found[case] = _known(labels, where, names, lines)
        faulty += [(case, line) for line in lines]
    faults += merged(faulty)
    return found


def _known(labels: list[object], where: str, names: tuple[str, ...], faults: list[str]) -> tuple[str, ...]:
    known = ", ".join(names)
    faults += [
        f"{where}: {label!r} is no label of this data set; it has {known}." for label in labels if label not in names
    ]
    return tuple(name for name in names if name in labels)
