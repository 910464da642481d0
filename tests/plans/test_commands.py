"""Command lines for messages: they can be pasted as they are."""

import shlex
from pathlib import Path

import pytest

from plans.commands import command_line, predict_command


def test_defaults_are_left_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command_line("tds_train", "Dataset004_A", "0", root=Path()) == "tds_train Dataset004_A 0"
    assert command_line("tds_train", "Dataset004_A", "0", root=tmp_path) == "tds_train Dataset004_A 0"
    assert command_line("tds_train", "Dataset004_A", "0") == "tds_train Dataset004_A 0"


def test_all_options_in_their_order(tmp_path):
    found = command_line("tds_train", "D", "all", preset="unet", resolution="low", root=tmp_path)
    assert found == f"tds_train D all --preset unet --resolution low --root {tmp_path}"


@pytest.mark.parametrize("folder", ["my models/a", "it's", "$HOME"])
def test_names_with_special_characters_are_quoted(folder):
    assert shlex.split(predict_command(Path(folder)))[-1] == folder
    assert shlex.split(command_line("tds_run", "4", root=Path("/nowhere") / folder))[-1] == f"/nowhere/{folder}"
