"""Records: older versions are read, and faults are reported in one line."""

import json
import os
import threading
from pathlib import Path
from typing import ClassVar, Literal

import pytest
from pydantic import Field

from plans.errors import UserError, is_printable
from plans.geometry import resampled_shape
from plans.raw.prompts import Prompts
from plans.records import MAX_TEXT_BYTES, Fields, Note, Record, Upgrades, is_there


def test_a_name_given_twice_is_refused():
    with pytest.raises(UserError, match=r"prompts\.json: 'liver' is given twice"):
        Prompts.parse_json('{"scan": "CT", "labels": {"liver": ["a"], "liver": ["b"]}}', "prompts.json")


def test_shapes_are_rounded_as_in_nnunet():
    assert resampled_shape((200, 512, 512), (2.5, 0.8, 0.8), (1.0, 1.0, 1.0)) == (500, 410, 410)
    assert resampled_shape((2, 3, 3), (0.1, 1.0, 1.0), (5.0, 1.0, 1.0)) == (1, 3, 3)


def spacing_in_mm(fields: Fields) -> Fields:
    """Version 1 gave one spacing in cm."""
    kept = {name: value for name, value in fields.items() if name != "cm"}
    return kept | {"mm": [10 * fields["cm"]] * 3}


def name_in_full(fields: Fields) -> Fields:
    """Version 2 called the name `id`."""
    fields["name"] = fields.pop("id")
    return fields


class Grid(Record):
    """An example record with three versions."""

    version: Literal[3] = 3
    name: str
    mm: tuple[float, float, float]
    upgrades: ClassVar[Upgrades] = {1: spacing_in_mm, 2: name_in_full}


class Late(Grid):
    """The same record without a reader of version 1."""

    upgrades: ClassVar[Upgrades] = {2: name_in_full}


OLD = {
    1: {"version": 1, "id": "a", "cm": 0.1},
    2: {"version": 2, "id": "a", "mm": [1, 1, 1]},
    3: {"version": 3, "name": "a", "mm": [1, 1, 1]},
}


@pytest.mark.parametrize("version", OLD)
def test_older_versions_are_read_as_the_current_one(tmp_path, version):
    """DESIGN 3: formats are versioned with readers of older versions."""
    path = tmp_path / "grid.json"
    path.write_text(json.dumps(OLD[version]))
    assert Grid.read(path) == Grid(name="a", mm=(1, 1, 1))
    before = json.dumps(OLD[version])
    assert Grid.parse(OLD[version], "grid.json").version == 3
    assert json.dumps(OLD[version]) == before, "the argument is not changed"


def test_a_file_without_a_version_has_version_1():
    assert Grid.parse({"id": "a", "cm": 0.1}, "grid.json") == Grid(name="a", mm=(1, 1, 1))


def test_a_newer_version_is_one_line():
    with pytest.raises(UserError) as error:
        Grid.parse(OLD[3] | {"version": 4, "more": 1}, "grid.json")
    (line,) = error.value.lines
    assert line == (
        "grid.json: version: written by a newer TextDiffSeg: version 4, this one reads up to 3. Update TextDiffSeg."
    )


def test_a_version_without_a_reader_is_one_line_with_advice():
    assert (Grid.oldest_version(), Late.oldest_version(), Late.current_version()) == (1, 2, 3)
    assert Late.parse(OLD[2], "grid.json").name == "a"
    for version in (1, 0, -1):
        with pytest.raises(UserError) as error:
            Late.parse(OLD[1] | {"version": version}, "grid.json")
        (line,) = error.value.lines
        assert f"{version} is too old: this TextDiffSeg reads from 2 on. Copy it again, or make it again with" in line


@pytest.mark.parametrize("fields", [{"version": 1, "id": "a"}, {"version": 1, "id": "a", "cm": None}])
def test_an_old_file_without_the_fields_of_its_version_is_one_line(fields):
    with pytest.raises(UserError, match=r"grid\.json: it does not have the fields of version 1") as error:
        Grid.parse(fields, "grid.json")
    assert len(error.value.lines) == 1


@pytest.mark.parametrize("version", ["3", 3.5, None, [3], True])
def test_a_version_that_is_not_a_whole_number_is_refused_by_field(version):
    with pytest.raises(UserError, match=r"grid\.json: version: "):
        Grid.parse(OLD[3] | {"version": version}, "grid.json")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"name": ' * 100_000, '{"mm": ' + "1" * 5000 + "}", "", "{"])
def test_text_that_is_not_json_is_one_line(text):
    with pytest.raises(UserError, match=r"^grid\.json is not valid JSON") as error:
        Grid.parse_json(text, "grid.json")
    assert len(error.value.lines) == 1


@pytest.mark.parametrize("value", ["1" * 4000, "1e999", "NaN", "[" * 900 + "]" * 900])
def test_numbers_out_of_range_are_reported_by_field(value):
    with pytest.raises(UserError, match=r"^grid\.json: mm\.0: "):
        Grid.parse_json('{"version": 3, "name": "a", "mm": [' + value + ", 1, 1]}", "grid.json")


class Anything(Record):
    """An example record whose fields accept any JSON."""

    version: Literal[1] = 1
    held: object = None
    names: dict[str, object] = Field(default_factory=dict)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('{"held": ' + "9" * 401 + "}", "held"),
        ('{"held": [1, {"deep": -9007199254740993}]}', "held.1.deep"),
        ('{"held": 1e999}', "held"),
        ('{"held": [0.5, NaN]}', "held.1"),
        ('{"held": -Infinity}', "held"),
        ('{"held": 1e300}', "held"),
        ('{"held": "a\\u001b[31m"}', "held"),
        ('{"held": "two\\nlines"}', "held"),
        ('{"names": {"a\\u0007b": 1}}', r"names\.a\\x07b"),
        ('{"names": {"\\ud800": 1}}', "names"),
        ('{"held": "\\ud800"}', "held"),
        ('{"held": "\\u202egnp.exe"}', "held"),
    ],
)
def test_no_record_holds_unprintable_texts_or_numbers_out_of_range(text, field):
    with pytest.raises(UserError, match=rf"^any\.json: {field}.*: ") as error:
        Anything.parse_json(text, "any.json")
    assert len(error.value.lines) == 1
    assert is_printable(error.value.lines[0])


class Noted(Record):
    """An example record with notes."""

    notes: tuple[Note, ...]


def test_control_characters_of_a_note_are_escaped():
    assert Noted(notes=("a\x1b[31m\nb", "c")).notes == ("a\\x1b[31m\\nb", "c")


def test_usual_names_and_numbers_are_read():
    text = '{"held": ["\u00e4 \u03b1 \u809d\u81d3 a\u00a0b", 9007199254740992, 3e38, -1], "names": {"left kidney": 1}}'
    assert Anything.parse_json(text, "any.json").names == {"left kidney": 1}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_json_in_other_encodings_is_read(tmp_path, encoding):
    path = tmp_path / "grid.json"
    path.write_text(json.dumps(OLD[3] | {"name": "\u00e4"}, ensure_ascii=False), encoding=encoding)
    assert Grid.read(path).name == "\u00e4"


def test_bytes_that_are_not_text_are_one_line(tmp_path):
    path = tmp_path / "grid.json"
    path.write_bytes(b'{"name": "\xff\xfe\xfd"}')
    with pytest.raises(UserError, match=r"grid\.json is not text in UTF-8"):
        Grid.read(path)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"version": 3, "mm": [1, 1, 1]}, "grid.json: name: missing."),
        ([], "grid.json: the whole file: expected names and values in braces (found '[]')."),
        (OLD[3] | {"name": 3}, "grid.json: name: expected a text in quotes (found '3')."),
        (OLD[3] | {"mm": 1}, "grid.json: mm: expected a list in square brackets (found '1')."),
        (OLD[3] | {"mm": [1, 1, "x"]}, "grid.json: mm.2: expected a number (found 'x')."),
        (OLD[3] | {"version": "a"}, "grid.json: version: expected 3 (found 'a')."),
        (OLD[3] | {"size": 1}, "grid.json: size: unknown field; correct its name or remove it (found '1')."),
    ],
)
def test_a_field_that_does_not_fit_is_one_line_in_plain_words(fields, line):
    with pytest.raises(UserError) as error:
        Grid.parse(fields, "grid.json")
    assert error.value.lines == (line,)


def test_fields_that_do_not_fit_each_other_are_one_line_without_the_whole_file():
    with pytest.raises(UserError) as error:
        Prompts.parse({"scan": "CT", "labels": {"liver": []}}, "prompts.json")
    assert error.value.lines == ("prompts.json: labels.liver has no phrasing; give at least one.",)


def test_a_file_that_is_not_text_in_utf8_names_the_byte(tmp_path):
    path = tmp_path / "grid.json"
    path.write_bytes('{"name": "Höhle"}'.encode("latin-1"))
    with pytest.raises(UserError, match=r"grid\.json is not text in UTF-8 \(byte 11\)\. "):
        Grid.read(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=r"grid\.json cannot be read: Is a directory\.$"):
        Grid.read(path)


def test_a_device_and_a_file_that_is_too_large_are_refused_and_a_pipe_is_read(tmp_path):
    path = tmp_path / "grid.json"
    path.symlink_to("/dev/zero")
    with pytest.raises(UserError, match=r"grid\.json is not a plain file\. Give one\."):
        Grid.read(path)
    path.unlink()
    path.write_text("")
    os.truncate(path, MAX_TEXT_BYTES + 1)
    with pytest.raises(UserError, match=r"grid\.json is too large: expected a text of at most 1 GB"):
        Grid.read(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="not valid JSON"):  # nobody writes to it
        Grid.read(path)
    end, other = os.pipe()  # as a shell's <(...)
    writer = threading.Thread(target=lambda: (os.write(other, json.dumps(OLD[3]).encode()), os.close(other)))
    writer.start()
    assert Grid.read(Path(f"/dev/fd/{end}")).name == "a"
    writer.join()
    os.close(end)


def test_a_file_that_may_be_missing_is_there_or_not_or_refused(tmp_path):
    path = tmp_path / "a.json"
    assert not is_there(path)
    path.symlink_to(tmp_path / "b.json")
    with pytest.raises(UserError, match=r"a\.json is a link that leads nowhere"):
        is_there(path)
    (tmp_path / "b.json").write_text("")
    assert is_there(path)
    with pytest.raises(UserError, match="is not a plain file"):
        is_there(tmp_path)
