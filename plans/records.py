"""Every JSON file of the project is a `Record`: typed, frozen, refused by field name when it does not fit."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from plans.errors import UserError

Voxels = tuple[int, int, int]
"""Three whole numbers in the axis order (D, H, W) = (z, y, x)."""
Millimetres = tuple[float, float, float]
"""Three lengths in mm in the axis order (D, H, W) = (z, y, x)."""


def resampled_shape(shape: Voxels, spacing_from: Millimetres, spacing_to: Millimetres) -> Voxels:
    """The shape that covers the same extent at another spacing (nnU-Net rounds each axis, at least one voxel)."""
    return tuple(
        max(1, round(size * old / new)) for size, old, new in zip(shape, spacing_from, spacing_to, strict=True)
    )


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

    def write(self, path: Path) -> None:
        """Write as JSON, under a temporary name first, so that a reader never sees half a file."""
        write_atomically(path, self.model_dump_json(indent=1) + "\n")


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write text or bytes to `path` through a temporary name in the same folder and a rename."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        temporary.replace(path)
    except OSError as error:
        error.filename, error.filename2 = str(path), None  # not the temporary name; a full disk gives none at all
        raise
    finally:
        with suppress(OSError):  # a folder that cannot be written
            temporary.unlink(missing_ok=True)


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
