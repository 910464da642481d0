"""`--quiet` and `--json`: how much a command prints, and in which form."""

import argparse
import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add `--quiet` and `--json`."""
    parser.add_argument("--quiet", action="store_true", help="print only the result and errors, no progress")
    parser.add_argument(
        "--json", action="store_true", help="print the result as JSON on stdout; all other lines go to stderr"
    )


def print_json(result: object) -> None:
    """Print what a function of the library returned, with all its fields."""
    print(json.dumps(result, indent=1, default=_plain))


def _plain(value: Any) -> object:
    """The value in types that JSON has."""
    from plans.records import Record

    if isinstance(value, Record):
        return value.model_dump(mode="json")
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"expected a value that JSON has, found a {type(value).__name__}")
