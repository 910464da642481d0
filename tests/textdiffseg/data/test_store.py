"""Stored cases: what goes in comes out, and a case is there whole or not at all."""

import errno
import importlib
import json
import os
import shutil

import blosc2
import numpy as np
import pytest

from plans.errors import UserError
from textdiffseg import files
from textdiffseg.data import store
from textdiffseg.data.checks import check_cases, is_complete, preprocessing_settings
from textdiffseg.data.sampling import MAX_CANDIDATES_PER_LABEL, candidate_centres
from textdiffseg.data.store import CaseRecord, list_cases, open_case, read_record, remove_case, save_case
from textdiffseg.files import hash_text
from textdiffseg.preprocessing.case import TransformRecord


@pytest.fixture
def parts() -> tuple[CaseRecord, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (30, 40, 50)).astype(np.int16)
    transform = TransformRecord(
        original_shape=(33, 40, 50),
        affine=tuple(tuple(float(value) for value in row) for row in np.eye(4)),
        permutation=(0, 1, 2),
        flips=(1,),
        canonical_shape=(33, 40, 50),
        crop=((1, 31), (0, 40), (0, 50)),
        shape=(30, 40, 50),
    )
    record = CaseRecord(
        case="a.b",
        hash="h",
        settings={"spacing": "0"},
        shape=(30, 40, 50),
        present=(1, 2),
        annotated=(1, 2),
        group="g",
        transform=transform,
    )
    image = rng.normal(size=(2, 30, 40, 50)).astype(np.float32)
    return record, image, labels, np.pad(labels, [(1, 2), (0, 0), (0, 0)])


def test_there_and_back(tmp_path, parts):
    record, image, labels, original = parts
    save_case(tmp_path, *parts)
    case = open_case(tmp_path, "a.b")
    assert case.record == record.model_copy(update={"files": case.record.files})
    assert case.image.dtype == np.float16
    box = (slice(None), slice(5, 20), slice(0, 40), slice(33, 50))
    assert np.array_equal(case.image[box], image[box].astype(np.float16))
    assert case.labels.dtype == np.int8
    assert np.array_equal(case.labels[...], labels)
    assert np.array_equal(case.original_labels(), original)
    assert list_cases(tmp_path) == ("a.b",)


def test_foreground_rows_lie_on_their_label(tmp_path, parts):
    save_case(tmp_path, *parts)
    rows = open_case(tmp_path, "a.b").foreground
    assert rows.dtype == np.int32
    assert (parts[2][tuple(rows[:, 1:].T)] == rows[:, 0]).all()
    assert [np.count_nonzero(rows[:, 0] == number) for number in (1, 2)] == [MAX_CANDIDATES_PER_LABEL] * 2
    assert len(np.unique(rows, axis=0)) == len(rows)
    assert np.array_equal(rows, candidate_centres(parts[2], "a.b"))
    assert candidate_centres(np.zeros((3, 3, 3), np.int16), "x").shape == (0, 4)


def test_a_case_without_foreground_is_stored(tmp_path, parts):
    record, image, labels, original = parts
    save_case(tmp_path, record, image, 0 * labels, 0 * original)
    case = open_case(tmp_path, "a.b")
    assert case.foreground.shape == (0, 4)
    assert not case.labels[...].any()


def test_many_labels_take_a_wider_type(tmp_path, parts):
    record, image, labels, original = parts
    save_case(tmp_path, record, image, labels * 150, original * 150)
    assert open_case(tmp_path, "a.b").labels.dtype == np.int16
    assert np.array_equal(open_case(tmp_path, "a.b").original_labels(), original * 150)


@pytest.mark.parametrize("failing", ["image", "labels", "foreground"])
def test_a_full_disk_leaves_nothing(tmp_path, parts, monkeypatch, failing):
    save_case(tmp_path, *parts)  # an older version is there
    write = store.write_array

    def full(path, array):
        if failing in path.name:
            path.with_name("." + path.name).touch()
            path.with_name("." + path.name).unlink()
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, array)

    monkeypatch.setattr(store, "write_array", full)
    with pytest.raises(OSError, match="No space left"):
        save_case(tmp_path, *parts)
    assert list((tmp_path / "cases").iterdir()) == []


def test_complete_means_all_files_and_the_same_hash(tmp_path, parts):
    assert not is_complete(tmp_path, "a.b", "h")
    save_case(tmp_path, *parts)
    assert is_complete(tmp_path, "a.b", "h")
    assert not is_complete(tmp_path, "a.b", "other")
    (tmp_path / "cases" / "a.b.original.b2nd").unlink()
    assert not is_complete(tmp_path, "a.b", "h")
    remove_case(tmp_path, "a.b")
    assert list((tmp_path / "cases").iterdir()) == []


def test_damage_and_absence_are_reported(tmp_path, parts):
    with pytest.raises(UserError, match=r"a\.b\.json does not exist\. Run tds_plan_and_preprocess again"):
        open_case(tmp_path, "a.b")
    save_case(tmp_path, *parts)
    (tmp_path / "cases" / "a.b.image.b2nd").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"a\.b is damaged \(a\.b\.image\.b2nd: .*tds_plan_and_preprocess"):
        open_case(tmp_path, "a.b")
    forget_hashes(tmp_path, "a.b")
    with pytest.raises(UserError, match=r"a\.b cannot be opened .*tds_plan_and_preprocess"):
        open_case(tmp_path, "a.b")


def forget_hashes(folder, case) -> None:
    """Give a case the record that version 2 had."""
    path = folder / "cases" / f"{case}.json"
    fields = json.loads(path.read_text())
    fields |= {"version": 2, "trail": fields.pop("transform")}
    del fields["files"]
    path.write_text(json.dumps(fields))


def flip(path) -> None:
    """Change one bit, keep size and time."""
    content, state = bytearray(path.read_bytes()), path.stat()
    content[len(content) * 2 // 3] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))


@pytest.mark.parametrize("part", ["image", "labels", "original", "foreground"])
@pytest.mark.parametrize("damage", ["flipped", "truncated", "gone", "another case's"])
def test_a_damaged_array_is_refused_in_one_line_that_names_the_case(stored, make_plan, tmp_path, part, damage):
    """DESIGN 3: each file that is read back is checked against a hash that was stored with it."""
    folder, cases = shutil.copytree(stored[0], tmp_path / "copy"), stored[1]
    path = folder / "cases" / f"{cases[1]}.{part}.b2nd"
    {
        "flipped": lambda: flip(path),
        "truncated": lambda: os.truncate(path, path.stat().st_size // 2),
        "gone": path.unlink,
        "another case's": lambda: shutil.copy(folder / "cases" / f"{cases[4]}.{part}.b2nd", path),
    }[damage]()
    with pytest.raises(UserError, match=f"case {cases[1]} .*{part}.*Run tds_plan_and_preprocess again") as error:
        check_cases(folder, cases, make_plan())
    assert len(error.value.lines) == 1
    assert not is_complete(folder, cases[1], "0")
    assert is_complete(folder, cases[0], "0")
    with pytest.raises(UserError, match=cases[1]):
        open_case(folder, cases[1]).original_labels()


def test_a_file_is_hashed_once_per_process_unless_it_changes(tmp_path, parts, monkeypatch):
    hashed = []
    monkeypatch.setattr(files, "hash_files", lambda paths, plain=files.hash_files: hashed.extend(paths) or plain(paths))
    save_case(tmp_path, *parts)
    for _ in range(3):
        open_case(tmp_path, "a.b").original_labels()
    assert len(hashed) == 4
    flip(tmp_path / "cases" / "a.b.labels.b2nd")
    with pytest.raises(UserError, match=r"labels\.b2nd: its content is not what was written"):
        open_case(tmp_path, "a.b")


def test_a_record_that_changes_is_parsed_again(tmp_path, parts):
    save_case(tmp_path, *parts)
    assert read_record(tmp_path, "a.b") is read_record(tmp_path, "a.b")
    path = tmp_path / "cases" / "a.b.json"
    path.write_text(path.read_text().replace('"group": "g"', '"group": "h"'))
    assert read_record(tmp_path, "a.b").group == "h"
    remove_case(tmp_path, "a.b")
    with pytest.raises(UserError, match="does not exist"):
        read_record(tmp_path, "a.b")


def test_a_case_of_version_2_is_read_and_stored_again_by_planning(tmp_path, parts):
    """DESIGN 3: formats are versioned with readers of older versions."""
    save_case(tmp_path, *parts)
    before = open_case(tmp_path, "a.b").record
    forget_hashes(tmp_path, "a.b")
    assert open_case(tmp_path, "a.b").record == before.model_copy(update={"files": {}})
    assert not is_complete(tmp_path, "a.b", "h"), "nothing shows whether it is damaged"


@pytest.mark.parametrize(
    ("field", "value", "fault"),
    [
        ("shape", [30, 40, 51], "shape of image is"),
        ("case", "b", "record of 'b', expected 'a.b'"),
        ("shape", [0, 40, 50], "shape"),
        ("present", [77], "label number 77"),
        ("annotated", [-1], "annotated"),
    ],
)
def test_a_record_that_does_not_fit_its_arrays_is_one_line(tmp_path, parts, make_plan, field, value, fault):
    save_case(tmp_path, *parts)
    path = tmp_path / "cases" / "a.b.json"
    plan = make_plan(channels=[{"name": "MRI", "scheme": "zscore"}] * 2)
    fields = json.loads(path.read_text()) | {"settings": preprocessing_settings(plan)}
    path.write_text(json.dumps(fields | {field: value}))
    with pytest.raises(UserError, match=fault) as error:
        check_cases(tmp_path, ["a.b"], plan)
    assert len(error.value.lines) == 1


def test_a_record_of_another_grid_of_the_file_is_refused_where_that_is_read(tmp_path, parts):
    save_case(tmp_path, *parts)
    path = tmp_path / "cases" / "a.b.json"
    fields = json.loads(path.read_text())
    fields["transform"]["original_shape"] = [34, 40, 50]
    path.write_text(json.dumps(fields))
    with pytest.raises(UserError, match="is not original_shape permuted"):
        open_case(tmp_path, "a.b")
    fields["transform"]["canonical_shape"] = [34, 40, 50]
    path.write_text(json.dumps(fields))
    with pytest.raises(UserError, match="shape of original is"):
        open_case(tmp_path, "a.b").original_labels()


def test_cases_of_another_plan_and_broken_ones_are_reported_together(stored, make_plan, tmp_path):
    folder, cases = stored
    check_cases(folder, cases, make_plan())
    one, other = {"name": "front", "value": 1}, {"name": "MRI", "scheme": "rescale_to_0_1"}
    for changes, field in (({"labels": [one]}, "labels"), ({"channels": [other]}, "channels")):
        with pytest.raises(UserError, match=f"with other {field}\\.") as error:
            check_cases(folder, cases, make_plan(**changes))
        (line,) = error.value.lines
        assert f"{len(cases)} cases are alike: {cases[0]}, " in line
    with pytest.raises(UserError, match="with other crop, crop_to_nonzero"):
        check_cases(folder, cases, make_plan(crop="body"))
    with pytest.raises(
        UserError, match=r"with other spacing\..*again with --preset default --spacing 2\.0 1\.0 1\.0\."
    ) as error:
        check_cases(folder, [*cases, "ghost"], make_plan(spacing=(2, 1, 1)))
    assert ["ghost" in line for line in error.value.lines] == [False, True]


def test_settings_of_cases_that_were_stored_by_older_plans_stay(make_plan):
    """The names and hashes that plans with `crop_to_nonzero` stored."""
    settings = preprocessing_settings(make_plan())
    assert settings.keys() == {"channels", "crop_to_nonzero", "labels", "spacing"}
    assert settings["crop_to_nonzero"] == hash_text("true")[:12]
    assert preprocessing_settings(make_plan(crop="none"))["crop_to_nonzero"] == hash_text("false")[:12]


def test_a_file_that_carries_python_source_is_refused_and_not_run(tmp_path, parts, monkeypatch):
    """CASES B1: such a file runs its source when it is opened in full mode; the marker proves that this one would."""
    save_case(tmp_path, *parts)
    cases, marker = tmp_path / "cases", tmp_path / "ran"
    image = cases / "a.b.image.b2nd"
    with open_case(tmp_path, "a.b").image.array.schunk.cbytes and image.open("rb") as file:
        image.with_name("operand.b2nd").write_bytes(file.read())
    operand = blosc2.open(str(cases / "operand.b2nd"))
    module = tmp_path / "payload.py"
    module.write_text(f"def source(inputs, output, offset, _=open({str(marker)!r}, 'w')):\n    output[:] = inputs[0]\n")
    monkeypatch.syspath_prepend(tmp_path)
    blosc2.lazyudf(importlib.import_module("payload").source, (operand,), np.float16).save(str(image))
    forget_hashes(tmp_path, "a.b")  # or the file would not be opened at all
    marker.unlink()
    blosc2.open(str(image), deserialize="full")
    assert marker.exists(), "the file holds no payload: this test would prove nothing"
    marker.unlink()
    for use in (lambda: open_case(tmp_path, "a.b"), lambda: check_cases(tmp_path, ["a.b"], None)):
        with pytest.raises(UserError, match=r"a\.b cannot be opened"):
            use()
    assert not marker.exists()
