"""The names of labels that a user gives: `liver=1 spleen=2`, or a JSON file."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from plans.errors import UserError
from plans.names import normalise
from plans.raw.header import BACKGROUND, DatasetHeader, labels_of
from plans.records import read_json

_PAIR = re.compile(r"(.+?)\s*[=:]\s*([0-9]{1,9})")
_EXPECTED = "Expected NAME=VALUE, such as liver=1, or one JSON file with names and values."


def named_labels(given: Sequence[str] | Mapping[str, int]) -> dict[str, int]:
    """name -> value, without background. Raises `UserError` for names or values that a data set cannot have.

    A JSON file holds `{"liver": 1}` or `{"1": "liver"}`, or is a `dataset.json` with such an entry `labels`.
    """
    fields: Any
    if isinstance(given, Mapping):
        source, fields = "labels", dict(given)
    elif len(given) == 1 and str(given[0]).lower().endswith(".json"):
        source, fields = str(given[0]), read_json(Path(given[0]))
        fields = fields.get("labels", fields) if isinstance(fields, dict) else {}
    else:
        source, fields = "--labels", {}
        for text in given:
            if not (found := _PAIR.fullmatch(text.strip())):
                raise UserError(f"--labels {text}: {_EXPECTED}")
            if found[1] in fields:
                raise UserError(f"--labels {text}: {found[1]!r} is named twice. Give each label one value.")
            fields[found[1]] = int(found[2])
    if not isinstance(fields, dict) or not fields:
        raise UserError(f"{source}: no labels. {_EXPECTED}")
    if any(isinstance(value, list) and len(value) > 1 for value in fields.values()):
        raise UserError(f"{source}: labels that overlap. Write dataset.json yourself, as docs/data.md shows.")
    faults: list[str] = []
    by_value = all(isinstance(name, str) for name in fields.values())  # {"1": "liver"}
    whole = (
        fields
        if 0 in fields.values() or "0" in fields
        else fields | ({"0": BACKGROUND} if by_value else {BACKGROUND: 0})
    )
    table = labels_of(DatasetHeader.parse({"labels": whole}, source), source, faults)
    if faults:
        raise UserError(*faults)
    ignored = {} if table.ignore is None else {"ignore": table.ignore}
    return {label.name: label.value for label in table.labels} | ignored


def numbered_names(names: Iterable[str]) -> dict[str, int]:
    """name -> 1, 2, ... in the order of the first appearance. Names that read the same are one."""
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(normalise(name) or name, name)
    return {name: number for number, name in enumerate(first.values(), start=1)}
