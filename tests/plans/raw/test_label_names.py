"""Names of labels from a command line or a JSON file."""

import json

import pytest

from plans.errors import UserError
from plans.raw.label_names import named_labels, numbered_names


def test_names_and_values():
    assert named_labels(["liver=1", "left kidney = 7", "ignore=9"]) == {"liver": 1, "left kidney": 7, "ignore": 9}


@pytest.mark.parametrize(
    "fields",
    [
        {"liver": 1, "spleen": 2},
        {"1": "liver", "2": "spleen"},
        {"background": 0, "liver": 1, "spleen": 2},
        {"labels": {"background": 0, "liver": 1, "spleen": 2}, "file_ending": ".nii.gz"},
    ],
)
def test_a_json_file(tmp_path, fields):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(fields))
    assert named_labels([str(path)]) == {"liver": 1, "spleen": 2}


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (["liver"], "Expected NAME=VALUE"),
        (["liver=x"], "Expected NAME=VALUE"),
        (["liver=1", "liver=2"], "named twice"),
        (["liver=1", "spleen=1"], "share the value 1"),
        (["Liver=1", "liver_=2"], "read the same"),
        (["missing.json"], "missing.json"),
    ],
)
def test_faults_are_named(given, match):
    with pytest.raises(UserError, match=match):
        named_labels(given)


def test_labels_that_overlap_are_one_line(tmp_path):
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"labels": {"background": 0, "whole": [1, 2], "core": 2}}))
    with pytest.raises(UserError, match=r"labels that overlap\. Write dataset.json yourself"):
        named_labels([str(path)])


def test_equal_names_get_one_number():
    assert numbered_names(["Left Lung", "GTV", "left_lung"]) == {"Left Lung": 1, "GTV": 2}
