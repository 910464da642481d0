"""Predictions of listed cases: names, channels and texts are those of the list, and no scan is replaced."""

import json
import shutil
from unicodedata import normalize

import pytest

import textdiffseg as tds
from plans.plan import Plan
from textdiffseg.files import hash_text, write_record
from textdiffseg.tasks.listed import find_case_texts
from textdiffseg.tasks.manifest import Manifest, hash_inputs
from textdiffseg_cli.predict import main


@pytest.fixture
def predict(root, capsys):
    def run(*arguments):
        fixed = ["--root", root, "-o", root / "out", "--folds", 0, "--no-mirroring"]
        code = main([*map(str, fixed), *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def cases(root, make_scan):
    """A list of two cases whose files have the same name."""
    for index, patient in enumerate(("p1", "p2")):
        make_scan(root / "in" / patient / "scan.nii.gz", seed=index)
    path = root / "in" / "cases.csv"
    path.write_text("case,image\nanna,p1/scan.nii.gz\nbert,p2/scan.nii.gz\n")
    return path


def test_masks_have_the_listed_names(predict, root, cases):
    code, out, _ = predict("--list", cases)
    assert (code, "2 predicted" in out) == (0, True)
    assert {path.stem for path in (root / "out").glob("*.json")} == {"anna", "bert"}
    predict("-i", root / "in" / "p2", "-o", root / "plain")
    assert (root / "out" / "bert.nii.gz").read_bytes() == (root / "plain" / "scan.nii.gz").read_bytes()
    assert "2 complete already" in predict("--list", cases)[1]
    outcome = tds.predict(tds.CaseList.read(cases), root / "out", root=root, folds=["0"])
    assert outcome.skipped == ["anna", "bert"]


def test_a_text_belongs_to_its_scan_in_either_unicode_form(tmp_path):
    """A Mac writes decomposed names."""
    name = normalize("NFD", "Müller")
    (tmp_path / f"{name}.txt").write_text("a dark spot")
    assert find_case_texts(tmp_path, tmp_path, {name: ()}) == ({name: "a dark spot"}, 0)


def test_a_bad_list_stops_before_anything_is_written(predict, root, cases):
    cases.write_text("case,image\nanna,p1/scan.nii.gz\nbert,p3/scan.nii.gz\n")
    code, _, err = predict("--list", cases)
    assert code == 2
    assert err.startswith(f"error: {cases}: row 3: image: {root}/in/p3/scan.nii.gz does not exist.")
    assert err.count("\n") == 1
    assert not (root / "out").exists()


def test_list_and_folder_exclude_each_other(predict, root, cases, capsys):
    for arguments in (("--list", cases, "-i", root), ()):
        with pytest.raises(SystemExit) as end:
            predict(*arguments)
        assert end.value.code == 2
        assert "--list" in capsys.readouterr().err


def test_texts_of_a_list_reach_the_request(predict, root, cases):
    cases.write_text("case,image,text\nanna,p1/scan.nii.gz, a dark  spot\nbert,p2/scan.nii.gz,\n")
    code, _, err = predict("--list", cases)
    assert (code, "Leave --texts out, and the texts of a list." in err) == (2, True)
    for path in root.glob("results/*/*/fold_*/plan.json"):
        plan = Plan.read(path)
        write_record(path, plan.model_copy(update={"text": plan.text.model_copy(update={"of_cases": True})}))
    code, out, _ = predict("--list", cases)
    assert (code, "Texts: 1 of 2 scans have one." in out) == (0, True)
    texts = [Manifest.read(root / "out" / f"{case}.json").request.text for case in ("anna", "bert")]
    assert texts == [hash_text("a dark spot"), None]
    code, _, err = predict("--list", cases, "--texts", root)
    assert (code, "cases.csv: text: texts come from this list, or from --texts. Leave one" in err) == (2, True)


def test_files_of_equal_names_and_their_order_are_in_the_request(tmp_path):
    for channel in ("t1", "t2"):
        (tmp_path / channel).mkdir()
        (tmp_path / channel / "x.nii.gz").write_text(channel)
    paths = (tmp_path / "t1" / "x.nii.gz", tmp_path / "t2" / "x.nii.gz")
    first = hash_inputs(paths)
    assert set(first) == {"x.nii.gz (channel 0)", "x.nii.gz (channel 1)"}
    assert first != hash_inputs(paths[::-1]), "exchanged channels are another request"
    numbered = tuple(tmp_path / f"a_000{channel}.nii.gz" for channel in (0, 1))
    for path, copy in zip(paths, numbered, strict=True):
        shutil.copy(path, copy)
    assert set(hash_inputs(numbered)) == {"a_0000.nii.gz", "a_0001.nii.gz"}
    assert set(hash_inputs(paths[:1])) == {"x.nii.gz"}


def test_no_mask_replaces_another_scan(predict, root, make_scan):
    for index, case in enumerate("ab"):
        make_scan(root / "in" / f"{case}.nii.gz", seed=index)
    rows = [{"case": "b", "images": ["a.nii.gz"]}, {"case": "a", "images": ["b.nii.gz"]}]
    cases = root / "in" / "cases.json"
    cases.write_text(json.dumps({"cases": rows}))
    before = (root / "in" / "b.nii.gz").read_bytes()
    code, _, err = predict("--list", cases, "-o", root / "in", "--overwrite")
    assert (code, f"case b: {root}/in/b.nii.gz is the scan of case a. Choose another output folder." in err) == (
        2,
        True,
    )
    assert (root / "in" / "b.nii.gz").read_bytes() == before
