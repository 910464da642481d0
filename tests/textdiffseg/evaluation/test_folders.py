"""Scoring folders: files by name, names of labels, and a message for every fault."""

import csv
import json
import os
import shutil

import numpy as np
import pytest

import textdiffseg as tds
from plans.errors import UserError
from textdiffseg.evaluation.folders import evaluate_folders
from textdiffseg.evaluation.reference_labels import read_annotations
from textdiffseg.evaluation.summary import Summary
from textdiffseg.imaging.sources.files import read_labels
from textdiffseg.imaging.volume import Geometry
from textdiffseg.imaging.writers.files import write_labels, write_volume
from textdiffseg_cli import evaluate


@pytest.fixture
def pair(tiny_raw, tmp_path):
    """(predictions, references): predictions equal the references."""
    references = tiny_raw / "labelsTr"
    shutil.copytree(references, tmp_path / "predictions")
    return tmp_path / "predictions", references


def rewrite(path, change=None, geometry=None):
    volume = read_labels(path)
    array = volume.array[0].copy()
    if change:
        change(array)
    write_labels(path, array, geometry or volume.geometry)


def test_equal_folders_score_one_with_names_from_dataset_json(pair):
    summary = evaluate_folders(*pair)
    assert summary.mean.dice == 1.0
    assert set(summary.labels) == {"bright cube", "dark cube"}
    assert [case.case for case in summary.cases] == [f"tiny_{index:02d}" for index in range(4)]
    assert summary.notes == ()


def test_workers_change_nothing(pair):
    rewrite(pair[0] / "tiny_01.nii.gz", lambda array: np.copyto(array[:9], 0))
    assert evaluate_folders(*pair, workers=1) == evaluate_folders(*pair)


def test_two_files_are_one_case(pair):
    predictions, references = pair
    summary = evaluate_folders(predictions / "tiny_00.nii.gz", references / "tiny_03.nii.gz")
    assert [case.case for case in summary.cases] == ["tiny_03"]
    assert summary.mean.dice < 1


def test_formats_may_differ(pair):
    predictions, references = pair
    for path in sorted(predictions.iterdir()):
        volume = read_labels(path)
        write_labels(predictions / path.name.replace(".nii.gz", ".mha"), volume.array[0], volume.geometry)
        path.unlink()
    assert evaluate_folders(predictions, references).mean.dice == 1.0


def test_missing_predictions_are_all_named_or_left_out_on_request(pair):
    predictions, references = pair
    (predictions / "tiny_00.nii.gz").unlink()
    (predictions / "tiny_02.nii.gz").unlink()
    with pytest.raises(UserError) as caught:
        evaluate_folders(predictions, references)
    assert "tiny_00" in str(caught.value)
    assert "tiny_02" in str(caught.value)
    assert "--partial" in str(caught.value)
    summary = evaluate_folders(predictions, references, partial_predictions=True)
    assert [case.case for case in summary.cases] == ["tiny_01", "tiny_03"]
    assert "2 references" in summary.notes[0]


def test_extra_predictions_and_other_files_are_left_out(pair):
    predictions, references = pair
    shutil.copy(predictions / "tiny_00.nii.gz", predictions / "other.nii.gz")
    (predictions / "manifest.json").write_text("{}")
    summary = evaluate_folders(predictions, references)
    assert len(summary.cases) == 4
    assert "1 predictions without a reference were left out: other." in summary.notes[0]


def test_all_broken_cases_are_reported_at_once(pair):
    predictions, references = pair
    path = predictions / "tiny_00.nii.gz"
    geometry = read_labels(path).geometry
    moved = geometry.affine.copy()
    moved[0, 3] += 1.0
    rewrite(path, geometry=Geometry(geometry.shape, moved))
    rewrite(predictions / "tiny_01.nii.gz", lambda array: np.copyto(array[:2, :2, :2], 9))
    (predictions / "tiny_02.nii.gz").write_bytes(b"no image")
    with pytest.raises(UserError) as caught:
        evaluate_folders(predictions, references)
    text = str(caught.value)
    assert "another grid" in text
    assert "label values 9," in text
    for case in ("tiny_00", "tiny_01", "tiny_02"):
        assert case in text


def test_without_dataset_json_labels_are_values(pair, tmp_path):
    predictions, references = pair
    lonely = tmp_path / "elsewhere" / "references"
    shutil.copytree(references, lonely)
    summary = evaluate_folders(predictions, lonely)
    assert list(summary.labels) == ["1", "2"]
    assert "dataset.json" in summary.notes[0]


def test_files_without_a_common_value_are_noted(pair, tmp_path):
    predictions, references = pair
    lonely = tmp_path / "elsewhere" / "references"
    shutil.copytree(references, lonely)
    assert not any("No label value is in both" in note for note in evaluate_folders(predictions, lonely).notes)
    for path in lonely.iterdir():
        rewrite(path, lambda array: np.multiply(array, 10, out=array))
    summary = evaluate_folders(predictions, lonely)
    assert summary.mean.dice == 0
    assert summary.notes[1].startswith(
        "No label value is in both: the predictions have 1, 2, the references have 10, 20. So every Dice is 0."
    )
    for path in predictions.iterdir():
        rewrite(path, lambda array: array.fill(0))
    assert len(evaluate_folders(predictions, lonely).notes) == 1, "masks that are empty have no other values"


@pytest.mark.parametrize("side", [0, 1])
def test_without_dataset_json_a_value_below_0_is_refused(pair, tmp_path, side):
    """It would be ignored in a reference, and be absent in a prediction. 255 in signed bytes is -1."""
    folders = [pair[0], tmp_path / "elsewhere" / "references"]
    shutil.copytree(pair[1], folders[1])
    path = min(folders[side].iterdir())
    volume = read_labels(path)
    write_volume(path, np.negative(volume.array[0], dtype=np.int16), volume.geometry)
    with pytest.raises(UserError, match=r"has the value -2\. Expected 0 for background") as error:
        evaluate_folders(*folders)
    assert str(path) in str(error.value)


def manifest(segmentation, **fields) -> None:
    path = segmentation.with_name(segmentation.name.replace(".nii.gz", ".json"))
    path.write_text(json.dumps({"request": {}} | fields))


def test_without_dataset_json_names_are_those_of_the_predictions(pair, tmp_path):
    predictions, references = pair
    lonely = tmp_path / "elsewhere" / "references"
    shutil.copytree(references, lonely)
    for path in sorted(predictions.glob("*.nii.gz")):
        manifest(path, labels={"Bright": 1, "dark cube": 2}, means={"Bright": "bright cube"})
    manifest(predictions / "tiny_03.nii.gz", labels={"dark cube": 2})
    summary = evaluate_folders(predictions, lonely)
    assert set(summary.labels) == {"bright cube", "dark cube"}
    assert "names are from the predictions' JSON" in summary.notes[0]
    assert set(summary.cases[3].labels) == {"dark cube"}, "the other label was not queried"
    assert summary.mean.dice == 1.0
    manifest(predictions / "tiny_03.nii.gz", labels={"another": 2})
    assert set(evaluate_folders(predictions, lonely).labels) == {"bright cube", "2"}, "two names of one value"
    manifest(predictions / "tiny_03.nii.gz", labels={"bright cube": 2})
    assert set(evaluate_folders(predictions, lonely).labels) == {"1", "2"}, "two values of one name"


def test_without_dataset_json_labels_that_overlap_are_unions_as_the_manifests_say(pair, tmp_path):
    predictions, references = pair
    lonely = tmp_path / "elsewhere" / "references"
    shutil.copytree(references, lonely)
    for path in sorted(predictions.glob("*.nii.gz")):
        manifest(path, labels={"both": 1, "dark": 2}, parts={"both": [1, 2], "dark": [2]})

        def all_bright(array):
            array[array > 0] = 1

        rewrite(path, all_bright)
    found = evaluate_folders(predictions, lonely).labels
    assert (found["both"].dice, found["dark"].dice) == (1.0, 0.0)


def test_alternatives_are_not_needed_for_one_reference(pair):
    predictions, references = pair
    for path in sorted(predictions.glob("*.nii.gz")):
        manifest(path, labels={"bright cube": 1}, alternatives=[{"file": "gone.nii.gz", "share": 1.0}])
    assert evaluate_folders(predictions, references).mean.dice == 1.0
    one = "tiny_00.nii.gz"
    assert evaluate_folders(predictions / one, references / one).mean.dice == 1.0


def test_names_are_those_of_nnunets_dataset_json_beside_its_predictions(pair, tmp_path):
    predictions, references = pair
    (references.parent / "dataset.json").replace(predictions / "dataset.json")
    summary = evaluate_folders(predictions, references)
    assert set(summary.labels) == {"bright cube", "dark cube"}
    assert summary.notes == ()


@pytest.mark.parametrize(
    "text",
    [
        '{"labels": ["a"], "Modality": "MR"}',
        "[1]",
        '"x"',
        "not JSON",
        '{"labels": {"1": "a"}}',
        '{"labels": {"count": 7}}',
    ],
)
def test_a_sidecar_of_others_is_not_taken_for_a_manifest(pair, text):
    predictions, _ = pair
    for path in sorted(predictions.glob("*.nii.gz")):
        path.with_name(path.name.replace(".nii.gz", ".json")).write_text(text)
    summary = evaluate_folders(*pair)
    assert summary.mean.dice == 1.0
    assert len(summary.notes) == 1
    assert "so they were not read: tiny_00.json, tiny_01.json" in summary.notes[0]


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("other", ["tiny_00.nrrd", "tiny_00.NII", "tiny_00/"])
def test_two_segmentations_of_one_case_are_refused(pair, side, other):
    path = pair[side] / other
    if other.endswith("/"):
        path.mkdir()
    else:
        path.touch()
    with pytest.raises(UserError, match=r"tiny_00.* would be one"):
        evaluate_folders(*pair)


def test_many_missing_predictions_are_one_line(pair):
    for path in sorted(pair[0].iterdir()):
        shutil.copy(path, pair[1] / path.name.replace("tiny", "more"))
    with pytest.raises(UserError) as caught:
        evaluate_folders(*pair)
    assert "4 cases are alike: more_00, more_01, more_02, more_03." in caught.value.lines[0]
    assert len(caught.value.lines) == 2


def test_scores_are_written_as_csv(pair, tmp_path, capsys, leave_temporary):
    rewrite(pair[0] / "tiny_01.nii.gz", lambda array: np.copyto(array, 0, where=array == 2))
    path = tmp_path / "out" / "scores.csv"
    assert evaluate.main([*map(str, pair), "--csv", str(path)]) == 0
    assert str(path) in capsys.readouterr().out.replace("\n", "")
    rows = list(csv.DictReader(path.open(encoding="utf-8")))
    assert [(row["case"], row["label"]) for row in rows[:2]] == [("tiny_00", "bright cube"), ("tiny_00", "dark cube")]
    assert len(rows) == 8
    assert (rows[3]["dice"], rows[3]["hd95_mm"], rows[3]["note"]) == ("0.0", "", "missed: not in the prediction")
    again = tmp_path / "again.csv"
    leftover = leave_temporary(again)
    tds.evaluate(*pair, csv=again)
    assert not leftover.exists(), "of a killed run"
    assert again.read_bytes() == path.read_bytes()
    with pytest.raises(UserError, match="have the same name"):
        tds.evaluate(*pair, csv=again, output=again)


def test_names_are_read_in_nnunets_and_the_decathlons_way(tmp_path):
    folder = tmp_path / "labelsTr"
    folder.mkdir()
    for labels in ({"background": 0, "liver": 3}, {"0": "background", "3": "liver"}):
        (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
        labels = read_annotations(folder, ["a"])
        assert labels.annotations["a"].values == labels.values == {"liver": 3}


def header(references, **changes):
    path = references.parent / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_voxels_whose_reference_is_ignored_count_for_neither(pair):
    predictions, references = pair
    labels = {"background": 0, "bright cube": 1, "dark cube": 2, "ignore": 9}
    for path in sorted(references.iterdir()):
        rewrite(path, lambda array: np.copyto(array[:10], 9))
    for path in sorted(predictions.iterdir()):
        rewrite(path, lambda array: np.copyto(array[:10], 1))
    header(references, labels=labels)
    summary = evaluate_folders(predictions, references)
    assert summary.mean.dice == 1.0
    assert set(summary.labels) == {"bright cube", "dark cube"}
    fault = r"has the value 9 \(ignore\), which only references may have"
    with pytest.raises(UserError, match=fault):
        evaluate_folders(references, references)  # nothing predicts "ignore"


def test_labels_are_matched_by_name_where_a_manifest_has_them(pair):
    predictions, references = pair
    given = {"Bright_Cube": 3, "dark cube": 1, "orb": 2}
    for path in sorted(predictions.iterdir()):
        rewrite(path, lambda array: np.copyto(array, np.array([0, 3, 1], np.uint8)[array]))
        rewrite(path, lambda array: np.copyto(array[:1], 2))  # no label of these references
        manifest(path, labels=given, other=1)
    assert evaluate_folders(predictions, references).mean.dice == 1.0
    for path in sorted(predictions.glob("*.nii.gz")):
        manifest(path, labels={"a bright box": 1, "dark cube": 2})  # the first was renamed since
    for path in sorted(references.iterdir()):
        shutil.copy(path, predictions)
    assert evaluate_folders(predictions, references).mean.dice == 1.0


def test_labels_that_were_not_queried_are_not_scored(pair):
    predictions, _ = pair
    for path in sorted(predictions.iterdir()):
        rewrite(path, lambda array: np.copyto(array, 0, where=array == 2))
        manifest(path, labels={"bright cube": 1}, notes=["Text encoder: another."])
    summary = evaluate_folders(*pair)
    assert summary.mean.dice == 1.0
    assert set(summary.labels) == {"bright cube"}
    assert summary.notes[:2] == (
        "Text encoder: another.",
        "Not queried in all predictions, and not scored there: dark cube.",
    )
    for path in predictions.glob("*.json"):
        path.write_text(json.dumps({"request": {}, "labels": {"a bright box": 7}}))
    with pytest.raises(UserError, match=r"contains a label of the references \(bright cube, dark cube\)"):
        evaluate_folders(*pair)


def test_labels_that_a_case_does_not_annotate_are_not_scored(pair):
    references = pair[1]
    rewrite(references / "tiny_01.nii.gz", lambda array: np.copyto(array, 0, where=array == 2))
    assert evaluate_folders(*pair).labels["dark cube"].one_empty == 1
    header(references, annotated={"tiny_01": ["bright cube"], "a case elsewhere": ["dark cube"]})
    summary = evaluate_folders(*pair)
    assert summary.mean.dice == 1.0
    assert summary.labels["dark cube"].scored == 3
    assert set(summary.cases[1].labels) == {"bright cube"}


@pytest.mark.parametrize("kind", ["absent", "empty"])
def test_nothing_to_score_is_an_error(pair, tmp_path, kind):
    folder = tmp_path / kind
    if kind == "empty":
        folder.mkdir()
    with pytest.raises(UserError, match=kind):
        evaluate_folders(folder, pair[1])


def test_folders_without_a_common_name_show_examples(pair, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(pair[0] / "tiny_00.nii.gz", other / "a.nii.gz")
    with pytest.raises(UserError, match=r"\(a\.nii\.gz\) has the name of a file in .*\(tiny_00"):
        evaluate_folders(other, pair[1], partial_predictions=True)


def test_the_command_prints_a_table_and_writes_the_summary(pair, tmp_path, capsys):
    out = tmp_path / "out" / "summary.json"
    assert evaluate.main([str(pair[0]), str(pair[1]), "-o", str(out), "--cases"]) == 0
    shown = capsys.readouterr().out
    for word in ("dark cube", "1.0000", "tiny_03", "absent from both"):
        assert word in shown
    assert json.loads(out.read_text())["mean"]["dice"] == 1.0


def test_the_name_of_a_file_that_is_not_read_loses_no_scores(pair, tmp_path, capsys):
    (pair[1] / "a\x1b[31m\nb.png").write_bytes(b"")
    out = tmp_path / "summary.json"
    assert evaluate.main([str(pair[0]), str(pair[1]), "-o", str(out)]) == 0
    assert "\x1b" not in capsys.readouterr().out
    (note,) = Summary.read(out).notes
    assert "a\\x1b[31m\\nb.png" in note


@pytest.mark.parametrize("option", ["-o", "--csv"])
def test_a_place_that_cannot_be_written_is_refused_before_the_work(pair, tmp_path, capsys, monkeypatch, option):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("textdiffseg.tasks.evaluate.evaluate_folders", lambda *_, **__: pytest.fail("it was scored"))
    path = tmp_path / "file" / "scores"
    assert evaluate.main([*map(str, pair), option, str(path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {path.parent}: ")


@pytest.mark.parametrize("option", ["-o", "--csv"])
@pytest.mark.parametrize("json_option", [[], ["--json"]])
def test_scores_that_cannot_be_written_are_printed_before_the_error(
    pair, tmp_path, capsys, full_disk, monkeypatch, option, json_option
):
    path = tmp_path / "scores"
    monkeypatch.setattr("textdiffseg.tasks.evaluate.check_place", lambda _: None)  # the disk becomes full later
    with full_disk():
        assert evaluate.main([*map(str, pair), option, str(path), *json_option]) == 2
    shown = capsys.readouterr()
    assert "dark cube" in shown.out
    assert "Written" not in shown.out
    assert "larger than this shell or file system allows" in shown.err
    assert "it resumes" not in shown.err


def test_the_command_writes_nothing_when_it_fails(pair, tmp_path, capsys):
    (pair[0] / "tiny_00.nii.gz").unlink()
    out = tmp_path / "out" / "summary.json"
    assert evaluate.main([str(pair[0]), str(pair[1]), "-o", str(out)]) == 2
    assert not out.exists()
    assert capsys.readouterr().err.startswith("error: ")


def test_labels_that_overlap_are_scored_as_unions_of_their_values(pair):
    predictions, references = pair
    path = references.parent / "dataset.json"
    header = json.loads(path.read_text())
    labels = {"background": 0, "both": [1, 2], "dark": 2}
    path.write_text(json.dumps(header | {"labels": labels, "regions_class_order": [1, 2]}))
    assert evaluate_folders(*pair).mean.dice == 1.0

    def all_bright(array):
        array[array > 0] = 1

    for case in predictions.iterdir():
        rewrite(case, all_bright)
    found = evaluate_folders(*pair).labels
    assert (found["both"].dice, found["dark"].dice) == (1.0, 0.0)


def test_two_files_of_one_case_are_both_named(pair):
    predictions, references = pair
    volume = read_labels(predictions / "tiny_00.nii.gz")
    for folder in pair:
        write_labels(folder / "tiny_00.nrrd", volume.array[0], volume.geometry)
        with pytest.raises(UserError, match=r"tiny_00\.nii\.gz and .*tiny_00\.nrrd would be one"):
            evaluate_folders(predictions, references)
        (folder / "tiny_00.nrrd").unlink()


def test_endings_in_capitals_are_read_and_other_images_are_named(pair):
    predictions, references = pair
    (predictions / "tiny_00.nii.gz").rename(predictions / "tiny_00.NII.GZ")
    (references / "tiny_01.mgz").touch()
    summary = evaluate_folders(predictions, references)
    assert summary.mean.dice == 1.0
    assert len(summary.cases) == 4
    assert any("not read: tiny_01.mgz" in note for note in summary.notes)


@pytest.mark.parametrize("side", [0, 1])
def test_a_link_that_leads_nowhere_is_one_line(pair, side):
    path = pair[side] / "tiny_00.nii.gz"
    path.unlink()
    path.symlink_to("nowhere.nii.gz")
    with pytest.raises(UserError, match=r"tiny_00\.nii\.gz is not a file"):
        evaluate_folders(*pair)


def test_a_manifest_with_a_huge_value_is_read(pair):
    for path in sorted(pair[0].glob("*.nii.gz")):
        manifest(path, labels={"bright cube": 1, "dark cube": 99999999999})
    assert evaluate_folders(*pair).labels["bright cube"].dice == 1


def test_a_name_that_is_not_utf_8_is_one_line(pair):
    predictions, references = pair
    for folder in pair:
        shutil.copy(folder / "tiny_00.nii.gz", folder / os.fsdecode(b"\xff.nii.gz"))
    with pytest.raises(UserError, match="expected a name of printable characters in UTF-8"):
        evaluate_folders(predictions, references)


@pytest.mark.parametrize("place", ["output", "csv"])
@pytest.mark.parametrize("name", ["tiny_00.nii.gz", "tiny_00.json", "dataset.json", "new.nii", "volumes.csv"])
def test_scores_never_replace_what_is_scored(pair, place, name):
    predictions, references = pair
    before = {path: path.read_bytes() for path in predictions.iterdir()}
    with pytest.raises(UserError, match="belongs to the data that is scored"):
        tds.evaluate(predictions, references, **{place: predictions / name})
    assert {path: path.read_bytes() for path in predictions.iterdir()} == before


@pytest.mark.parametrize("place", ["output", "csv"])
@pytest.mark.parametrize("name", [".", "..", "/"])
def test_scores_need_the_name_of_a_file(pair, place, name):
    with pytest.raises(UserError, match="is a folder"):
        tds.evaluate(*pair, **{place: name})


def test_labels_with_other_values_beside_the_predictions_are_refused(pair):
    predictions, references = pair
    header = json.loads((references.parent / "dataset.json").read_text())
    own = {name: value for name, value in header["labels"].items() if value}
    swapped = dict(zip(own, reversed(own.values()), strict=True))
    (predictions / "dataset.json").write_text(json.dumps(header | {"labels": {"background": 0, **swapped}}))
    with pytest.raises(UserError, match=r"cube has the value \d, but \d in the references' dataset\.json"):
        evaluate_folders(predictions, references)
    renamed = {"background": 0, **{f"a {name}": value for name, value in own.items()}}
    (predictions / "dataset.json").write_text(json.dumps(header | {"labels": renamed}))
    assert "so only values were compared: a " in evaluate_folders(predictions, references).notes[0]


def test_a_folder_against_itself_is_noted(pair):
    assert "are the same folder" in evaluate_folders(pair[1], pair[1]).notes[0]


def test_predictions_with_the_number_of_a_channel_get_a_hint(pair):
    predictions, references = pair
    (predictions / "tiny_00.nii.gz").rename(predictions / "tiny_00_0000.nii.gz")
    with pytest.raises(UserError, match=r"Rename predictions such as CASE_0000.nii.gz to CASE.nii.gz"):
        evaluate_folders(predictions, references)


def test_another_folder_is_compared_case_by_case(pair, tmp_path, capsys):
    predictions, references = pair
    other, out = tmp_path / "other", tmp_path / "summary.json"
    shutil.copytree(predictions, other)
    (other / "tiny_03.nii.gz").unlink()
    for index in (0, 1):
        rewrite(other / f"tiny_{index:02d}.nii.gz", lambda array: np.copyto(array, 0, where=array == 2))
    assert evaluate.main([*map(str, pair), "--against", str(other), "-o", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "only the first segmentations have them: tiny_03" in " ".join(shown.split())
    for word in ("Difference from", "95% interval", "+0.6667", "Wilcoxon"):
        assert word in shown
    found = Summary.read(out).comparison
    assert (found.only_first, found.only_second) == (("tiny_03",), ())
    dark = found.labels["dark cube"]["dice"]
    assert (dark.cases, dark.first, dark.difference) == (3, 1.0, pytest.approx(2 / 3))
    assert dark.interval_95 == (0.0, 1.0)
    assert found.labels["bright cube"]["nsd"].difference == 0
    assert found.labels["dark cube"]["hd95"].cases == 1, "a missed label has no distance"
    assert found.mean["dice"].difference == pytest.approx(1 / 3)
    assert Summary.read(out).mean.scored == 8, "the first folder is scored on all of its cases"
    (predictions / "tiny_02.nii.gz").unlink()
    with pytest.raises(UserError, match=r"has no prediction for .*tiny_02"):
        tds.evaluate(predictions, references, against=other)
    summary = tds.evaluate(predictions, references, against=other, partial=True)
    assert summary.comparison.only_second == ("tiny_02",)
    assert any(note == f"Not compared, because only {other} have them: tiny_02." for note in summary.notes)


def test_scores_are_kept_if_the_other_folder_cannot_be_scored(pair, tmp_path):
    other, out = tmp_path / "other", tmp_path / "summary.json"
    shutil.copytree(pair[0], other)
    with pytest.raises(UserError, match="is not a folder"):
        tds.evaluate(*pair, against=tmp_path / "absent", output=out)
    assert not out.exists(), "this is found before the work"
    (other / "tiny_02.nii.gz").write_bytes(b"no image")
    with pytest.raises(UserError, match="tiny_02"):
        tds.evaluate(*pair, against=other, output=out)
    assert Summary.read(out).mean.dice == 1.0


def test_lesions_are_scored_on_request(pair, tmp_path, capsys):
    predictions, _ = pair

    def add_false_lesions(array):
        array[:2, :2, :2] = array[-2:, -2:, -2:] = 2

    for case in ("tiny_00", "tiny_01"):
        rewrite(predictions / f"{case}.nii.gz", add_false_lesions)
    arguments = [*map(str, pair), "--csv", str(tmp_path / "s.csv")]
    assert evaluate.main([*arguments, "--lesions", "Dark_Cube"]) == 0
    assert "precision" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "s.csv").open(encoding="utf-8")))
    assert [row["lesions_predicted"] for row in rows[:4]] == ["", "3.0", "", "3.0"]
    summary = tds.evaluate(*pair, lesions=[])
    assert summary.labels["dark cube"].lesions.precision == pytest.approx((1 / 3 + 1 / 3 + 1 + 1) / 4)
    assert summary.labels["dark cube"].lesions.matched == summary.labels["bright cube"].lesions.matched == 4
    assert tds.evaluate(*pair).mean.lesions is None
    assert evaluate.main([*arguments, "--lesions", "liver"]) == 2
    expected = "error: --lesions: the references have no label liver. Expected one or more of bright cube, dark cube. "
    assert capsys.readouterr().err.startswith(expected)
