import os

import pytest

from plans.errors import UserError
from plans.raw.texts import find_texts, read_texts


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.txt").write_text("\ufeffhypodense  lesion,\n\n3 cm\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text(" \n")
    (tmp_path / ".c.txt.swp").write_bytes(b"\xff")
    return tmp_path


def test_any_subset_of_the_cases_may_have_a_text(folder):
    assert read_texts(folder, ("a", "b", "c")) == ({"a": "hypodense lesion, 3 cm"}, 0)
    faults = []
    assert find_texts(folder / "none", ("a",), (), faults) == {}
    assert find_texts(folder, ("b",), ("a",), faults) == {}, "held-out cases may have texts"
    assert faults == []


def test_texts_of_other_cases_are_counted_and_at_least_one_must_belong_to_a_scan(folder):
    assert read_texts(folder, ("a",)) == ({"a": "hypodense lesion, 3 cm"}, 1)
    assert read_texts(folder, ("b",)) == ({}, 1), "b has a file without words"
    with pytest.raises(UserError, match=r"holds no text of a scan: expected for example x\.txt"):
        read_texts(folder, ("x", "y"))


def test_every_file_that_is_not_a_text_of_a_case_is_reported(folder):
    (folder / "d.txt").write_text("whose?")
    (folder / "a.md").write_text("not a text file's name")
    (folder / "c.txt").write_bytes(b"\xff\xfe")
    faults: list[str] = []
    find_texts(folder, ("a", "b", "c"), (), faults)
    assert len(faults) == 3
    assert "a.md belongs to no case: expected CASE.txt with a case's id, e.g. a.txt" in faults[0]
    assert "c.txt is not text in UTF-8. Save it in UTF-8." in faults[1]
    assert "d.txt belongs to no case" in faults[2]
    with pytest.raises(UserError) as error:
        read_texts(folder, ("a", "b", "c"))
    assert error.value.lines == tuple(faults[:2]), "other texts are allowed in a prediction"


def test_a_named_folder_must_exist(tmp_path):
    with pytest.raises(UserError, match="is not a folder"):
        read_texts(tmp_path / "nowhere", ("a",))


def test_a_pipe_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(UserError, match=r"a\.txt is not a plain file"):
        read_texts(tmp_path, ("a",))
