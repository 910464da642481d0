"""A user's mistake, told in one line a fault: what, where, what was expected, what to do."""

import re
from collections.abc import Collection, Iterable

MAX_ALIKE = 3  # faults that differ in the case alone and are still written out one by one

# Control characters, separators of lines, marks that turn the direction of text, halves of surrogate pairs.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
MAX_LINE = 4000  # characters


def is_printable(text: str) -> bool:
    """Whether a text is one line that changes nothing on a terminal but to be seen."""
    return _UNPRINTABLE.search(text) is None


def printable(text: str, most: int = MAX_LINE) -> str:
    """The text as one harmless line: escaped, and without its middle where it is longer than `most` characters.

    Names of labels and files come from others: raw, they could colour a terminal or feign a line of ours.
    """
    if len(text) > most:
        text = f"{text[: most // 2]} ... {text[-(most // 2) :]}"
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class UserError(Exception):
    """A mistake that the user can mend; commands print its lines and exit with code 2, without a traceback.

    Several faults found together are one error with several lines, so that all are mended at once. Each line is
    `printable`.
    """

    def __init__(self, *lines: str) -> None:
        lines = tuple(printable(line) for line in lines)
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
