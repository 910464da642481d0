"""`volumes.csv`: the rows of all cases in a folder, from their manifests."""

import csv
import json

import pytest

from plans.errors import UserError
from plans.layout import volume_table
from textdiffseg.files import write_record
from textdiffseg.folds.expected_dice import ExpectedDice
from textdiffseg.folds.sampling import PredictionSettings
from textdiffseg.inference.volumes import VolumeInterval
from textdiffseg.tasks.manifest import Manifest, Request
from textdiffseg.tasks.one_scan import PredictionRun
from textdiffseg.tasks.outcome import Outcome
from textdiffseg.tasks.volume_table import COLUMNS, add_table, refuse_table_of_others, write_table
from textdiffseg_cli.predict import main


def add_case(folder, case, volumes, dice=None, finished=True):
    request = Request(
        case=case,
        inputs={},
        model="0",
        folds=("0",),
        checkpoint="best",
        settings=PredictionSettings(),
        prompts=(),
        forced=False,
        probabilities=False,
        uncertainty=False,
    )
    outputs = {f"{case}.nii.gz": "0"} if finished else {}
    write_record(
        folder / f"{case}.json", Manifest(request=request, outputs=outputs, volumes=volumes, expected_dice=dice)
    )
    (folder / f"{case}.nii.gz").write_bytes(b"mask")


def rows(folder):
    with volume_table(folder).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_each_case_has_a_row_per_label_with_interval_and_expected_dice(tmp_path):
    liver = VolumeInterval(label="liver, left", volume_ml=1.5, low_ml=1.25, high_ml=2.0)
    expected = ExpectedDice(mean=0.75, labels={"liver, left": 0.75}, threshold=0.5)
    add_case(tmp_path, "b", (liver, VolumeInterval(label="spleen", volume_ml=1501 * 0.001)), expected)
    add_case(tmp_path, "a", (liver,))
    assert write_table(tmp_path) == tmp_path / "volumes.csv"
    unknown = dict.fromkeys(("low_ml", "high_ml", "expected_dice"), "")
    known = {"volume_ml": "1.5", "low_ml": "1.25", "high_ml": "2.0", "expected_dice": "0.75"}
    assert rows(tmp_path) == [
        {"case": "a", "label": "liver, left", **known, "expected_dice": ""},
        {"case": "b", "label": "liver, left", **known},
        {"case": "b", "label": "spleen", "volume_ml": "1.501", **unknown},
    ]


def test_names_are_no_formulas_for_a_spreadsheet(tmp_path):
    add_case(tmp_path, "a", (VolumeInterval(label="=cmd()", volume_ml=-1.5),))
    write_table(tmp_path)
    assert [(row["label"], row["volume_ml"]) for row in rows(tmp_path)] == [("'=cmd()", "-1.5")]


def test_unfinished_and_deleted_cases_and_other_json_files_have_no_rows(tmp_path):
    one = (VolumeInterval(label="liver", volume_ml=1.0),)
    add_case(tmp_path, "begun", one, finished=False)
    add_case(tmp_path, "deleted", one)
    (tmp_path / "deleted.nii.gz").unlink()
    (tmp_path / "sidecar.json").write_text(json.dumps({"RepetitionTime": 2.0}))
    assert write_table(tmp_path) is None
    assert not volume_table(tmp_path).exists()
    add_case(tmp_path, "whole", one)
    write_table(tmp_path)
    assert [row["case"] for row in rows(tmp_path)] == ["whole"]


def run_into(folder, overwrite=False, file_name=None):
    return PredictionRun(None, None, {}, folder, file_name, overwrite)


def test_a_table_of_another_program_is_not_replaced(tmp_path):
    refuse_table_of_others(run_into(tmp_path))
    volume_table(tmp_path).write_text(",".join(COLUMNS) + "\n")
    refuse_table_of_others(run_into(tmp_path))
    for header in ("patient;volume", ",".join((*COLUMNS, "radiologist"))):
        volume_table(tmp_path).write_text(f"{header}\n")
        with pytest.raises(UserError, match=r"volumes\.csv exists and was not made by tds_predict\. Rename it"):
            refuse_table_of_others(run_into(tmp_path))
    refuse_table_of_others(run_into(tmp_path, overwrite=True))
    refuse_table_of_others(run_into(tmp_path, file_name="x.nii.gz"))


def test_a_table_that_cannot_be_written_loses_no_other_line(tmp_path):
    add_case(tmp_path, "a", (VolumeInterval(label="liver", volume_ml=1.0),))
    volume_table(tmp_path).mkdir()
    outcome = Outcome(failures=["b: unreadable"])
    add_table(run_into(tmp_path), outcome)
    assert outcome.failures[0] == "b: unreadable"
    assert "volumes.csv cannot be written (Is a directory)" in outcome.failures[1]
    assert outcome.table is None


def test_a_later_run_adds_its_cases_and_one_file_gets_no_table(root, make_scan, capsys):
    for index, case in enumerate("ab"):
        make_scan(root / "scans" / f"{case}.nii.gz", seed=index)
    fixed = ("--root", str(root), "--folds", "0", "--no-mirroring")

    def predict(name, out):
        code = main([*fixed, "-i", str(root / "scans" / name), "-o", str(root / out)])
        return code, *capsys.readouterr()

    code, out, _ = predict("a.nii.gz", "out")
    assert (code, f"Volumes of all cases: {root / 'out' / 'volumes.csv'}" in out) == (0, True)
    predict("b.nii.gz", "out")
    table = rows(root / "out")
    assert [(row["case"], row["label"]) for row in table] == [(c, n) for c in "ab" for n in ("Front_Part", "back")]
    volumes = Manifest.read(root / "out" / "a.json").volumes
    assert [float(row["volume_ml"]) for row in table[:2]] == [one.volume_ml for one in volumes]
    assert predict("a.nii.gz", "single/x.nii.gz")[0] == 0
    assert not volume_table(root / "single").exists()
    volume_table(root / "out").write_text("mine")
    code, _, err = predict("b.nii.gz", "out")
    assert (code, "was not made by tds_predict" in err) == (2, True)
