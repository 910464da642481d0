"""File names that C++ libraries cannot read, because their bytes are not UTF-8."""

from pathlib import Path

from plans.errors import UserError


def is_decodable(path: Path) -> bool:
    """Whether all bytes of a path are UTF-8. ITK ends the process if they are not."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def refuse_undecodable(path: Path) -> None:
    """Raise `UserError` for a path with bytes that are not UTF-8."""
    if not is_decodable(path):
        raise UserError(f"{path}: its name is not in UTF-8. Rename it.")
