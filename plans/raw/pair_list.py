"""`read_pairs`: scans and masks from a CSV file with a row per case.

The columns are `case`, `image` (for several channels `image_0`, `image_1`, ...) and `mask`. Other numbers of channels
are read, too. Paths are relative to the folder of the file.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from plans.errors import UserError
from plans.file_names import composed
from plans.raw.case_files import owner_of_channel
from plans.raw.dataset import is_plain_name
from plans.raw.listed import listed_before
from plans.raw.tables import IMAGE_COLUMNS, Table, channel_number, exists_below

COLUMNS = f"case, {IMAGE_COLUMNS} and mask"
_IMAGE = re.compile(r"image[ _]?(\d{0,3})")


@dataclass(frozen=True)
class ListedPair:
    """A row: the files of a case."""

    case: str
    images: tuple[Path, ...]
    mask: Path


def read_pairs(path: Path) -> tuple[ListedPair, ...]:
    """The cases of a CSV file. Raises `UserError` with a line per fault: the row and the column."""
    table = Table.read(path)
    if not table.rows:
        raise UserError(f"{path} lists no case. Add a row per case with the columns {COLUMNS}.")
    names = [name.casefold() for name in table.header]
    images = sorted((name for name in names if _IMAGE.fullmatch(name)), key=channel_number)
    unknown = [name for name in names if name not in ("case", "mask", *images)]
    missing = [name for name in ("case", "image", "mask") if name not in (*names, *(["image"] if images else []))]
    double = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if unknown or missing or double:
        listed = ", ".join(repr(name) for name in (*unknown, *missing, *double))
        raise UserError(f"{path}: columns {listed}: unknown, missing or double. Expected {COLUMNS}.")
    faults: list[str] = []
    pairs = tuple(_pairs(table, names, images, path, faults))
    if faults:
        raise UserError(*faults)
    return pairs


def _pairs(table: Table, names: list[str], columns: list[str], path: Path, faults: list[str]) -> Iterator[ListedPair]:
    seen: dict[str, int] = {}
    rows = [(number, row, dict(zip(names, row, strict=False))) for number, row in table.rows]
    cases = {values.get("case", "") for _, _, values in rows}
    owners: dict[Path, int] = {}
    for number, row, values in rows:
        where = f"{path}: row {number}"
        case, mask = values.get("case", ""), values.get("mask", "")
        channels = [values.get(name, "") for name in columns]
        while len(channels) > 1 and not channels[-1]:
            channels.pop()
        images = tuple(path.parent / channel for channel in channels)
        if fault := table.surplus(row):
            faults.append(f"{where}: {fault}")
        elif not is_plain_name(case):
            faults.append(f"{where}: case: expected one plain file name without slashes, found {case!r:.80}.")
        elif (first := seen.setdefault(composed(case).casefold(), number)) != number:
            faults.append(f"{where}: case: {case!r} is the case of row {first}, too. Give each case its own name.")
        elif owner := owner_of_channel(case, cases, len(columns)):
            faults.append(f"{where}: case: {case!r} would be a channel of case {owner!r}. Give it another name.")
        elif lost := [name for name in (*channels, mask) if not exists_below(path.parent, name)]:
            name = lost[0] or "an empty path"
            faults.append(f"{where}: {name} does not exist. A relative path starts in the folder of the list.")
        elif twice := [*listed_before(filter(Path.is_file, images), [path.parent / mask], number, owners)]:
            scan, other = twice[0]  # a folder is no file: it may hold several DICOM series
            faults.append(f"{where}: {scan} is a file of row {other} already. List a scan once.")
        else:
            yield ListedPair(case, images, path.parent / mask)
