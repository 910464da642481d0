"""Checks of the arguments of public functions. A fault is a `UserError` that names the argument and its rule.

The command line refuses the same values by itself, with the names of its options.
"""

import os
from collections.abc import Iterable
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeGuard

from plans.errors import UserError
from plans.records import MAX_INTEGER, MAX_NUMBER


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise `UserError` for a value that is not one of the choices."""
    allowed = tuple(choices)
    if value not in allowed:
        raise UserError(f"{name}: expected one of {', '.join(map(repr, allowed))}, found {value!r:.80}.")


def is_whole(value: object) -> TypeGuard[Integral]:
    """Whether a value is a whole number, of Python or numpy."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def whole(name: str, value: object, lowest: int = 0) -> int:
    """A whole number, at least `lowest`, that a record can hold; numpy's are accepted."""
    if not is_whole(value) or int(value) < lowest:
        raise UserError(f"{name}: expected a whole number of at least {lowest}, found {value!r:.80}.")
    if int(value) > MAX_INTEGER:
        raise UserError(f"{name}: expected a whole number of at most {MAX_INTEGER}, found {value!r:.80}.")
    return int(value)


def positive(name: str, value: object, highest: float = MAX_NUMBER) -> float:
    """A number above 0, and at most `highest`."""
    if isinstance(value, bool) or not isinstance(value, Real) or value <= 0 or not value <= highest:
        raise UserError(f"{name}: expected a number above 0 and at most {highest:.2g}, found {value!r:.80}.")
    return float(value)


def path_of(value: str | Path) -> Path:
    """The path, with `~` as the user's own folder."""
    if not isinstance(value, str | os.PathLike):
        raise UserError(f"Expected a path, found {value!r:.80}.")
    return Path(value).expanduser()


def several(values: Any) -> tuple[Any, ...]:
    """The values. A text, a path or a number is one of them."""
    single = isinstance(values, str | Path | Real) or not isinstance(values, Iterable)
    return (values,) if single else tuple(values)
