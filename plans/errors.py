"""A user's mistake, told in one line a fault: what, where, what was expected, what to do."""

import re
from collections.abc import Collection, Iterable

MAX_ALIKE = 3  # faults that differ in the case alone and are still written out one by one


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


def merged(faults: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """The lines of faults (case, line). Many that differ only in the case and in numbers are one line with a count."""
    faults = tuple(faults)
    cases: dict[str, list[str]] = {}  # by what their lines share
    for case, line in faults:
        cases.setdefault(_without(case, line), []).append(case)
    lines = []
    for case, line in faults:
        found = tuple(dict.fromkeys(cases[_without(case, line)]))
        if len(found) <= MAX_ALIKE:
            lines.append(line)
        elif case == found[0]:
            lines.append(f"{line} {len(found)} cases are alike: {listed(found)}.")
    return tuple(lines)


def _without(case: str, line: str) -> str:
    """The line without the case's name and without numbers, which may differ among equal faults."""
    bare = re.sub(rf"(?<![^\W_]){re.escape(case)}(?![^\W_])", "#", line) if case else line
    return re.sub(r"\d+(?:[.,/x -]+\d+)*", "#", bare)
