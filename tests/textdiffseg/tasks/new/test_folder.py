"""The folder of a new data set."""

import pytest

from plans.layout import RawFolder
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
