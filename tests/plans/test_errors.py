"""Lines of an error name the case, long lists are cut, and equal lines are merged."""

import pytest

from plans.errors import MAX_EQUAL_LINES, UserError, listed, merged


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
def test_other_lines_get_the_case_in_front(line):
    assert UserError("case 1: x", line).naming("1") == ("case 1: x", f"case 1: {line}")


def test_long_lists_are_cut():
    assert listed((3, 1)) == "3, 1"
    assert listed(range(12)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"


def test_equal_faults_of_many_cases_are_one_line_with_a_count():
    faults = [(f"pt_{n}", f"case pt_{n}: /d/pt_{n}.nii.gz has 1{n} slices, grid {n}x{n}x3.") for n in range(12)]
    (line,) = merged(faults)
    assert line.startswith("case pt_0: /d/pt_0.nii.gz has 10 slices, grid 0x0x3. 12 cases are alike: pt_0, pt_1, pt_2")
    assert line.endswith("pt_9 and 2 more.")
    assert merged(faults[:MAX_EQUAL_LINES]) == tuple(line for _, line in faults[:MAX_EQUAL_LINES])


def test_faults_that_differ_in_more_than_the_case_stay_apart_and_in_order():
    faults = [(case, f"case {case}: {what}") for case in "abcd" for what in ("no label", "its label is empty")]
    faults.append(("e", "case e: spacing 1.0"))
    lines = merged(faults)
    assert len(lines) == 3
    assert lines[0] == "case a: no label 4 cases are alike: a, b, c, d."
    assert lines[-1] == "case e: spacing 1.0"
