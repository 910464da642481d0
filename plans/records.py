"""`Record`: the typed, frozen content of a JSON file of the project. Errors name the field that does not fit.

A record that is a file has a `version`. If a format changes, the record raises its version and names a reader of
the version before. So older files can be read::

    class Plan(Record):
        version: Literal[2] = 2
        upgrades: ClassVar[Upgrades] = {1: lambda fields: fields | {"patch": fields["patch_size"]}}
"""

import json
import math
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from plans.errors import UserError, is_printable, printable

MAX_INTEGER = 2**53  # beyond it, programs that read JSON disagree
MAX_NUMBER = 3.4e38  # the largest of float32
MAX_TEXT_BYTES = 1 << 30  # of a file; the fingerprints of 10,000 cases have less
_OBJECT, _LIST = "expected names and values in braces", "expected a list in square brackets"
_EXPECTED = {  # in plain words, by pydantic's name of a fault
    "dict_type": _OBJECT,
    "model_type": _OBJECT,
    "model_attributes_type": _OBJECT,
    "list_type": _LIST,
    "tuple_type": _LIST,
    "string_type": "expected a text in quotes",
    "int_type": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
    "too_short": "expected more entries",
    "extra_forbidden": "unknown field; correct its name or remove it",
}
Fields = dict[str, Any]
Upgrades = Mapping[int, Callable[[Fields], Fields]]
Note = Annotated[str, AfterValidator(printable)]
"""A sentence for the user. It may quote the name of any file, so its control characters are escaped."""


class Record(BaseModel):
    """A frozen record. Unknown fields are refused, so that a typing mistake in an edited file is reported."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    # Per version: a pure function from the fields of that version to those of the next.
    upgrades: ClassVar[Upgrades] = {}

    @classmethod
    def current_version(cls) -> int | None:
        """The version that is written; None if the record is not a file of its own."""
        field = cls.model_fields.get("version")
        return None if field is None else get_args(field.annotation)[0]

    @classmethod
    def oldest_version(cls) -> int | None:
        """The oldest version that can be read."""
        version = cls.current_version()
        while version is not None and version - 1 in cls.upgrades:
            version -= 1
        return version

    @classmethod
    def read(cls, path: Path, way_out: str = "") -> Self:
        """The record in a JSON file; `UserError` names the file, each field that does not fit, and the `way_out`."""
        try:
            return cls.parse(read_json(path), str(path))
        except UserError as error:
            raise error.with_advice(way_out) from None

    @classmethod
    def parse_json(cls, text: str, source: str) -> Self:
        """The record in a JSON text; `UserError` names `source` and the line or each field that does not fit."""
        return cls.parse(decode_json(text, source), source)

    @classmethod
    def parse(cls, data: object, source: str) -> Self:
        """The record of a decoded JSON value; `UserError` names `source` and each field that does not fit."""
        try:
            record = cls.model_validate(_upgrade(cls, data, source))
        except ValidationError as error:
            raise UserError(*(_explain(fault, source) for fault in _causes(error))) from None
        if faults := [f"{source}: {fault}" for fault in faults_of(record)]:
            raise UserError(*faults)
        return record


def read_json(path: Path) -> object:
    """The value in a JSON file; `UserError` if it cannot be read."""
    return decode_json(read_text(path), str(path))


def read_text(path: Path) -> str:
    """A text file's content, in UTF-8, UTF-16 or UTF-32; `UserError` if it cannot be read."""
    try:
        content = _content(Path(path))
        return content.decode(json.detect_encoding(content))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        where = f"byte {error.start}"
        raise UserError(f"{path} is not text in UTF-8 ({where}). Save it in UTF-8, or copy it again.") from None


def is_there(path: Path) -> bool:
    """Whether a plain file is there. Raises `UserError` for a link that leads nowhere, a folder or a device.

    For files that may be missing: the user's file must not be skipped without a word.
    """
    if path.is_symlink() and not path.exists():
        raise UserError(f"{path} is a link that leads nowhere. Copy its file there, or remove the link.")
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is not a plain file. Replace it by one, or remove it.")
    return path.is_file()


def _content(path: Path) -> bytes:
    """The bytes of a plain file or a pipe. Raises `UserError` for others: a device may never end."""
    with open(path, "rb", opener=_open_without_waiting) as file:
        state = os.fstat(file.fileno())
        is_pipe = stat.S_ISFIFO(state.st_mode)
        if not is_pipe and not stat.S_ISREG(state.st_mode):
            raise UserError(f"{path} is not a plain file. Give one.")
        if state.st_size > MAX_TEXT_BYTES:
            raise UserError(f"{path} is too large: expected a text of at most {MAX_TEXT_BYTES >> 30} GB. Replace it.")
        return file.read(MAX_TEXT_BYTES if is_pipe else -1)


def _open_without_waiting(path: str, flags: int) -> int:
    """A file descriptor. To open a pipe that nobody writes to would wait for ever; so it is empty."""
    file = os.open(path, flags | os.O_NONBLOCK)
    os.set_blocking(file, True)  # for the reading itself
    return file


def decode_json(text: str, source: str) -> object:
    """The value of a JSON text; `UserError` names `source` and, if it is known, the line."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        where = f" (line {error.lineno})" if "\n" in text.strip() else ""
        raise UserError(f"{source} is not valid JSON{where}: {error.msg}.") from None
    except _RepeatedNameError as error:
        raise UserError(f"{source}: {error.args[0]!r} is given twice in one object. Keep one of them.") from None
    except RecursionError:
        raise UserError(f"{source} is not valid JSON: its brackets are nested too deeply.") from None
    except ValueError:
        raise UserError(f"{source} is not valid JSON: a number has thousands of digits.") from None


class _RepeatedNameError(ValueError):
    """A name that one JSON object gives twice. The module json would keep the last value."""


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values: dict[str, object] = {}
    for name, value in pairs:
        if name in values:
            raise _RepeatedNameError(name)
        values[name] = value
    return values


def _upgrade(record: type[Record], data: object, source: str) -> object:
    """The fields in the record's current version. A file without a version has version 1."""
    newest, oldest = record.current_version(), record.oldest_version()
    if newest is None or oldest is None or not isinstance(data, dict):
        return data
    version = data.get("version", 1)
    if type(version) is not int:  # the field's own check refuses it
        return data
    if version > newest:
        raise UserError(
            f"{source}: version: written by a newer TextDiffSeg: version {version}, this one reads up to {newest}. "
            "Update TextDiffSeg."
        )
    if version < oldest:
        found = f"{version} is too old" if "version" in data else "missing, so the file is damaged or too old"
        raise UserError(
            f"{source}: version: {found}: this TextDiffSeg reads from {oldest} on. Copy it again, or make it again "
            "with the command that wrote it (plans: tds_plan_and_preprocess; folds: tds_train --restart)."
        )
    while version < newest:
        try:
            data = record.upgrades[version](dict(data))
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{source}: it does not have the fields of version {version} ({error!r}). Copy it or make it again."
            ) from error
        version += 1
        data["version"] = version
    return data


def _causes(error: ValidationError) -> list[Mapping[str, Any]]:
    """The faults of a record, without lists that are too short only because their entries have faults."""
    faults = error.errors()
    places = [fault["loc"] for fault in faults]
    return [
        fault
        for fault, place in zip(faults, places, strict=True)
        if fault["type"] != "too_short" or not any(other[: len(place)] == place != other for other in places)
    ]


def _explain(fault: Mapping[str, Any], source: str) -> str:
    field, kind, found = ".".join(str(part) for part in fault["loc"]), fault["type"], fault["input"]
    if kind == "missing":  # the input is then all that stands around the field
        return f"{source}: {field}: missing."
    message = _EXPECTED.get(kind) or fault["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    if kind == "value_error" and isinstance(found, dict):  # the message names what does not fit
        return f"{source}: {field and f'{field}: '}{message}."
    return f"{source}: {field or 'the whole file'}: {message} (found {str(found)[:80]!r})."


def faults_of(record: Record) -> Iterator[str]:
    """A line per value that no record may hold: a text that cannot be printed, or a number beyond the limits."""
    pending: list[tuple[tuple[str, ...], object]] = [((), record)]
    while pending:  # a loop, as lists of `Any` may be too deep for recursion
        path, value = pending.pop()
        if isinstance(value, Record):
            pending += [((*path, name), child) for name, child in value.__dict__.items()]
        elif isinstance(value, dict):
            pending += [((*path, str(name)), child) for name, child in value.items()]
            pending += [((*path, name), name) for name in value if isinstance(name, str) and not is_printable(name)]
        elif isinstance(value, tuple) and set(map(type, value)) == {float} and max(map(abs, value)) <= MAX_NUMBER:
            continue  # samples of intensities are long
        elif isinstance(value, list | tuple):
            pending += [((*path, str(index)), child) for index, child in enumerate(value)]
        elif isinstance(value, str) and not is_printable(value):
            yield f"{'.'.join(path)}: {value[:80]!r} holds characters that cannot be printed. Remove them."
        elif isinstance(value, int) and abs(value) > MAX_INTEGER:
            yield f"{'.'.join(path)}: expected a whole number of at most {MAX_INTEGER}, found a larger one."
        elif isinstance(value, float) and not (math.isfinite(value) and abs(value) <= MAX_NUMBER):
            yield f"{'.'.join(path)}: expected a number of at most {MAX_NUMBER:g}, found {value}."
