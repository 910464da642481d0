"""The report on a folder of segmentations: the order of the check, and pictures of the right scans only."""

import json
import weakref

import pytest

import textdiffseg as tds
from plans.file_names import manifest_path
from plans.layout import REPORT
from textdiffseg.files import write_record
from textdiffseg.folds.expected_dice import ExpectedDice
from textdiffseg.inference.volumes import VolumeInterval
from textdiffseg.report.segmented import SegmentedScan
from textdiffseg.report.shown import shown_case
from textdiffseg.tasks import report_segmentations
from textdiffseg.tasks.manifest import read_manifest
from textdiffseg.tasks.report_segmentations import finished_manifests, segmentations_sections
from textdiffseg_cli.predict import main


def scan(name, volume=1.0, dice=None, threshold=0.5):
    expected = None if dice is None else ExpectedDice(mean=dice, labels={"liver": dice}, threshold=threshold)
    return SegmentedScan(name, (VolumeInterval(label="liver", volume_ml=volume),), expected, ())


def test_empty_masks_come_first_then_low_expected_dice_then_unknown():
    scans = [scan("unknown"), scan("good", dice=0.9), scan("poor", dice=0.2), scan("empty", 0.0)]
    ordered = sorted(scans, key=lambda one: one.order)
    assert [one.name for one in ordered] == ["empty", "poor", "good", "unknown"]
    assert [bool(one.advice) for one in ordered] == [True, True, False, False]
    assert ordered[1].advice == "Check this mask: its expected Dice is 0.20 (threshold 0.50)."


def test_a_label_that_is_probably_missing_is_named_where_the_mean_is_not_low():
    expected = ExpectedDice(mean=0.55, labels={"liver": 0.9, "oesophagus": 0.01, "larynx": 0.4}, threshold=0.5)
    scan = SegmentedScan("a", (VolumeInterval(label="liver", volume_ml=1.0),), expected, ())
    assert scan.advice == "Check oesophagus (expected Dice 0.01)."


def test_the_expected_dice_differs_from_the_threshold_in_print():
    assert scan("a", dice=0.716, threshold=0.719).advice.endswith("is 0.716 (threshold 0.719).")


@pytest.fixture
def out(root, make_scan):
    """Two segmented scans, with their report."""
    for index, case in enumerate("ab"):
        make_scan(root / "scans" / f"{case}_0000.nii.gz", seed=index)
    place = root / "out"
    assert main(["--root", str(root), "-i", str(root / "scans"), "-o", str(place), "--report"]) == 0
    return place


def test_the_report_of_a_prediction(out, root, make_scan):
    page = (out / REPORT).read_text(encoding="utf-8")
    assert [f'id="{one}"' in page for one in ("check", "cases", "viewer", "volumes")] == [True] * 4
    assert "There is no picture" not in page
    path = manifest_path(out / "b.nii.gz")
    low = ExpectedDice(mean=0.1, labels={"back": 0.1}, threshold=0.5)
    write_record(path, read_manifest(path).model_copy(update={"expected_dice": low}))
    make_scan(root / "scans" / "a_0000.nii.gz", seed=7)
    sections, shown = segmentations_sections(out, finished_manifests(out), root / "scans")
    assert [one.name for one in shown] == ["b"]
    bodies = {section.anchor: section.body for section in sections}
    assert bodies["check"].index('<td class="word">b') < bodies["check"].index('<td class="word">a')
    assert "a_0000.nii.gz has changed since it was segmented" in bodies["cases"]
    sections, shown = segmentations_sections(out, finished_manifests(out), None)
    assert shown == []
    assert "Give their folder with --scans" in sections[1].body
    with pytest.raises(tds.UserError, match="--preset"):
        tds.write_report(out, root / "x.html", preset="unet")


def test_one_scan_is_in_memory_at_a_time(out, root, monkeypatch):
    made = []

    def tracked(*arguments, **options):
        assert not any(one() for one in made), "an earlier scan is still there"
        case = shown_case(*arguments, **options)
        made.append(weakref.ref(case.image))
        return case

    monkeypatch.setattr(report_segmentations, "shown_case", tracked)
    monkeypatch.setattr(report_segmentations, "MAX_VIEWED", 1)
    sections, viewed = segmentations_sections(out, finished_manifests(out), root / "scans")
    assert (len(made), len(viewed)) == (2, 1)
    assert sections[1].body.count("<img") == 2


def test_two_masks_of_one_scan_are_both_shown(root, make_scan):
    make_scan(root / "scans" / "a_0000.nii.gz")
    for name, prompt in (("x.nii.gz", "back"), ("y.nii.gz", "Front_Part")):
        options = ["-i", root / "scans" / "a_0000.nii.gz", "-o", root / "out" / name, "--prompt", prompt]
        assert main(["--root", str(root), *map(str, options)]) == 0
    _, shown = segmentations_sections(root / "out", finished_manifests(root / "out"), root / "scans")
    assert sorted(one.name for one in shown) == ["x", "y"]
    with pytest.raises(tds.UserError, match="Give them with --scans"):
        tds.write_report(root / "out", root / "x.html", series="1.2")


def test_a_page_of_the_user_is_noticed_before_the_prediction(root, make_scan, capsys):
    make_scan(root / "scans" / "a_0000.nii.gz")
    (root / "out").mkdir()
    (root / "out" / REPORT).write_text("<p>mine</p>")
    options = ["--root", str(root), "-i", str(root / "scans"), "-o", str(root / "out"), "--report"]
    assert main(options) == 2
    assert "is not a report" in capsys.readouterr().err
    assert [one.name for one in (root / "out").iterdir()] == [REPORT]


def test_a_fault_of_the_report_does_not_hide_the_outcome(root, make_scan, capsys, monkeypatch):
    def fail(*_, **__):
        raise PermissionError(13, "Permission denied")

    make_scan(root / "scans" / "a_0000.nii.gz")
    (root / "scans" / "b_0000.nii.gz").write_bytes(b"no scan")
    options = ["--root", str(root), "-i", str(root / "scans"), "-o", str(root / "out"), "--report"]
    with monkeypatch.context() as patch:
        patch.setattr(tds, "write_report", fail)
        assert main(options) == 2
        out, err = capsys.readouterr()
        assert "1 predicted, 0 complete already" in out
        assert "b_0000.nii.gz" in err
        assert "Permission denied. The report is not written." in err
        assert main([*options, "--json"]) == 2
        assert json.loads(capsys.readouterr().out)["page"] is None
    assert main([*options, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["page"] == str(root / "out" / REPORT)
