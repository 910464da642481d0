"""Several reference masks of one case, found by their names."""

import json

import pytest

from plans.errors import UserError
from plans.raw.dataset import Dataset, read_dataset
from plans.raw.raters import almost_rater

HEADER = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"}


def write(folder, *labels, images=("x_0000.nii.gz", "y_0000.nii.gz"), **header):
    folder.mkdir()
    (folder / "dataset.json").write_text(json.dumps(HEADER | header))
    for part, names in (("imagesTr", images), ("labelsTr", labels)):
        (folder / part).mkdir()
        for name in names:
            (folder / part / name).touch()
    return folder


def names(dataset):
    return {case.id: [path.name for path in case.references] for case in dataset.cases}


def test_the_references_of_a_case_are_ordered_plain_first_then_by_number(tmp_path):
    labels = ["x.rater10.nii.gz", "x.rater2.nrrd", "x.nii.gz", "x.rater1.nii.gz", "y.rater1.nii.gz"]
    dataset = read_dataset(write(tmp_path / "d", *labels))
    assert names(dataset) == {
        "x": ["x.nii.gz", "x.rater1.nii.gz", "x.rater2.nrrd", "x.rater10.nii.gz"],
        "y": ["y.rater1.nii.gz"],
    }
    assert Dataset.model_validate_json(dataset.model_dump_json()) == dataset


def test_one_reference_per_case_needs_no_note(tmp_path):
    assert read_dataset(write(tmp_path / "d", "x.nii.gz", "y.nii.gz")).notes == ()


def test_notes_on_raters_name_the_counts_a_plain_reference_and_a_gap(tmp_path):
    notes = read_dataset(write(tmp_path / "d", "x.nii.gz", "x.rater1.nii.gz", "x.rater3.nii.gz", "y.nii.gz")).notes
    assert len(notes) == 3
    assert "cases with several references: 1 of 2, with at most 3 each" in notes[0]
    assert "cases with a plain reference beside those of raters: 1." in notes[1]
    assert "case x has rater1, rater3, so a number is missing" in notes[2]


def test_a_single_rater_is_an_ordinary_reference_and_numbers_may_start_at_0(tmp_path):
    assert read_dataset(write(tmp_path / "d", "x.rater1.nii.gz", "y.rater1.nii.gz")).notes == ()
    notes = read_dataset(write(tmp_path / "e", "x.rater0.nii.gz", "x.rater1.nii.gz", "y.rater1.nii.gz")).notes
    assert len(notes) == 1


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["x.rater1.nii.gz", "x.rater1.nrrd", "y.nii.gz"], "would be one case. Remove one"),
        (["x.rater1.nii.gz", "x.rater01.nii.gz", "y.nii.gz"], "are files of one rater"),
        (["x.rater1.nii.gz", "y.nii.gz", "z.rater1.nii.gz"], "z.rater1.nii.gz has no image"),
        (["x_rater1.nii.gz", "x.rater2.nii.gz", "y.nii.gz"], "of case x, name it like x.rater1.nii.gz"),
        (["x.raterA.nii.gz", "x.nii.gz", "y.nii.gz"], "of case x, name it like x.rater1.nii.gz"),
        (["x.rater1.nii.gz"], "y.nii.gz is missing"),
    ],
)
def test_a_file_that_fits_no_rater_is_one_line(tmp_path, labels, words):
    with pytest.raises(UserError) as error:
        read_dataset(write(tmp_path / "d", *labels))
    assert any(words in line for line in error.value.lines)


def test_a_case_whose_own_name_looks_like_a_rater_stays_a_case(tmp_path):
    images = ("x_0000.nii.gz", "x.rater1_0000.nii.gz")
    dataset = read_dataset(write(tmp_path / "d", "x.nii.gz", "x.rater1.nii.gz", images=images))
    assert names(dataset) == {"x": ["x.nii.gz"], "x.rater1": ["x.rater1.nii.gz"]}
    assert dataset.notes == ()


def test_a_plain_image_name_that_ends_in_four_digits_may_have_raters_only(tmp_path):
    labels = ["scan_2019.rater1.nii.gz", "scan_2019.rater2.nii.gz"]
    dataset = read_dataset(write(tmp_path / "d", *labels, images=("scan_2019.nii.gz",)))
    assert names(dataset) == {"scan_2019": ["scan_2019.rater1.nii.gz", "scan_2019.rater2.nii.gz"]}


def test_dataset_json_may_list_one_label_per_rater(tmp_path):
    entry = {"images": ["imagesTr/x_0000.nii.gz"], "label": ["labelsTr/first.nii.gz", "labelsTr\\second.nii.gz"]}
    folder = write(tmp_path / "d", "first.nii.gz", "second.nii.gz", dataset={"x": entry})
    assert names(read_dataset(folder)) == {"x": ["first.nii.gz", "second.nii.gz"]}
    for label, words in (([], "expected images"), ([1], "expected images"), (["labelsTr/first.nii.gz"] * 2, "twice")):
        (folder / "dataset.json").write_text(json.dumps(HEADER | {"dataset": {"x": entry | {"label": label}}}))
        with pytest.raises(UserError, match=words):
            read_dataset(folder)


def test_a_misspelled_name_is_matched_with_its_case_only():
    assert almost_rater("x_rater1", {"x"}) == almost_rater("x.Rater_2", {"x"}) == "x"
    assert almost_rater("z_rater1", {"x"}) is None
    assert almost_rater("x", {"x"}) is None
