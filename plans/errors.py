"""A user's mistake, told in one line a fault: what, where, what was expected, what to do."""

import re
from collections.abc import Collection


class UserError(Exception):
    """A mistake that the user can mend; commands print its lines and exit with code 2, without a traceback.

    Several faults found together are one error with several lines, so that all are mended at once.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines

    def naming(self, case: str) -> tuple[str, ...]:
        """The lines, those that name neither the case nor a file of it with the case before them."""
        name = re.escape(case)
        named = re.compile(rf"\bcase {name}(?!\w)|[\\/]{name}(_\d{{4}})?(\.[a-z]|:)", re.IGNORECASE)
        return tuple(line if named.search(line) else f"case {case}: {line}" for line in self.lines)

    def __reduce__(self) -> tuple[type["UserError"], tuple[str, ...]]:
        """Keep the lines apart when a worker process hands the error over."""
        return type(self), self.lines


def listed(values: Collection[object], most: int = 10) -> str:
    """The first of the values, and how many more there are."""
    shown = ", ".join(str(value) for value in list(values)[:most])
    return shown if len(values) <= most else f"{shown} and {len(values) - most} more"
