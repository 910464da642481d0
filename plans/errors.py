"""`UserError`: a user's mistake, with a line per fault: what, where, what was expected, what to do."""

import re
from collections.abc import Collection, Iterable

MAX_EQUAL_LINES = 3  # more lines that differ only in the case are merged into one

# Control characters, line separators, marks that change the direction of text, halves of surrogate pairs.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
MAX_LINE_CHARACTERS = 4000


def is_printable(text: str) -> bool:
    """Whether a text is one line without characters that control a terminal."""
    return _UNPRINTABLE.search(text) is None


def printable(text: str, most: int = MAX_LINE_CHARACTERS) -> str:
    """The text as one line, with control characters escaped.

    A text of more than `most` characters loses its middle. Names of labels and files may come from anyone. Unescaped,
    they could change a terminal's colours or imitate a message of this project.
    """
    if len(text) > most:
        text = f"{text[: most // 2]} ... {text[-(most // 2) :]}"
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


class UserError(Exception):
    """A mistake that the user can correct.

    Commands print its lines and exit with code 2, without a traceback. Faults that are found together are the lines
    of one error, so that the user can correct them all at once. Each line is `printable`.
    """

    def __init__(self, *lines: str) -> None:
        lines = tuple(printable(line) for line in lines)
        super().__init__("\n".join(lines))
        self.lines = lines

    def naming(self, case: str) -> tuple[str, ...]:
        """The lines, each with the case before it, unless it names the case or one of its files already."""
        name = re.escape(case)
        named = re.compile(rf"\bcase {name}(?!\w)|[\\/]{name}(_\d{{4}})?(\.[a-z]|:)", re.IGNORECASE)
        return tuple(line if named.search(line) else f"case {case}: {line}" for line in self.lines)

    def with_advice(self, advice: str) -> "UserError":
        """The same error with an advice behind each line."""
        return UserError(*(f"{line} {advice}".rstrip() for line in self.lines))

    def __reduce__(self) -> tuple[type["UserError"], tuple[str, ...]]:
        """Pickle the lines one by one, so that an error from a worker process keeps them."""
        return type(self), self.lines


def listed(values: Collection[object], most: int = 10) -> str:
    """The first `most` values as text, and the number of the others."""
    shown = ", ".join(str(value) for value in list(values)[:most])
    return shown if len(values) <= most else f"{shown} and {len(values) - most} more"


def merged(faults: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """The lines of faults (case, line), with lines that differ only in case and numbers merged.

    Up to `MAX_EQUAL_LINES` such lines stay. More become one line with a count and a list of cases.
    """
    faults = tuple(faults)
    cases: dict[str, list[str]] = {}  # by the line without case and numbers
    for case, line in faults:
        cases.setdefault(_without(case, line), []).append(case)
    lines = []
    for case, line in faults:
        alike = tuple(dict.fromkeys(cases[_without(case, line)]))
        if len(alike) <= MAX_EQUAL_LINES:
            lines.append(line)
        elif case == alike[0]:
            lines.append(f"{line} {len(alike)} cases are alike: {listed(alike)}.")
    return tuple(lines)


def _without(case: str, line: str) -> str:
    """The line without the case's name and without numbers, which may differ among equal faults."""
    bare = re.sub(rf"(?<![^\W_]){re.escape(case)}(?![^\W_])", "#", line) if case else line
    return re.sub(r"\d+(?:[.,/x -]+\d+)*", "#", bare)
