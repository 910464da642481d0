"""Files are written whole or not at all, under names that nobody can foresee."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from plans.errors import UserError
from plans.records import Record
from textdiffseg import files
from textdiffseg.files import (
    check_place,
    hash_each,
    hash_files,
    hash_parts,
    replacing,
    temporary_name,
    write_atomically,
    write_record,
)


def test_a_full_disk_names_the_file_and_leaves_nothing(tmp_path, monkeypatch):
    def full(path, flags):
        descriptor = os.open(path, flags)
        os.close(descriptor)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "open_no_link", full)
    with pytest.raises(OSError, match="No space") as error:
        write_atomically(tmp_path / "plan.json", "{}")
    assert error.value.filename == str(tmp_path / "plan.json")
    assert not list(tmp_path.iterdir())


def test_a_folder_in_the_file_s_place_is_named(tmp_path):
    (tmp_path / "plan.json" / "x").mkdir(parents=True)
    with pytest.raises(OSError) as error:  # noqa: PT011
        write_atomically(tmp_path / "plan.json", "{}")
    assert error.value.filename == str(tmp_path / "plan.json")
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_a_place_is_checked_before_the_work(tmp_path, full_disk):
    check_place(tmp_path / "new" / "scores.json")
    assert not list((tmp_path / "new").iterdir())
    (tmp_path / "file").write_text("")
    for path, named, error in (
        (tmp_path / "new", tmp_path / "new", IsADirectoryError),
        (tmp_path / "file" / "x", tmp_path / "file", FileExistsError),
        (Path("/dev/full"), Path("/dev/full"), FileExistsError),
    ):
        with pytest.raises(error) as caught:
            check_place(path)
        assert caught.value.filename == str(named)
    with full_disk(), pytest.raises(OSError, match="File too large") as too_large:
        check_place(tmp_path / "scores.json")
    assert too_large.value.filename == str(tmp_path)


@pytest.mark.parametrize("name", [".", "..", "/"])
def test_a_path_without_a_name_is_a_folder(name):
    with pytest.raises(IsADirectoryError):
        write_atomically(Path(name), "{}")


def test_an_error_of_another_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError) as error, replacing(tmp_path / "model.zip"):
        (tmp_path / "weights.safetensors").read_bytes()
    assert error.value.filename == str(tmp_path / "weights.safetensors")
    assert "None" not in str(error.value)


def test_temporary_names_differ_and_fit_a_file_system():
    assert temporary_name("plan.json") != temporary_name("plan.json")
    assert len(temporary_name("x" * 240)) < 200


@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_lies_under_the_temporary_name_is_neither_followed_nor_replaced(tmp_path, monkeypatch, kind):
    """CASES B5: a link planted there would have had its target overwritten."""
    target, planted = tmp_path / "precious", tmp_path / ".planted.tmp"
    target.write_text("mine")
    planted.symlink_to(target) if kind == "link" else planted.write_text("mine")
    monkeypatch.setattr(files, "temporary_name", lambda name: planted.name)
    with pytest.raises(OSError):  # noqa: PT011
        write_atomically(tmp_path / "plan.json", "{}")
    assert target.read_text() == "mine"
    assert not (tmp_path / "plan.json").exists()


def test_a_written_file_has_the_rights_that_the_user_s_mask_leaves(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "plan.json", "{}")
    finally:
        os.umask(before)
    assert (tmp_path / "plan.json").stat().st_mode & 0o777 == 0o640


def test_hashes_tell_files_apart_by_content_and_order(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"xy")
    second.write_bytes(b"z")
    assert hash_files([first, second]) != hash_files([second, first])
    joint = hash_files([first, second]), hash_each([first, second])
    first.write_bytes(b"x")
    second.write_bytes(b"yz")
    assert hash_files([first, second]) == joint[0], "of the contents as one"
    assert hash_each([first, second]) != joint[1], "of each file by itself"


def test_a_hash_of_parts_knows_where_each_ends():
    assert hash_parts([b"xy", b"z"]) != hash_parts([b"x", b"yz"])
    assert hash_parts([b"xy", b"z"]) != hash_parts([b"z", b"xy"])
    assert hash_parts([b"xy", b"z"]) == hash_parts(iter([b"xy", b"z"]))


def test_devices_and_pipes_are_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/textdiffseg-test"), Path("/proc/textdiffseg-test")):
        with pytest.raises(FileExistsError, match="not the place of a plain file"):
            write_atomically(path, "{}")
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_a_temporary_name_fits_beside_the_longest_name(tmp_path):
    name = "\u8111" * 80 + ".nii.gz"  # 247 bytes
    assert len(os.fsencode(temporary_name(name))) <= 255
    write_atomically(tmp_path / name, "")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("value", ["\x1b[31m", 2**60, [1e39]])
def test_a_record_that_could_not_be_read_back_is_not_written(tmp_path, value):
    class Written(Record):
        value: Any

    path = tmp_path / "x.json"
    with pytest.raises(UserError, match=r"x\.json: value"):
        write_record(path, Written(value=value))
    assert not path.exists()
