"""A list of files in a table (CSV). Fields may be separated by commas, semicolons or tabs."""

import csv
import re
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from plans.errors import UserError, is_printable
from plans.records import read_text

IMAGE_COLUMNS = "image (for several channels image_0, image_1, ...)"  # in messages
_DELIMITERS = ",;\t"
_NAMED = re.compile(r"sep=([,;\t])\r?\n")  # a first line for Excel


@dataclass(frozen=True)
class Table:
    """The rows of a CSV file, without those that have no content. Cells have no spaces around them."""

    header: tuple[str, ...]  # () for an empty file
    rows: tuple[tuple[int, list[str]], ...]  # the number of each row in the file, and its cells
    delimiter: str

    @classmethod
    def read(cls, path: Path) -> "Table":
        """The table in a file. Raises `UserError` for a file that cannot be read, or for wrong quotes."""
        content, rows, number = read_text(path), list[tuple[int, list[str]]](), 0
        named = _NAMED.match(content)
        delimiter = named[1] if named else max(_DELIMITERS, key=content.lstrip().partition("\n")[0].count)
        try:
            for number, cells in enumerate(
                csv.reader(StringIO(content, newline=""), delimiter=delimiter, strict=True), start=1
            ):
                rows.append((number, [cell.strip() for cell in cells]))
        except csv.Error as error:
            raise UserError(f"{path}: row {number + 1}: {error}. Correct the quotes of this row.") from None
        (_, header), *others = [row for row in rows[bool(named) :] if any(row[1])] or [(0, [])]
        return cls(tuple(header), tuple(others), delimiter)

    def surplus(self, cells: list[str]) -> str | None:
        """The fault of a row with more cells than the header; None if it has not."""
        if len(cells) <= len(self.header):
            return None
        advice = f"Put a field that holds {self.delimiter!r} in double quotes."
        return f"{len(cells)} fields, expected {len(self.header)}. {advice}"


def channel_number(column: str) -> int:
    """The channel of a column of images: the number at the end of its name, 0 without one."""
    return int(column.removeprefix("image").strip(" _") or 0)


def exists_below(folder: Path, name: str) -> bool:
    """Whether a path exists. A relative one starts at `folder`. False for a name that no file can have."""
    try:
        return bool(name) and is_printable(name) and (folder / name).exists()
    except OSError:  # e.g. a name that is too long
        return False
