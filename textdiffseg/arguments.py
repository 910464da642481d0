"""Checks of the arguments of public functions. A fault is a `UserError` that names the argument and its rule.

The command line refuses the same values by itself, with the names of its options.
"""

import math
import os
from collections.abc import Iterable
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from plans.errors import UserError


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise `UserError` for a value that is not one of the choices."""
    allowed = tuple(choices)
    if value not in allowed:
        raise UserError(f"{name}: expected {', '.join(map(repr, allowed[:-1]))} or {allowed[-1]!r}, found {value!r}.")


def whole(name: str, value: object, lowest: int = 0) -> int:
    """A whole number, at least `lowest`; numpy's are accepted."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < lowest:
        raise UserError(f"{name}: expected a whole number of at least {lowest}, found {value!r}.")
    return int(value)


def positive(name: str, value: object) -> float:
    """A finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < math.inf:
        raise UserError(f"{name}: expected a number above 0, found {value!r}.")
    return float(value)


def path_of(value: str | Path) -> Path:
    """The path, with `~` as the user's own folder."""
    if not isinstance(value, str | os.PathLike):
        raise UserError(f"Expected a path, found {value!r}.")
    return Path(value).expanduser()


def several(values: Any) -> tuple[Any, ...]:
    """The values. A text, a path or a number is one of them."""
    single = isinstance(values, str | Path | Real) or not isinstance(values, Iterable)
    return (values,) if single else tuple(values)
