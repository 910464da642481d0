"""`--json` leaves stdout to the result; `--quiet` prints no progress."""

import json
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest

import textdiffseg as tds
from plans.records import Record
from textdiffseg.progress import ProgressEvent
from textdiffseg_cli import (
    evaluate,
    export_model,
    finalize,
    find_best,
    import_model,
    new,
    plan_and_preprocess,
    predict,
    report,
    run,
    train,
)
from textdiffseg_cli.bars import Bars
from textdiffseg_cli.output import print_json


def scan(path: Path, seed: int, mask: bool) -> None:
    rng = np.random.default_rng(seed)
    array = np.zeros((20, 20, 16), np.int16)
    array[5:14, 4:12, 4:11] = 1
    if not mask:
        array = (100 * array + rng.integers(0, 20, array.shape)).astype(np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(array, np.eye(4)).to_filename(path)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A root with two folders of six scans and masks."""
    root = tmp_path_factory.mktemp("output")
    for number in range(6):
        scan(root / "scans" / f"c{number}.nii.gz", number, mask=False)
        scan(root / "masks" / f"c{number}.nii.gz", number, mask=True)
    return root


def test_every_command_prints_its_result_as_json(root, capsys):
    """From two folders to a choice among models, as another program would do it."""

    def call(command, *arguments, option="--json", code=0):
        assert command.main([*map(str, arguments), *([option] if option else [])]) == code
        return capsys.readouterr()

    def result(*arguments, **options):
        return json.loads(call(*arguments, **options).out)

    below = ("--root", root)
    made = result(new, root / "scans", root / "masks", "--labels", "cube=1", "--name", "Cubes", *below)
    assert made["dataset"]["name"] == "Dataset001_Cubes"
    quiet = call(plan_and_preprocess, 1, "--workers", 0, *below, option="--quiet")
    assert quiet.err == ""
    assert "Fingerprint" not in quiet.out
    assert "Next: tds_train" in quiet.out, "the result"
    planned = call(plan_and_preprocess, 1, "--workers", 0, *below)
    assert json.loads(planned.out)["plan"]["labels"] == [{"name": "cube", "value": 1}]
    assert planned.err != "", "the lines on what is done"
    path = root / "preprocessed" / "Dataset001_Cubes" / "plan.json"
    plan = json.loads(path.read_text())
    plan["training"]["iterations_per_epoch"] = 2
    path.write_text(json.dumps(plan))
    trained = result(train, 1, 0, "--epochs", 1, "--device", "cpu", *below)
    assert trained["summary"]["mean"]["scored"] == len(trained["summary"]["cases"]) == 2
    ran = result(run, 1, "--folds", 0, "--device", "cpu", *below)
    assert ran["folds"][0]["state"] == "validated"
    assert result(find_best, 1, *below)["record"]["models"] == ["default"]
    joined = result(finalize, 1, root / "results", *below)
    assert joined["copied"] == []
    predicted = result(predict, "-i", root / "scans", "-o", root / "out", "--device", "cpu", *below)
    assert predicted["written"] == [f"c{number}" for number in range(6)]
    again = call(predict, "-i", root / "scans", "-o", root / "out", "--device", "cpu", *below, option=None).out
    page = root / "out" / "report.html"
    assert again.splitlines()[-1] == f"Next: tds_report {root / 'out'} --scans {root / 'scans'} -o {page}"
    assert result(evaluate, root / "out", root / "masks")["mean"]["scored"] == 6
    page = root / "own.html"
    assert result(report, 1, "-o", page, *below) == {"page": str(page)}
    model = result(export_model, 1, "-o", root / "model.zip", *below)
    assert (model["file"], model["folds"]) == (str(root / "model.zip"), ["fold_0"])
    imported = result(import_model, root / "model.zip", "-o", root / "imported")
    assert imported == {"folder": str(root / "imported")}
    scored = call(evaluate, root / "out", root / "masks", option=None)
    assert "Score the cases: 6 of 6 cases" in scored.err
    assert call(evaluate, root / "out", root / "masks", option="--quiet").err == ""
    summary = root / "out" / "summary.json"
    kept = call(evaluate, root / "out", root / "masks", "-o", summary, option="--quiet").out
    assert kept.splitlines()[-1].startswith(f"Next: tds_report {root / 'out'} --scans SCANS")
    (root / "scans" / "broken.nii.gz").write_bytes(b"no scan")
    failed = call(predict, "-i", root / "scans", "-o", root / "out", "--device", "cpu", *below, code=2)
    assert len(json.loads(failed.out)["skipped"]) == 6
    assert "broken" in failed.err


def test_what_json_lacks_is_written_in_its_types(capsys):
    class Point(Record):
        x: tuple[int, ...]

    print_json({"a": Point(x=(1, 2)), "b": Path("c"), "d": frozenset({2, 1}), "e": ProgressEvent("s", 1, 2, "case")})
    found = json.loads(capsys.readouterr().out)
    assert (found["a"], found["b"], found["d"], found["e"]["stage"]) == ({"x": [1, 2]}, "c", [1, 2], "s")
    with pytest.raises(TypeError, match="found a object"):
        print_json(object())


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, ("line\n", "work")), ({"json": True}, ("", "line\nwork")), ({"quiet": True}, ("", ""))],
)
def test_lines_and_progress_go_where_they_belong(capsys, options, expected):
    with Bars(**options) as bars:
        bars.print_line("line")
        bars(ProgressEvent("work", 1, 1, "case"))
    out, err = capsys.readouterr()
    assert (out, err[: len(expected[1])]) == expected
    assert err == "" or not options.get("quiet")


def test_the_library_never_prints(root, capsys):
    tds.evaluate(root / "masks", root / "masks")
    assert capsys.readouterr() == ("", "")


def test_notes_are_printed_without_control_characters(capsys):
    """A note may quote the name of a file or a field of a header, which come from anyone."""
    odd = "\x1b[31mred\x07"
    plan = SimpleNamespace(dataset="D", preset="default", reasons=())
    folder = SimpleNamespace(cases=odd, plan=lambda _: odd)
    splits = SimpleNamespace(cases=(1,), folds=())
    plan_and_preprocess._print(
        SimpleNamespace(plan=plan, folder=folder, splits=splits, stored=1, low=None, notes=(odd,), root=Path(odd))
    )
    fields = {name: () for name in ("written", "skipped", "empty", "to_check", "not_found")}
    predict._print(SimpleNamespace(**fields, table=None, notes=(odd,)), Path(odd))
    shown = capsys.readouterr().out
    assert shown.count("\\x1b[31mred\\x07") >= 4
    assert not {*"\x1b\x07"} & {*shown}
