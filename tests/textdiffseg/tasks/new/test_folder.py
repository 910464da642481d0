"""The folder of a new data set."""

import pytest

from plans.layout import RawFolder
from textdiffseg.tasks.new.cases import link
from textdiffseg.tasks.new.folder import Written


def test_a_link_in_place_of_the_list_of_files_is_not_followed(tmp_path):
    other = tmp_path / "other"
    other.write_text("mine\n")
    raw = RawFolder(tmp_path / "Dataset001_A")
    raw.path.mkdir()
    (raw.path / ".written").symlink_to(other)
    with pytest.raises(OSError, match="symbolic link"):
        Written(raw).add("a", 1, ())
    assert other.read_text() == "mine\n"


def test_a_full_disk_names_the_data_set(tmp_path, full_disk):
    raw = RawFolder(tmp_path / "Dataset001_A")
    raw.path.mkdir()
    with full_disk(), pytest.raises(OSError) as error:  # noqa: PT011
        Written(raw).add("a", 1, ())
    assert error.value.filename.startswith(str(raw.path))


def test_a_copy_on_a_full_disk_names_the_copy(tmp_path, monkeypatch, full_disk):
    (tmp_path / "scan.nii.gz").write_bytes(b"abc")
    monkeypatch.setattr("os.symlink", _no_links)  # so it is copied
    with full_disk(), pytest.raises(OSError) as error:  # noqa: PT011
        link(tmp_path / "scan.nii.gz", tmp_path / "case.nii.gz")
    assert error.value.filename == str(tmp_path / "case.nii.gz")
    assert [path.name for path in tmp_path.iterdir()] == ["scan.nii.gz"]


def _no_links(*_):
    raise OSError
