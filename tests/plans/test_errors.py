"""Lines of a mistake name the case; long lists are cut."""

import pytest

from plans.errors import UserError, listed


@pytest.mark.parametrize(
    "line",
    [
        "case 1: its label is empty.",
        "/data/imagesTr/1_0000.nii.gz: 3 channels.",
        "/data/1.nrrd is damaged.",
        "C:\\data\\1.MHA is damaged.",
        "/data/1: expected one DICOM series.",
    ],
)
def test_a_line_that_names_the_case_or_its_file_stays(line):
    assert UserError(line).naming("1") == (line,)


@pytest.mark.parametrize("line", ["its spacing 1/1/1 mm", "case 10: x", "/data/11_0000.nii.gz: x", "is 1.5/1 mm."])
def test_a_line_that_does_not_is_given_the_case(line):
    assert UserError("case 1: x", line).naming("1") == ("case 1: x", f"case 1: {line}")


def test_long_lists_are_cut():
    assert listed((3, 1)) == "3, 1"
    assert listed(range(12)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"
