"""`tds_status`: the states in words, and JSON."""

import json

import pytest
from rich.console import Console

from textdiffseg.tasks.fold_status import FoldStatus
from textdiffseg.tasks.run import RunOutcome
from textdiffseg.tasks.status import DatasetStatus, PresetStatus
from textdiffseg_cli.run import _print as print_run
from textdiffseg_cli.status import _print, folds_table, main

FOLDS = (
    FoldStatus("0", "validated", 90, 90, 600.0, dice=0.8, labels={"liver": 0.9, "spleen": 0.7}),
    FoldStatus("1", "validated", 90, 90, 600.0, dice=0.6, labels={"liver": 0.6, "spleen": None}),
    FoldStatus("2", "running", 40, 90, 300.0, seconds_left=7200.0, since=0.0, host="gpu1", process=12),
    FoldStatus("3", "interrupted", 40, 90, 300.0, seconds_left=120.0),
    FoldStatus("4", "not begun"),
    FoldStatus("5", "interrupted", 40, 90, 300.0, error="the GPU is out of memory."),
    FoldStatus("6", "damaged", command="tds_train D 6 --restart", error=f"{'folder/' * 20}plan.json is damaged"),
)


def test_every_state_is_a_row():
    console = Console(width=150, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(folds_table("default", FOLDS))
    lines = [" ".join(line.split()) for line in capture.get().splitlines() if line.strip()]
    assert "fold state mean Dice liver spleen" in lines
    assert "0 validated, trained for 10 minutes 0.800 0.900 0.700" in lines
    assert any(
        line.startswith("2 running on gpu1, process 12, since 01 Jan") and "40 of 90 iterations, 2 hours left" in line
        for line in lines
    )
    assert "3 interrupted, 40 of 90 iterations, 2 minutes left – – –" in lines
    assert "4 not begun – – –" in lines
    assert "5 failed: the GPU is out of memory, 40 of 90 iterations – – –" in lines
    damaged = "".join(lines[-4:-1]).replace("–", "").replace(" ", "")
    assert damaged == f"6damaged:{'folder/' * 20}plan.jsonisdamaged", "a long path is not cut"
    assert lines[-1] == "mean 0.700 0.750 0.700"


@pytest.mark.parametrize(("device", "words"), [("cpu", "the CPU"), ("gpu", "a GPU")])
def test_a_plan_is_one_line_with_units(device, words, capsys):
    preset = PresetStatus("default", "full", True, device, (56, 32, 48), (3.2619329, 5.3776226, 5.3776226), FOLDS)
    _print(DatasetStatus("Dataset001_Neck", 20, 20, False, (preset,), "tds_run 1"))
    line = f"Preset default: planned for {words}, patch 56 x 32 x 48 voxels, spacing 3.262 x 5.378 x 5.378 mm."
    lines = capsys.readouterr().out.splitlines()
    assert line in lines
    assert "To make fold 6 again: tds_train D 6 --restart" in lines


def test_a_damaged_plan_is_named_above_its_folds(capsys):
    preset = PresetStatus("unet", "full", True, None, None, None, FOLDS, "plan_unet.json is not valid JSON")
    _print(DatasetStatus("Dataset001_Neck", 20, 20, False, (preset,), "tds_run 1"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "Preset unet: damaged: plan_unet.json is not valid JSON"
    assert "Folds of unet" in lines[2]


def test_a_data_set_that_is_not_planned(tiny_raw, tmp_path, capsys):
    assert main(["901", "--root", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[:2] == ["Dataset901_Tiny: 0 of 4 cases are stored.", "It is not planned yet."]
    assert out.splitlines()[-1] == f"Next: tds_run Dataset901_Tiny --hours 4 --root {tmp_path}"
    assert main(["901", "--root", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["dataset"], found["cases"], found["presets"]) == ("Dataset901_Tiny", 4, [])


def test_a_folder_that_is_not_a_data_set_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["."]) == 2
    assert "is not a data set: it has no dataset.json" in capsys.readouterr().err


def test_an_unknown_data_set_is_one_line(tmp_path, capsys):
    assert main(["7", "--root", str(tmp_path)]) == 2
    assert "No data set '7'" in capsys.readouterr().err


@pytest.mark.parametrize(("hours", "expected"), [(4.0, "tds_run D --hours 4"), (None, "tds_run D")])
def test_the_next_command_of_a_run_can_be_typed(capsys, tmp_path, monkeypatch, hours, expected):
    monkeypatch.chdir(tmp_path)
    outcome = RunOutcome(tmp_path, "D", "default", tmp_path, None, FOLDS[2:], None)
    print_run(outcome, hours, ())
    assert f"Next: {expected}\n" in capsys.readouterr().out
