"""Lists of scans and masks in a CSV file."""

from unicodedata import normalize

import pytest

from plans.errors import UserError
from plans.raw.pair_list import read_pairs


@pytest.fixture
def read(tmp_path):
    """A function: the pairs of a list, beside which some files lie."""
    for name in ("a.nii.gz", "b.nii.gz", "c.nii.gz", "d.nii.gz", "e.nii.gz", "m.nii.gz"):
        (tmp_path / name).touch()

    def read(content):
        (tmp_path / "list.csv").write_text(content)
        return read_pairs(tmp_path / "list.csv")

    return read


def test_channels_have_the_order_of_their_columns(read, tmp_path):
    (one, two) = read("Case\timage_1\timage_0\tmask\np1\tb.nii.gz\ta.nii.gz\tm.nii.gz\n\np2\t\tc.nii.gz\tm.nii.gz\n")
    assert (one.case, one.mask) == ("p1", tmp_path / "m.nii.gz")
    assert one.images == (tmp_path / "a.nii.gz", tmp_path / "b.nii.gz")
    assert two.images == (tmp_path / "c.nii.gz",)


def test_each_bad_row_is_named_by_its_number_in_the_file(read):
    with pytest.raises(UserError) as error:
        read(
            "case,image,mask\n"
            "\n"
            "p1,a.nii.gz,m.nii.gz\n"
            ",,\n"
            "P1,a.nii.gz,m.nii.gz\n"
            "p2,gone.nii.gz,m.nii.gz\n"
            "../p3,a.nii.gz,m.nii.gz\n"
            "p4,a.nii.gz,m.nii.gz,more\n"
            "p5,a.nii.gz,\n"
        )
    lines = [line.partition("list.csv: ")[2] for line in error.value.lines]
    assert lines[0].startswith("row 5: case: 'P1' is the case of row 3, too.")
    assert lines[1] == "row 6: gone.nii.gz does not exist. A relative path starts in the folder of the list."
    assert lines[2].startswith("row 7: case: expected one plain file name")
    assert lines[3] == "row 8: 4 fields, expected 3. Put a field that holds ',' in double quotes."
    assert lines[4].startswith("row 9: an empty path does not exist.")
    assert len(lines) == 5


@pytest.mark.parametrize(
    ("rows", "owner"),
    [
        ("p1,a.nii.gz,b.nii.gz,m.nii.gz\np2,c.nii.gz,./a.nii.gz,m.nii.gz", "row 2"),
        ("p0,b.nii.gz,,m.nii.gz\np1,a.nii.gz,a.nii.gz,m.nii.gz", "row 3"),
        ("p0,b.nii.gz,,m.nii.gz\np1,a.nii.gz,,a.nii.gz", "row 3"),
    ],
)
def test_a_scan_belongs_to_one_case_and_is_not_its_own_mask(read, rows, owner):
    with pytest.raises(UserError, match=rf"row 3: \S*a\.nii\.gz is a file of {owner} already"):
        read(f"case,image_0,image_1,mask\n{rows}\n")


def test_a_short_row_is_one_line_whatever_the_order_of_columns(read):
    with pytest.raises(UserError, match=r"list.csv: row 2: case: expected one plain file name"):
        read("image,mask,case\na.nii.gz\n")


def test_names_that_would_share_files_are_refused(read):
    with pytest.raises(UserError) as error:
        read(
            "case,image,mask\n"
            "p1_0000,a.nii.gz,m.nii.gz\n"
            "p1,b.nii.gz,m.nii.gz\n"
            "p1_0001,c.nii.gz,m.nii.gz\n"
            f"{normalize('NFC', 'é')},d.nii.gz,m.nii.gz\n"
            f"{normalize('NFD', 'é')},e.nii.gz,m.nii.gz\n"
        )
    lines = [line.partition("list.csv: ")[2] for line in error.value.lines]
    assert lines[0].startswith("row 2: case: 'p1_0000' would be a channel of case 'p1'.")
    assert "is the case of row 5, too" in lines[-1]
    assert {line[:5] for line in lines} == {"row 2", "row 6"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "lists no case"),
        ("case,image,mask\n", "lists no case"),
        ("case,mask\np,m.nii.gz\n", "columns 'image': unknown, missing or double"),
        ("case,image,mask,age\np,a.nii.gz,m.nii.gz,5\n", "columns 'age'"),
        ('case,image,mask\np,"a.nii.gz,m.nii.gz\n', "row 2: unexpected end of data. Correct the quotes"),
    ],
)
def test_a_list_that_cannot_be_read_is_one_line(read, content, message):
    with pytest.raises(UserError, match=message):
        read(content)
