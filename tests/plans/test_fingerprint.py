"""Summaries of a fingerprint."""

import json

import pytest

from plans.errors import UserError
from plans.fingerprint import CaseFingerprint
from textdiffseg.files import write_record


def test_write_and_read(tmp_path, make_fingerprint):
    case = make_fingerprint((10, 20, 30), (3, 1, 1)).cases[0]
    write_record(tmp_path / "case.json", case)
    assert CaseFingerprint.read(tmp_path / "case.json") == case


def test_another_version_is_refused_by_field(tmp_path, make_fingerprint):
    path = tmp_path / "case.json"
    path.write_text(json.dumps(make_fingerprint((10, 20, 30), (3, 1, 1)).cases[0].model_dump() | {"version": 2}))
    with pytest.raises(UserError, match=r"version 2, this one reads up to 1\. Update TextDiffSeg"):
        CaseFingerprint.read(path)


def test_shapes_after_resampling_keep_the_size_in_mm(make_fingerprint):
    fingerprint = make_fingerprint([(10, 100, 100), (20, 50, 50), (30, 100, 60)], [(4, 1, 1), (2, 2, 2), (2, 1, 2)])
    assert [case.shape_at((2, 1, 1)) for case in fingerprint.cases] == [(20, 100, 100), (20, 100, 100), (30, 100, 120)]
    assert fingerprint.median_shape_at((2, 1, 1)) == (20, 100, 100)


def test_cropped_share_is_the_median(make_fingerprint):
    assert make_fingerprint((10, 10, 10), (1, 1, 1), cropped=(5, 10, 10)).cropped_share() == 0.5


def test_intensities_are_pooled_over_cases(make_fingerprint):
    fingerprint = make_fingerprint((10, 10, 10), (1, 1, 1), cases=3, samples=((1.0, 2.0),), channels=2)
    assert fingerprint.intensities(1).tolist() == [1.0, 2.0] * 3
    empty = make_fingerprint((10, 10, 10), (1, 1, 1), cases=3, samples=((),))
    assert fingerprint.intensities(0).size == 6
    assert empty.intensities(0).size == 0


def test_notes_list_the_cases_that_they_apply_to(make_fingerprint):
    fingerprint = make_fingerprint((10, 10, 10), (1, 1, 1), cases=3)
    assert fingerprint.notes() == ()
    cases = [case.model_copy(update={"notes": ("It is askew.",)}) for case in fingerprint.cases[:2]]
    (note,) = fingerprint.model_copy(update={"cases": (*cases, fingerprint.cases[2])}).notes()
    assert note == f"It is askew. This applies to 2 of 3 cases: {cases[0].case}, {cases[1].case}."


def test_cases_with_the_same_files_are_named(make_fingerprint):
    one, two, three = make_fingerprint((10, 10, 10), (1, 1, 1), cases=3).cases
    same = two.model_copy(update={"content_hash": one.content_hash})
    fingerprint = make_fingerprint((10, 10, 10), (1, 1, 1)).model_copy(update={"cases": (one, same, three)})
    (note,) = fingerprint.notes()
    assert note.startswith(f"{one.case}, {two.case} have the same files: a fold may train and validate on one scan.")
