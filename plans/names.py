"""Names and phrases as they are compared: their spelling without what means nothing."""

import re
import unicodedata
from collections.abc import Iterable

_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z]{2})")
_QUOTES = re.compile(r"[\"'`´\u2018-\u201f«»‹›′″]")
_BREAKS = re.compile(r"[_.,;:!?()\[\]{}\u2010-\u2015\u2212-]")  # underscores, stops, brackets, hyphens of every kind

SPELLING = "case, CamelCase, quotes, hyphens, underscores, brackets and stops make no difference"  # in messages


def normalise(phrase: str) -> str:
    """The phrase as it is compared: `LeftKidney`, `left-kidney` and `"Left kidney."` are `left kidney`.

    Lower case, CamelCase opened, single spaces. Quotes go; hyphens, underscores, brackets and stops become spaces.
    """
    plain = _QUOTES.sub("", _CAMEL.sub(" ", phrase))  # before compatible letters are joined: ´ would become a space
    return " ".join(_BREAKS.sub(" ", unicodedata.normalize("NFKC", plain)).casefold().split())


def same_names(names: Iterable[str]) -> list[tuple[str, str]]:
    """Each name that reads like an earlier one, after that one: `("LeftKidney", "left kidney")`."""
    first: dict[str, str] = {}
    pairs = [(first.setdefault(normalise(name), name), name) for name in names]
    return [(earlier, later) for earlier, later in pairs if earlier != later]
