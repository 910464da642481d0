"""Files of the project are written whole or not at all, and say which one could not be."""

import errno

import pytest

from plans.errors import UserError
from plans.geometry import resampled_shape
from plans.prompts import Prompts
from textdiffseg.files import write_atomically


def test_a_full_disk_names_the_file_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
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


def test_a_name_given_twice_is_refused_where_json_would_keep_the_last():
    with pytest.raises(UserError, match=r"prompts\.json: 'liver' stands there twice"):
        Prompts.parse_json('{"scan": "CT", "labels": {"liver": ["a"], "liver": ["b"]}}', "prompts.json")


def test_shapes_are_rounded_as_nnunet_does():
    assert resampled_shape((200, 512, 512), (2.5, 0.8, 0.8), (1.0, 1.0, 1.0)) == (500, 410, 410)
    assert resampled_shape((2, 3, 3), (0.1, 1.0, 1.0), (5.0, 1.0, 1.0)) == (1, 3, 3)
