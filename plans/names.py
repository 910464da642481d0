"""Names and phrases in the form in which they are compared."""

import re
import unicodedata
from collections.abc import Iterable

_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z]{2})")
_QUOTES = re.compile(r"[\"'`´\u2018-\u201f«»‹›′″]")
_BREAKS = re.compile(r"[_.,;:!?()\[\]{}\u2010-\u2015\u2212-]")  # underscores, stops, brackets, hyphens of every kind

SPELLING = "case, CamelCase, quotes, hyphens, underscores, brackets and stops make no difference"  # in messages


def normalise(phrase: str) -> str:
    """The phrase in the form in which it is compared: `LeftKidney` and `"Left kidney."` become `left kidney`.

    Lower case, CamelCase split, single spaces. Quotes are removed. Hyphens, underscores, brackets and stops become
    spaces. Invisible characters (Unicode's category Cf, as a soft hyphen) are removed.
    """
    visible = "".join(letter for letter in phrase if unicodedata.category(letter) != "Cf")
    plain = _QUOTES.sub("", _CAMEL.sub(" ", visible))  # before NFKC, which turns ´ into a space
    return " ".join(_BREAKS.sub(" ", unicodedata.normalize("NFKC", plain)).casefold().split())


def spreadsheet_text(text: str) -> str:
    """The text as a cell of a CSV file. One that a spreadsheet would compute, such as `=1+1`, gets an apostrophe."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def same_names(names: Iterable[str]) -> list[tuple[str, str]]:
    """The pairs of names that are equal when compared, the earlier one first: `("LeftKidney", "left kidney")`."""
    first: dict[str, str] = {}
    pairs = [(first.setdefault(normalise(name), name), name) for name in names]
    return [(earlier, later) for earlier, later in pairs if earlier != later]
