"""A list of cases as CSV or JSON: rows become scans, and each bad row gets a line."""

import json

import pytest

from plans.errors import UserError
from plans.raw.case_list import CaseList


@pytest.fixture
def folder(tmp_path):
    for name in ("a.nii.gz", "t1/x.nii.gz", "t2/x.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "series").mkdir()
    return tmp_path


@pytest.fixture
def read(folder):
    def of(content, name="cases.csv", encoding="utf-8"):
        (folder / name).write_bytes(content.encode(encoding))
        return CaseList.read(folder / name)

    return of


@pytest.fixture
def faults(read, folder):
    """The lines of a bad list, without the file's name."""

    def of(content, name="cases.csv"):
        with pytest.raises(UserError) as caught:
            read(content, name)
        return [line.removeprefix(f"{folder / name}: ") for line in caught.value.lines]

    return of


def test_rows_are_cases_with_paths_relative_to_the_list(read, folder):
    cases = read(f"case,image\nfirst,a.nii.gz\nsecond,{folder}/series\n")
    assert cases.scans == {"first": (folder / "a.nii.gz",), "second": (folder / "series",)}
    assert cases.texts == {}


def test_channels_are_ordered_by_their_columns_names(read, folder):
    cases = read('image_1,case,text,image_0\nt2/x.nii.gz,p 1,"a spot,\nin front ",t1/x.nii.gz\n,,,\n')
    assert cases.scans == {"p 1": (folder / "t1/x.nii.gz", folder / "t2/x.nii.gz")}
    assert cases.texts == {"p 1": "a spot, in front"}


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        ("Case;Image;Text\r\nä;a.nii.gz;\r\n", "utf-8-sig"),
        ("case\timage\nä\ta.nii.gz\n", "utf-16"),
        ('\n"case" , "image"\nä, a.nii.gz\n'.replace(" ", ""), "utf-8"),
        ("sep=;\r\ncase;image\r\nä;a.nii.gz\r\n", "utf-8-sig"),
    ],
)
def test_files_of_spreadsheets_are_read(read, folder, content, encoding):
    assert read(content, encoding=encoding).scans == {"ä": (folder / "a.nii.gz",)}


def test_json_lists_have_the_same_content(read, folder):
    rows = [
        {"case": "one", "images": ["t1/x.nii.gz", "t2/x.nii.gz"], "text": "old"},
        {"case": "b", "images": ["series"]},
    ]
    cases = read(json.dumps({"cases": rows}), "cases.json")
    assert cases.scans == {"one": (folder / "t1/x.nii.gz", folder / "t2/x.nii.gz"), "b": (folder / "series",)}
    assert cases.texts == {"one": "old"}


def test_each_bad_row_has_a_line_with_its_field(faults, folder):
    content = (
        "case,image_0,image_1\n"
        "one,t1/x.nii.gz,t2/x.nii.gz\n"
        "one,t1/x.nii.gz,t2/x.nii.gz\n"
        "\n"
        "two,gone.nii.gz,\n"
        ",t1/x.nii.gz,t2/x.nii.gz\n"
        "../up,t1/x.nii.gz,t2/x.nii.gz\n"
        "six,t1/x.nii.gz,t2/x.nii.gz,more\n"
        "seven,,\n"
        f"eight,{'n' * 300},t1/\0.nii.gz\n"
    )
    lines = faults(content)
    assert lines[0] == "row 3: case: 'one' is the case of row 2 already. Give each case its own name."
    there = "A relative path starts in the folder of the list."
    assert lines[1] == f"row 5: image_0: {folder}/gone.nii.gz does not exist. {there}"
    assert lines[2] == "row 6: case: empty. Expected a name for the files of this case."
    assert lines[3].startswith("row 7: case: '../up' cannot be the name of files. Expected at most 200 bytes")
    assert lines[4] == "row 8: 4 fields, expected 3. Put a field that holds ',' in double quotes."
    assert lines[5] == "row 9: image_0: empty. Expected the path of a scan."
    assert [line.partition(": /")[0] for line in lines[6:]] == ["row 10: image_0", "row 10: image_1"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("case,imge\na,a.nii.gz\n", "column 'imge' is not known. Expected case, image (for several"),
        ("image\na.nii.gz\n", "column 'case' is missing."),
        ("case\na\n", "column 'image' is missing."),
        ("case,image,image\na,a.nii.gz,a.nii.gz\n", "column 'image' is given twice. Keep one."),
        ("case,image_0,image_2\na,a.nii.gz,a.nii.gz\n", "columns image_0, image_2: expected image_0, image_1,"),
        ("case,image,image_1\na,a.nii.gz,a.nii.gz\n", "columns image, image_1: expected image_0, image_1,"),
        ("sep=,\ncase,image\na,gone.nii.gz\n", "row 3: image: /"),
        ('case,image\na,"a.nii.gz\n', "row 2: unexpected end of data. Correct the quotes of this row."),
    ],
)
def test_columns_and_quotes_are_checked(faults, content, sentence):
    assert faults(content)[0].startswith(sentence)


def test_fields_of_json_are_named(faults):
    content = json.dumps({"cases": [{"case": "a"}, {"case": "b", "images": [], "spacing": 1}]})
    lines = faults(content, "cases.json")
    assert lines == [
        "cases.0.images: missing.",
        "cases.1.images: expected more entries (found '[]').",
        "cases.1.spacing: unknown field; correct its name or remove it (found '1').",
    ]
    assert faults(json.dumps({"cases": []}), "cases.json") == ["cases: expected more entries (found '[]')."]
    missing = json.dumps({"cases": [{"case": "a", "images": ["gone.nii.gz"]}]})
    assert faults(missing, "cases.json")[0].startswith("cases.0: images.0: /")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("cases.txt", "", "expected a list of cases as .csv or .json"),
        ("cases.csv", "", "lists no case. Add a row per case with the columns case,"),
        ("cases.csv", "case,image\n", "lists no case"),
    ],
)
def test_other_and_empty_files_are_one_line(read, name, content, sentence):
    with pytest.raises(UserError) as caught:
        read(content, name)
    (line,) = caught.value.lines
    assert sentence in line
    with pytest.raises(UserError, match="does not exist"):
        CaseList.read("nowhere.csv")
