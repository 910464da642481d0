"""`--spacing`: what it accepts, and that presets of one data set never mix cases of two spacings."""

import re
import shlex

import pytest

import textdiffseg as tds
from plans.layout import PreprocessedFolder
from plans.plan import Plan
from textdiffseg.data.checks import check_cases
from textdiffseg.data.store import list_cases, open_case
from textdiffseg_cli import plan_and_preprocess

WRONG = ["1 1", "0 1 1", "-1 1 1", "nan 1 1", "inf 1 1", "1 1 1 1", "a b c", "fine", "full full", "1,1,1", "1x1x1"]


@pytest.mark.parametrize("value", WRONG)
def test_other_values_are_refused_before_any_work(value, capsys):
    with pytest.raises(SystemExit) as stop:
        plan_and_preprocess.main(["4", "--spacing", *value.split()])
    assert stop.value.code == 2
    expected = f"expected three positive numbers (mm, z y x) or the word full, found {value}"
    assert capsys.readouterr().err.splitlines()[-1].endswith(expected)


def test_three_numbers_and_the_word_full_are_read():
    parse = plan_and_preprocess.make_parser().parse_args
    assert parse(["4"]).spacing is None
    assert parse(["4", "--spacing", "3", "2", "1.5"]).spacing == (3.0, 2.0, 1.5)
    assert parse(["4", "--spacing", "full"]).spacing == "full"


def test_a_wrong_spacing_from_python_is_refused_before_any_work(tmp_path):
    with pytest.raises(tds.UserError, match=r"spacing: expected three lengths in mm.*found \(1, 1\)"):
        tds.plan("nowhere", root=tmp_path, spacing=(1, 1))


def test_cases_of_one_spacing_never_serve_a_plan_of_another(tiny_raw, tmp_path, capsys):
    """Each line and note leads to plans that share the stored cases."""
    at = ["901", "--root", str(tmp_path), "--workers", "0"]

    def run(*arguments: str) -> str:
        assert plan_and_preprocess.main([*at, *arguments]) == 0
        return capsys.readouterr().out

    folder = PreprocessedFolder(tmp_path / "preprocessed" / tiny_raw.name)
    run()
    cases = list_cases(folder.path)
    plans = {"default": Plan.read(folder.plan("default"))}
    assert plan_and_preprocess.main([*at, "--spacing", "90", "90", "90"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]  # below the progress
    assert "--spacing 90 x 90 x 90: a median case would have" in line
    check_cases(folder.path, cases, plans["default"])

    output = run("--preset", "unet", "--spacing", "1", "1.25", "1.5")
    assert "4 new, 0 unchanged" in output
    plans["unet"] = Plan.read(folder.plan("unet"))
    assert open_case(folder.path, cases[0]).record.shape == plans["unet"].median_shape
    check_cases(folder.path, cases, plans["unet"])
    note = re.search(
        r"The plan of preset default has a spacing of 1\.0 1\.0 1\.0 mm.* with (--preset .*[0-9])\.", output
    )
    with pytest.raises(tds.UserError, match="was stored by a plan with other spacing") as error:
        check_cases(folder.path, cases, plans["default"])
    way_out = re.search(r"again with (--preset default --spacing [\d. ]+[\d])\.", error.value.lines[0])

    assert "0 new, 4 unchanged" in run(*shlex.split(note[1]))
    for preset in plans:
        check_cases(folder.path, cases, Plan.read(folder.plan(preset)))
    output = run(*shlex.split(way_out[1]))
    assert "4 new, 0 unchanged" in output
    assert "The plan of preset unet has a spacing of 1.0 1.25 1.5 mm" in output
    check_cases(folder.path, cases, plans["default"])
    assert "has a spacing of" not in run("--preset", "unet", "--spacing", "full")
