"""`CaseList`: the scans of a prediction, from a CSV or JSON file with a row per case.

The columns of a CSV file are `case`, `image` (for several channels `image_0`, `image_1`, ...) and `text`. A JSON
file holds the record `CaseListFile`. Paths are relative to the folder of the file.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import Field

from plans.errors import UserError, merged
from plans.raw.dataset import MAX_ID_BYTES, is_plain_name
from plans.raw.tables import IMAGE_COLUMNS, Table, channel_number, exists_below
from plans.records import Record

COLUMNS = f"case, {IMAGE_COLUMNS} and text"
_IMAGE = re.compile(r"image(?:_([0-9]{1,4}))?")


class ListedCase(Record):
    """A case of a JSON list."""

    case: str  # its name in the output
    images: tuple[str | None, ...] = Field(min_length=1)  # one path per channel, or one with all; null: it is missing
    text: str = ""  # about this case


class CaseListFile(Record):
    """A JSON file for `tds_predict --list`."""

    version: Literal[1] = 1
    cases: tuple[ListedCase, ...] = Field(min_length=1)


@dataclass(frozen=True)
class CaseList:
    """The scans and texts of listed cases, by case."""

    path: Path  # of the list
    scans: Mapping[str, tuple[Path, ...]]  # one path per channel that the case has, or one with all channels
    texts: Mapping[str, str]  # of the cases that have one
    missing: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # the channels that cases lack, by number

    @classmethod
    def read(cls, path: str | Path) -> "CaseList":
        """The list in a CSV or JSON file. Raises `UserError` with a line per fault: the row and the field."""
        path = Path(path)
        kind = path.suffix.lower()
        if kind not in (".csv", ".json"):
            raise UserError(f"{path}: expected a list of cases as .csv or .json. Rename or convert it.")
        rows = list(_csv_rows(path) if kind == ".csv" else _json_rows(path))
        if not rows:
            raise UserError(f"{path} lists no case. Add a row per case with the columns {COLUMNS}.")
        if faults := merged((row.case, f"{path}: {fault}") for row, fault in _faults(rows, path.parent)):
            raise UserError(*faults)
        scans = {row.case: tuple(path.parent / image for image in row.images if image) for row in rows}
        missing = {row.case: tuple(n for n, image in enumerate(row.images) if not image) for row in rows}
        texts = {row.case: " ".join(row.text.split()) for row in rows}
        lacking = {case: numbers for case, numbers in missing.items() if numbers}
        return cls(path, scans, {case: text for case, text in texts.items() if text}, lacking)

    def refuse_missing(self, optional: Collection[int]) -> None:
        """Raise `UserError` for each channel without a path that is not `optional`."""
        faults = [
            (case, f"{self.path}: case {case}: image {number} is empty. Expected the path of a scan.")
            for case, numbers in self.missing.items()
            for number in numbers
            if number not in optional
        ]
        if faults:
            raise UserError(*merged(faults))


@dataclass(frozen=True)
class _Row:
    place: str  # in messages
    fields: tuple[str, ...]  # the names of the images' fields, in messages
    case: str
    images: tuple[str, ...]
    text: str
    fault: str | None = None  # of the whole row


def _json_rows(path: Path) -> Iterator[_Row]:
    for number, listed in enumerate(CaseListFile.read(path).cases):
        fields = tuple(f"images.{channel}" for channel in range(len(listed.images)))
        images = tuple(image or "" for image in listed.images)
        yield _Row(f"cases.{number}", fields, listed.case, images, listed.text)


def _csv_rows(path: Path) -> Iterator[_Row]:
    """The rows of a CSV file. Rows without any content are left out."""
    table = Table.read(path)
    if not table.header:
        return
    columns = _columns(table.header, path)
    fields = tuple(sorted((name for name in columns if _IMAGE.fullmatch(name)), key=channel_number))
    for number, cells in table.rows:
        values = dict(zip(columns, cells, strict=False))
        images = tuple(values.get(field, "") for field in fields)
        case, text = values.get("case", ""), values.get("text", "")
        yield _Row(f"row {number}", fields, case, images, text, table.surplus(cells))


def _columns(cells: Sequence[str], path: Path) -> list[str]:
    """The names of the columns, with those of the images in order. Raises `UserError` for other columns."""
    names = [cell.casefold() for cell in cells]
    images = [name for name in names if _IMAGE.fullmatch(name)]
    numbered = [f"image_{channel}" for channel in range(len(images))]
    faults = [
        f"column {cell!r} is not known. Expected {COLUMNS}: rename or remove it."
        for cell, name in zip(cells, names, strict=True)
        if name not in ("case", "text", *images)
    ]
    faults += [f"column {name!r} is given twice. Keep one." for name in dict.fromkeys(names) if names.count(name) > 1]
    if "case" not in names:
        faults.append("column 'case' is missing. Add one with a name for each case.")
    if not images:
        faults.append("column 'image' is missing. Add one with the path of each scan.")
    elif not faults and images != ["image"] and sorted(images) != sorted(numbered):
        expected = ", ".join(numbered)
        faults.append(f"columns {', '.join(images)}: expected {expected}, one per channel. Rename them.")
    if faults:
        raise UserError(*(f"{path}: {fault}" for fault in faults))
    return names


def _faults(rows: Sequence[_Row], folder: Path) -> Iterator[tuple[_Row, str]]:
    first: dict[str, str] = {}  # the place of each case
    for row in rows:
        if row.fault:
            yield row, f"{row.place}: {row.fault}"
            continue
        if not row.case:
            yield row, f"{row.place}: case: empty. Expected a name for the files of this case."
        elif not is_plain_name(row.case):
            yield (
                row,
                f"{row.place}: case: {row.case[:MAX_ID_BYTES]!r} cannot be the name of files. Expected at most "
                f"{MAX_ID_BYTES} bytes without slashes, control characters or a leading dot. Rename it.",
            )
        elif (place := first.setdefault(row.case, row.place)) != row.place:
            yield row, f"{row.place}: case: {row.case!r} is the case of {place} already. Give each case its own name."
        if not any(row.images):
            yield row, f"{row.place}: {row.fields[0]}: empty. Expected the path of a scan."
        for name, image in zip(row.fields, row.images, strict=True):
            if image and not exists_below(folder, image):
                lost = f"{folder / image} does not exist. A relative path starts in the folder of the list."
                yield row, f"{row.place}: {name}: {lost}"
