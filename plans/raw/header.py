"""`DatasetHeader`: the fields of a raw data set's `dataset.json`, and their checks.

The format is that of nnU-Net (versions 2 and 1) or of the Medical Segmentation Decathlon.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PureWindowsPath
from typing import Any

from pydantic import ConfigDict, Field

from plans.file_names import FILE_ENDINGS, split_ending
from plans.names import SPELLING, normalise, same_names
from plans.plan import MAX_LABEL_VALUE, LabelPlan
from plans.records import Record
from plans.regions import Regions, faults_of_order, values_of

BACKGROUND = "background"
IGNORE = "ignore"  # nnU-Net's name of the label for voxels that nobody labelled


class DatasetHeader(Record):
    """The fields of `dataset.json` that are read. Other fields are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    channel_names: dict[str, str] | None = None
    modality: dict[str, str] | None = None  # channel_names in nnU-Net 1 and the Decathlon
    labels: dict[str, Any] = Field(default_factory=dict)
    file_ending: str | None = None
    name: Any = None  # a title
    numTraining: Any = None  # compared with the number of cases in the folder
    training: list[dict[str, Any]] | None = None  # the Decathlon and MONAI: image and label of each case
    dataset: dict[str, dict[str, Any]] | None = None  # nnU-Net 2: the files of each case
    group: dict[str, str | int] | None = None  # case -> group, e.g. the patient of two visits
    annotated: Any = None  # labels that were looked for: one list, or one per case (`plans.raw.annotation`)
    absent: Any = None  # labels that are known to have no voxel: one list, or one per case
    optional_channels: Any = None  # the names of channels that a case may lack
    regions_class_order: Any = None  # nnU-Net: the value that a prediction writes for each overlapping label

    @property
    def listed_images(self) -> list[str]:
        """The file names of the images in `training`. Its paths may have slashes or backslashes."""
        names = (PureWindowsPath(str(entry.get("image", ""))).name for entry in self.training or [])
        return [name for name in names if name]


def channels_of(header: DatasetHeader, source: str, faults: list[str]) -> tuple[str, ...]:
    """The channels' names in order."""
    named = header.channel_names if header.channel_names is not None else header.modality
    if not named:
        faults.append(f'{source}: channel_names: missing. Name each input channel, e.g. {{"0": "CT"}}.')
        return ()
    if set(named) != {str(number) for number in range(len(named))}:
        found = ", ".join(named)
        faults.append(f"{source}: channel_names: expected the keys 0 to {len(named) - 1}, found {found}.")
        return ()
    faults += [
        f"{source}: channel_names.{number}: expected a name, found {name!r}. Name the modality, e.g. CT."
        for number, name in named.items()
        if not name.strip()
    ]
    return tuple(named[str(number)] for number in range(len(named)))


def optional_of(header: DatasetHeader, channels: Sequence[str], source: str, faults: list[str]) -> tuple[int, ...]:
    """The numbers of the channels that a case may lack. They may be all: each case has at least one channel."""
    wanted, field = header.optional_channels, f"{source}: optional_channels"
    if wanted is None or not channels:
        return ()
    names = ", ".join(channels)
    if not isinstance(wanted, list) or not all(isinstance(name, str) for name in wanted):
        faults.append(f"{field}: expected a list of names of channels ({names}), found {str(wanted)[:80]!r}.")
        return ()
    known = [name.strip().casefold() for name in channels]
    faults += [
        f"{field}: {name[:80]!r} is not a channel; expected names from channel_names ({names})."
        for name in wanted
        if name.strip().casefold() not in known
    ]
    if wanted and len(channels) == 1:
        faults.append(f"{field}: {names} is the only channel, and each case needs one. Remove this field.")
    found = {name.strip().casefold() for name in wanted}
    return tuple(number for number, name in enumerate(known) if name in found)


@dataclass(frozen=True)
class LabelTable:
    """The meaning of the values in a data set's label files."""

    labels: tuple[LabelPlan, ...] = ()  # foreground, by value; overlapping labels in the order of the file
    ignore: int | None = None  # nnU-Net's ignore label: voxels that nobody labelled
    regions: Regions | None = None  # the values of each label; None: labels do not overlap


def labels_of(header: DatasetHeader, source: str, faults: list[str]) -> LabelTable:
    """The foreground labels, and the value of the ignore label if there is one."""
    before = len(faults)
    if not header.labels:
        faults.append(f'{source}: labels: missing. Name the value of each label, e.g. {{"background": 0, "liver": 1}}.')
    named = _by_name(header.labels, source, faults)
    faults += [
        f"{source}: labels: {one!r} and {other!r} read the same; {SPELLING}. Rename one."
        for one, other in same_names(name for name in named if name.casefold() != IGNORE)
    ]
    faults += [
        f"{source}: labels: {name!r}: expected a name with letters or digits." for name in named if not normalise(name)
    ]
    regions = {name: _region(value, f"{source}: labels.{name}", faults) for name, value in named.items()}
    faults += [
        f"{source}: labels.{name}: expected 0, found {named[name]!r}. Give background the value 0, or rename it."
        for name, region in regions.items()
        if normalise(name) == BACKGROUND and region and region != (0,)
    ]
    overlapping = any(len(region) > 1 for region in regions.values())
    order = header.regions_class_order
    if len(faults) > before:
        return LabelTable()
    if overlapping:
        return _overlapping(regions, order, source, faults)
    return _distinct({name: value for name, (value,) in regions.items()}, source, faults)


def _region(entry: Any, field: str, faults: list[str]) -> tuple[int, ...]:
    """The values of a label: one, or a list of them."""
    if entry == []:
        faults.append(f"{field}: expected a value or a list of values, found an empty list.")
    region = []
    for value in entry if isinstance(entry, list) else [entry]:
        if isinstance(value, bool) or not re.fullmatch(r"[0-9]+(\.0*)?", str(value)):
            faults.append(f"{field}: expected a whole number of 0 or more, found {value!r}.")
        elif float(value) > MAX_LABEL_VALUE:
            faults.append(f"{field}: expected at most {MAX_LABEL_VALUE}, found {value}.")
        else:
            region.append(int(float(value)))
    return tuple(sorted(set(region)))


def _overlapping(regions: dict[str, tuple[int, ...]], order: Any, source: str, faults: list[str]) -> LabelTable:
    """The table of overlapping labels (nnU-Net's regions). Predictions write them in the order of `dataset.json`."""
    before, ignored = len(faults), [name for name in regions if name.casefold() == IGNORE]
    unlabelled = {value for name in ignored for value in regions[name]}
    if not any(region == (0,) and name not in ignored for name, region in regions.items()):
        faults.append(f'{source}: labels: no background. Add "background": 0.')
    if len(unlabelled) > 1:
        faults.append(f"{source}: labels.{ignored[0]}: expected one value, found {sorted(unlabelled)}.")
    owners: dict[tuple[int, ...], list[str]] = {}
    for name, region in regions.items():
        owners.setdefault(region, []).append(name)
        if name not in ignored and len(region) > 1 and 0 in region:
            faults.append(f"{source}: labels.{name}: holds 0, which is background. Leave it out.")
        if name not in ignored and unlabelled & set(region):
            faults.append(f"{source}: labels.{name}: holds the value of {ignored[0]}. Leave it out.")
    for region, names in owners.items():
        if len(names) > 1:
            shared = ", ".join(map(str, region))
            faults.append(f"{source}: labels: {', '.join(names)} have the same values, {shared}. Keep one of them.")
    foreground = {name: region for name, region in regions.items() if name not in ignored and region != (0,)}
    _check_order(order, foreground, f"{source}: regions_class_order", faults)
    if len(faults) == before:
        faults += [f"{source}: regions_class_order: {fault}" for fault in faults_of_order(foreground, order)]
    if len(faults) > before:
        return LabelTable()
    labels = tuple(LabelPlan(name=name, value=value) for name, value in zip(foreground, order, strict=True))
    return LabelTable(labels, next(iter(unlabelled), None), tuple(foreground.values()))


def _check_order(order: Any, foreground: dict[str, tuple[int, ...]], field: str, faults: list[str]) -> None:
    """Check the values that predictions write: one per region, all different, all found in label files."""
    names, known = ", ".join(foreground), values_of(foreground.values())
    if order is None:
        faults.append(f"{field}: missing. Labels overlap: give the values that a prediction writes for {names}.")
    elif not isinstance(order, list) or len(order) != len(foreground):
        faults.append(f"{field}: expected {len(foreground)} values, one per label ({names}), found {order!r}.")
    else:
        choices = ", ".join(map(str, known))
        faults += [
            f"{field}: {value!r} is not the value of a label; expected one of {choices}."
            for value in order
            if isinstance(value, bool) or value not in known
        ]
        if repeated := [value for value in known if order.count(value) > 1]:
            listed = ", ".join(map(str, repeated))
            faults.append(f"{field}: {listed} is listed twice: two labels would have one value. Use each value once.")


def _by_name(labels: dict[str, Any], source: str, faults: list[str]) -> dict[str, Any]:
    """Labels as name -> value; nnU-Net 1 and the Decathlon write them as value -> name."""
    odd = [key for key in labels if not re.fullmatch("[0-9]{1,20}", key)]
    if len(odd) == len(labels) or not all(isinstance(value, str) for value in labels.values()):
        return labels
    faults += [f"{source}: labels.{key[:40]}: expected a whole number of 0 or more before a name." for key in odd]
    labels = {value: name for value, name in labels.items() if value not in odd}
    named = {name: int(value) for value, name in labels.items()}
    if len(named) < len(labels):
        faults.append(f"{source}: labels: two values have the same name. Give each value its own name.")
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
        faults.append(f"{source}: labels: no structure is named besides background. Name at least one.")
    foreground = sorted(set(owners) - {0, ignore})
    return LabelTable(tuple(LabelPlan(name=owners[value][0], value=value) for value in foreground), ignore)


def file_ending_of(header: DatasetHeader, names: list[str], source: str, faults: list[str]) -> str:
    """The usual ending of the files. If it is not given, the first known ending among `names`."""
    ending = header.file_ending
    if ending is None:
        ending = next((known for name in header.listed_images + names if (known := split_ending(name)[1])), None)
    if ending is None or ending.lower() not in FILE_ENDINGS:
        found = "none" if ending is None else repr(ending)
        faults.append(f"{source}: file_ending: expected one of {', '.join(FILE_ENDINGS)}, found {found}.")
        return FILE_ENDINGS[0]
    return ending.lower()
