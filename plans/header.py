"""`Header`: the fields of a raw data set's `dataset.json`, and the rules that they must keep.

Read are nnU-Net's format (versions 2 and 1) and the Medical Segmentation Decathlon's own.
"""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pydantic import ConfigDict

from plans.plan import LabelPlan
from plans.records import Record

LARGEST = 2**31 - 1  # label value that a file of any format holds
IGNORE = "ignore"  # nnU-Net's name of the label that says: not labelled here
FILE_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")


class Header(Record):
    """The fields of `dataset.json` that matter here; whatever else its owner notes there is left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    channel_names: dict[str, str] | None = None
    modality: dict[str, str] | None = None  # channel_names in nnU-Net 1 and the Decathlon
    labels: dict[str, Any]
    file_ending: str | None = None
    name: str = ""
    description: str = ""
    training: list[dict[str, str]] | None = None  # the Decathlon: image and label of each case
    dataset: dict[str, dict[str, Any]] | None = None  # nnU-Net 2: the files of each case
    group: dict[str, str | int] | None = None  # case -> group, e.g. the patient of two visits
    annotated: Any = None  # labels that were looked for, of all cases or by case (`plans.annotation`)
    absent: Any = None  # labels that were not looked for but are known to be absent, likewise
    regions_class_order: Any = None


def channels_of(header: Header, source: str, faults: list[str]) -> tuple[str, ...]:
    """The channels' names in order."""
    named = header.channel_names if header.channel_names is not None else header.modality
    if not named:
        faults.append(f'{source}: channel_names: missing. Name each input channel, e.g. {{"0": "CT"}}.')
        return ()
    if set(named) != {str(number) for number in range(len(named))}:
        found = ", ".join(named)
        faults.append(f"{source}: channel_names: expected the keys 0 to {len(named) - 1}, found {found}.")
        return ()
    return tuple(named[str(number)] for number in range(len(named)))


@dataclass(frozen=True)
class LabelTable:
    """What the values of a data set's label files mean."""

    labels: tuple[LabelPlan, ...] = ()  # foreground, in the order of their values
    ignore: int | None = None  # nnU-Net's ignore label: voxels that nobody labelled


def labels_of(header: Header, source: str, faults: list[str]) -> LabelTable:
    """The foreground labels, and the value of the label called `ignore` if there is one."""
    named = _by_name(header.labels, source, faults)
    if header.regions_class_order is not None:
        faults.append(f"{source}: regions_class_order: overlapping regions are not supported yet. Remove it.")
    values: dict[str, int] = {}
    for name, value in named.items():
        field = f"{source}: labels.{name}"
        if isinstance(value, list):
            faults.append(f"{field}: regions (a list of values) are not supported yet. Use one value.")
        elif isinstance(value, bool) or not re.fullmatch(r"\d+(\.0*)?", str(value)):
            faults.append(f"{field}: expected a whole number of 0 or more, found {value!r}.")
        elif float(value) > LARGEST:
            faults.append(f"{field}: expected at most {LARGEST}, found {value}.")
        else:
            values[name] = int(float(value))
    return LabelTable() if faults else _distinct(values, source, faults)


def _by_name(labels: dict[str, Any], source: str, faults: list[str]) -> dict[str, Any]:
    """Labels as name -> value; nnU-Net 1 and the Decathlon write them as value -> name."""
    if not labels or not all(key.isdigit() and isinstance(value, str) for key, value in labels.items()):
        return labels
    named = {name: int(value) for value, name in labels.items()}
    if len(named) < len(labels):
        faults.append(f"{source}: labels: two values have one name. Give each value a name of its own.")
    return named


def _distinct(values: dict[str, int], source: str, faults: list[str]) -> LabelTable:
    if 0 not in {value for name, value in values.items() if name.casefold() != IGNORE}:
        faults.append(f'{source}: labels: no background. Add "background": 0.')
    owners: dict[int, list[str]] = {}
    for name, value in values.items():
        owners.setdefault(value, []).append(name)
    for value, names in owners.items():
        if len(names) > 1:
            faults.append(f"{source}: labels: {', '.join(names)} share the value {value}. Give each its own.")
    ignored = [name for name in values if name.casefold() == IGNORE]
    if len(ignored) > 1:
        faults.append(f"{source}: labels: {', '.join(ignored)} all mean voxels to ignore. Keep one of them.")
    ignore = values[ignored[0]] if ignored else None
    if set(owners) <= {0, ignore}:
        faults.append(f"{source}: labels: no structure is named beside background. Name at least one.")
    foreground = sorted(set(owners) - {0, ignore})
    return LabelTable(tuple(LabelPlan(name=owners[value][0], value=value) for value in foreground), ignore)


def file_ending_of(header: Header, names: list[str], source: str, faults: list[str]) -> str:
    """The ending of every file; where it is not given, the first known one among `names`."""
    ending = header.file_ending
    if ending is None:
        names = [PurePosixPath(entry.get("image", "")).name for entry in header.training or []] + names
        ending = next((known for name in names for known in FILE_ENDINGS if name.endswith(known)), None)
    if ending not in FILE_ENDINGS:
        found = "none" if ending is None else repr(ending)
        faults.append(f"{source}: file_ending: expected one of {', '.join(FILE_ENDINGS)}, found {found}.")
        return FILE_ENDINGS[0]
    return ending
