"""The error line of a shell or an argument with which no command can run."""

import math
import os
import sys
from argparse import Namespace
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from plans.errors import printable

MIN_ADDRESS_SPACE_BYTES = 0.7e9  # with less, libraries end the process themselves


def address_space_error() -> str | None:
    """The error line if this shell allows too little address space; None if there is enough."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    allowed = math.inf if limit == resource.RLIM_INFINITY else limit
    if allowed >= MIN_ADDRESS_SPACE_BYTES:
        return None
    return f"This shell allows {allowed / 1e9:.1f} GB of address space. Raise the limit (ulimit -v unlimited)."


def path_error(args: Iterable[object]) -> str | None:
    """The error line for a path among the arguments that has no full name in UTF-8; None if there is none."""
    values = [
        value
        for argument in args
        for value in (vars(argument).values() if isinstance(argument, Namespace) else (argument,))
    ]
    for path in (value for value in values if isinstance(value, Path)):
        try:
            full_path = str(path.absolute())
            full_path.encode()
        except UnicodeEncodeError:
            return f"{printable(full_path)}: {_encoding_advice(full_path)}"
        except OSError as error:
            return f"The current folder cannot be found ({error.strerror}). Change to another folder with cd."
    return None


def _encoding_advice(path: str) -> str:
    """What to do about a path whose bytes this process could not decode."""
    with suppress(UnicodeError):
        os.fsencode(path).decode("utf-8")
        return f"this shell's locale reads names as {sys.getfilesystemencoding()}: set LC_ALL=C.UTF-8."
    return "this path is not in UTF-8. Rename its folder or file."
