"""Every JSON file of the project is a `Record`: typed, frozen, refused by field name when it does not fit."""

import json
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from plans.errors import UserError


class Record(BaseModel):
    """A frozen record; unknown fields are refused, so that a typing mistake in a hand-edited file is seen."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a JSON file; `UserError` names the file and each field that does not fit."""
        try:
            text = Path(path).read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            raise UserError(f"{path} does not exist.") from None
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read: {error}.") from None
        return cls.parse_json(text, str(path))

    @classmethod
    def parse_json(cls, text: str, source: str) -> Self:
        """Validate JSON text; `UserError` names `source` and the line or each field that does not fit."""
        try:
            data = json.loads(text, object_pairs_hook=_object)
        except json.JSONDecodeError as error:
            raise UserError(f"{source} is no valid JSON (line {error.lineno}): {error.msg}.") from None
        except _Twice as error:
            raise UserError(f"{source}: {error.args[0]!r} stands there twice in one place: leave one.") from None
        return cls.parse(data, source)

    @classmethod
    def parse(cls, data: object, source: str) -> Self:
        """Validate a decoded JSON value; `UserError` names `source` and each field that does not fit."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise UserError(*(_explain(fault, source) for fault in error.errors())) from None


class _Twice(ValueError):
    """A name that one JSON object gives twice; json would keep the last."""


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in pairs:
        if name in found:
            raise _Twice(name)
        found[name] = value
    return found


def _explain(fault: dict, source: str) -> str:
    field = ".".join(str(part) for part in fault["loc"]) or "the whole file"
    if field == "version" and fault["type"] == "literal_error":
        return (
            f"{source}: version: it is of version {fault['input']!r} and {fault['ctx']['expected']} was expected. "
            "Make it again with the command that made it (plans: tds_plan_and_preprocess; folds: tds_train --restart)."
        )
    message = fault["msg"].removeprefix("Value error, ")
    return f"{source}: {field}: {message} (found {str(fault['input'])[:80]!r})."
