"""Fingerprints have the right measurements, and all faulty cases are reported together."""

import json

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from plans.errors import UserError
from plans.fingerprint import CaseFingerprint
from plans.layout import PreprocessedFolder
from plans.raw.dataset import read_dataset
from textdiffseg.files import write_record
from textdiffseg.imaging.forms import DISAGREE
from textdiffseg.preprocessing import fingerprinting
from textdiffseg.preprocessing.fingerprinting import bytes_per_case, fingerprint_dataset, read_case
from textdiffseg.preprocessing.structures import measure_labels


def rewrite(path, change):
    image = sitk.ReadImage(str(path))
    array = change(sitk.GetArrayFromImage(image))
    changed = sitk.GetImageFromArray(array)
    changed.SetSpacing(image.GetSpacing())
    sitk.WriteImage(changed, str(path))


def test_a_box_is_measured_in_mm():
    numbers = np.zeros((20, 30, 40), np.int16)
    numbers[5:9, 4:24, 10:30] = 2  # 4 x 20 x 20 voxels
    (found,) = measure_labels(numbers, (3.0, 1.0, 0.5))
    assert (found.label, found.voxels, found.volume_mm3) == (2, 1600, 2400)
    assert found.extent_mm == (12, 20, 10)
    assert 6 <= found.thickness_mm <= 11  # the box is 10 mm across where it is thinnest
    assert measure_labels(np.zeros((3, 3, 3), np.int16), (1.0, 1.0, 1.0)) == ()


@pytest.mark.parametrize("thickness", [1, 2, 5])
def test_thickness_of_a_plate_is_its_thickness(thickness):
    numbers = np.zeros((30, 30, 30), np.int16)
    numbers[10 : 10 + thickness] = 1
    (found,) = measure_labels(numbers, (1.0, 1.0, 1.0))
    assert found.thickness_mm == pytest.approx(thickness, abs=1)


def test_the_thickness_of_a_large_structure_is_measured_on_a_subsampled_copy():
    d, h, w = np.ogrid[-1:1:220j, -1:1:220j, -1:1:220j]
    ball = ((d * d + h * h + w * w) < 0.9).astype(np.int16)
    (large,) = measure_labels(ball, (1.0, 1.0, 1.0))
    (small,) = measure_labels(ball[::2, ::2, ::2], (2.0, 2.0, 2.0))
    assert large.thickness_mm == pytest.approx(small.thickness_mm, rel=0.05)


def test_shape_spacing_crop_and_samples(write_raw, tmp_path, monkeypatch):
    raw = write_raw(tmp_path, cases=2, shape=(20, 24, 28), spacing=(3.0, 1.0, 0.5))
    for file in ("imagesTr/tiny_00_0000.nii.gz", "labelsTr/tiny_00.nii.gz"):
        rewrite(raw / file, lambda a: np.pad(a[2:-3, 1:, :-4], [(2, 3), (1, 0), (0, 4)]))
    dataset = read_dataset(raw)
    fingerprint = fingerprint_dataset(dataset, workers=0)
    first = fingerprint.cases[0]
    assert first.shape == (20, 24, 28)
    assert first.spacing == pytest.approx((3.0, 1.0, 0.5))
    assert first.cropped_shape == (15, 23, 24)
    assert fingerprint.cases[1].cropped_shape == (20, 24, 28)
    assert len(first.intensities) == 1
    assert 0 < len(first.intensities[0]) <= fingerprinting.SAMPLES
    assert fingerprint == fingerprint_dataset(dataset, workers=2)
    monkeypatch.setattr(fingerprinting, "SAMPLES", 5)
    monkeypatch.setattr(fingerprinting, "CT_SAMPLES", 20)
    assert len(fingerprint_dataset(dataset, workers=0).cases[0].intensities[0]) == 5
    ct = dataset.model_copy(update={"channels": ("CT",)})
    assert len(fingerprint_dataset(ct, workers=0).cases[0].intensities[0]) == 20


def listen(monkeypatch) -> list[str]:
    """The cases that are measured from now on."""
    measured, measure = [], fingerprinting.fingerprint_case
    monkeypatch.setattr(
        fingerprinting, "fingerprint_case", lambda case, *rest: measured.append(case.id) or measure(case, *rest)
    )
    return measured


def stored(folder: PreprocessedFolder) -> dict[str, CaseFingerprint]:
    """Every file in the folder of fingerprints."""
    return {path.name: CaseFingerprint.read(path) for path in folder.fingerprints.iterdir()}


def test_stored_fingerprints_are_not_measured_or_written_again(tiny_raw, tmp_path, monkeypatch):
    dataset, folder = read_dataset(tiny_raw), PreprocessedFolder(tmp_path)
    whole = fingerprint_dataset(dataset, 0, folder)
    assert stored(folder) == {f"{case.case}.json": case for case in whole.cases}
    folder.fingerprint("tiny_00").unlink()
    folder.fingerprint("tiny_01").write_text("{")
    times = {path.name: path.stat().st_mtime_ns for path in folder.fingerprints.iterdir()}
    measured = listen(monkeypatch)
    assert fingerprint_dataset(dataset, 0, folder) == whole
    assert measured == ["tiny_00", "tiny_01"]
    rewrite(tiny_raw / "imagesTr" / "tiny_02_0000.nii.gz", lambda a: a + 1)
    fingerprint_dataset(dataset, 0, folder)
    assert measured == ["tiny_00", "tiny_01", "tiny_02"]
    assert folder.fingerprint("tiny_03").stat().st_mtime_ns == times["tiny_03.json"]
    assert folder.fingerprint("tiny_02").stat().st_mtime_ns != times["tiny_02.json"]


def test_a_fingerprint_belongs_to_its_case(tiny_raw, tmp_path):
    dataset, folder = read_dataset(tiny_raw), PreprocessedFolder(tmp_path)
    whole = fingerprint_dataset(dataset, 0, folder)
    write_record(folder.fingerprint("tiny_00"), whole.cases[0].model_copy(update={"case": "tiny_09"}))
    assert fingerprint_dataset(dataset, 0, folder) == whole


@pytest.mark.parametrize("workers", [0, 2])
def test_fingerprints_of_other_cases_are_kept_after_a_fault(tiny_raw, tmp_path, workers):
    folder = PreprocessedFolder(tmp_path)
    (tiny_raw / "imagesTr" / "tiny_01_0000.nii.gz").write_bytes(b"")
    with pytest.raises(UserError, match="tiny_01"):
        fingerprint_dataset(read_dataset(tiny_raw), workers, folder)
    assert sorted(stored(folder)) == ["tiny_00.json", "tiny_02.json", "tiny_03.json"]


def test_a_run_that_ends_early_keeps_every_case_that_it_measured(tiny_raw, tmp_path, monkeypatch):
    """DESIGN 8: nothing finished is lost."""
    dataset, folder = read_dataset(tiny_raw), PreprocessedFolder(tmp_path)

    def interrupted(cases):
        yield next(iter(cases))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fingerprint_dataset(dataset, 0, folder, progress=interrupted)
    assert sorted(stored(folder)) == ["tiny_00.json"]
    measured = listen(monkeypatch)
    whole = fingerprint_dataset(dataset, 0, folder)
    assert measured == ["tiny_01", "tiny_02", "tiny_03"]
    with pytest.raises(KeyboardInterrupt):
        fingerprint_dataset(dataset, 0, folder, progress=interrupted)
    assert fingerprint_dataset(dataset, 0, folder) == whole
    assert len(measured) == 3, "what an earlier run measured stays"


def test_fingerprints_of_cases_that_are_gone_are_removed(tiny_raw, tmp_path):
    dataset, folder = read_dataset(tiny_raw), PreprocessedFolder(tmp_path)
    whole = fingerprint_dataset(dataset, 0, folder)
    fewer = dataset.model_copy(update={"cases": dataset.cases[1:]})
    notes = folder.fingerprint("my_notes")
    notes.write_text("{}")
    assert fingerprint_dataset(fewer, 0, folder).cases == whole.cases[1:]
    notes.unlink()  # it is still there
    assert sorted(stored(folder)) == ["tiny_01.json", "tiny_02.json", "tiny_03.json"]


def test_thin_structures_in_large_boxes_are_measured_as_thin():
    numbers = np.zeros((400, 400, 400), np.int16)
    along = np.arange(398)
    for d, h, w in np.ndindex(2, 2, 2):
        numbers[along + d, along + h, along + w] = 1  # a diagonal vessel
        numbers[along + d, along[::-1] + h, along + w] = 1
    (label,) = measure_labels(numbers, (1.0, 1.0, 1.0))
    assert label.thickness_mm <= 2
    numbers[100:300, 100:300, 100:300] = 1
    (label,) = measure_labels(numbers, (1.0, 1.0, 1.0))
    assert label.thickness_mm > 80


@pytest.mark.parametrize("workers", [0, 2])
def test_all_faulty_cases_are_reported_together(write_raw, tmp_path, workers):
    raw = write_raw(tmp_path, cases=8)
    image, label = (raw / part / "tiny_{:02d}{}.nii.gz" for part in ("imagesTr", "labelsTr"))
    cut = image.with_name(image.name.format(0, "_0000"))
    cut.write_bytes(cut.read_bytes()[:5000])
    rewrite(image.with_name(image.name.format(1, "_0000")), lambda a: np.where(a > 120, np.nan, a))
    rewrite(image.with_name(image.name.format(2, "_0000")), lambda a: a[:-1])
    rewrite(label.with_name(label.name.format(3, "")), lambda a: a + 7 * (a == 2).astype(np.uint8))
    flat = image.with_name(image.name.format(4, "_0000"))
    rewrite(flat, lambda a: a[:1])
    sitk.WriteImage(
        sitk.JoinSeries([sitk.ReadImage(str(image.with_name(image.name.format(5, "_0000"))))] * 3),
        str(image.with_name(image.name.format(5, "_0000"))),
    )
    with pytest.raises(UserError) as caught:
        fingerprint_dataset(read_dataset(raw), workers)
    report = "\n".join(caught.value.lines)
    for words in (
        "tiny_00_0000.nii.gz is truncated",
        "tiny_01_0000.nii.gz: ",
        "tiny_02.nii.gz: the mask's grid",
        "Resample the mask to the scan.",
        "tiny_03.nii.gz: unknown label values 9; dataset.json has 0, 1, 2",
        "tiny_04_0000.nii.gz: a single slice",
        "3 channels, but dataset.json names 1 (MRI)",
    ):
        assert words in report
    assert not any(good in report for good in ("tiny_06", "tiny_07"))


def test_label_values_need_not_be_consecutive(write_raw, tmp_path):
    raw = write_raw(tmp_path, cases=1, values=(7, 255))
    (case,) = fingerprint_dataset(read_dataset(raw), 0).cases
    assert [label.label for label in case.labels] == [1, 2]


def test_ignored_voxels_belong_to_no_label(write_raw, tmp_path):
    raw = write_raw(tmp_path, cases=1, labels=("bright cube", "dark cube", "ignore"), values=(1, 2, 7))
    dataset = read_dataset(raw)
    (case,) = fingerprint_dataset(dataset, 0).cases
    assert [label.label for label in case.labels] == [1, 2]
    _, (numbers,) = read_case(dataset.cases[0], dataset.labels, dataset.channels)
    truth = sitk.GetArrayFromImage(sitk.ReadImage(str(dataset.cases[0].label)))
    assert np.array_equal(np.where(truth == 7, -1, truth.astype(int)), numbers)


def test_contradictions_to_the_annotation_are_reported_with_the_other_faults(write_raw, tmp_path):
    annotated, absent = {"tiny_00": ["bright cube"], "tiny_01": ["dark cube"]}, {"tiny_02": ["dark cube"]}
    raw = write_raw(tmp_path, annotated=annotated, absent=absent)
    (raw / "imagesTr" / "tiny_03_0000.nii.gz").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        fingerprint_dataset(read_dataset(raw), 0)
    for line, words in zip(
        caught.value.lines,
        (
            ("case tiny_00", "'dark cube' (value 2), which is not named as annotated"),
            ("case tiny_01", "'bright cube' (value 1), which is not named as annotated"),
            ("case tiny_02", "'dark cube' (value 2), which is declared absent"),
            ("tiny_03_0000.nii.gz",),
        ),
        strict=True,
    ):
        assert all(word in line for word in words)


def test_a_fingerprint_belongs_to_its_labels(tiny_raw, tmp_path):
    folder = PreprocessedFolder(tmp_path)
    fingerprint_dataset(read_dataset(tiny_raw), 0, folder)
    header = json.loads((tiny_raw / "dataset.json").read_text())
    header["labels"] = {"background": 0, "dark cube": 2}
    (tiny_raw / "dataset.json").write_text(json.dumps(header))
    with pytest.raises(UserError, match="unknown label values 1"):
        fingerprint_dataset(read_dataset(tiny_raw), 0, folder)


def write_nested(write_raw, root, **header):
    """Labels that overlap: the two cubes together, and the dark one."""
    fields = {"labels": {"background": 0, "both": [1, 2], "dark cube": 2}, "regions_class_order": [1, 2]}
    raw = write_raw(root)
    contents = json.loads((raw / "dataset.json").read_text()) | fields | header
    (raw / "dataset.json").write_text(json.dumps(contents))
    return read_dataset(raw)


def test_labels_that_overlap_are_measured_as_unions(write_raw, tmp_path):
    dataset = write_nested(write_raw, tmp_path)
    _, (numbers,) = read_case(dataset.cases[0], dataset.labels, dataset.channels)
    assert set(np.unique(numbers)) == {0, 1, 2}
    both, dark = fingerprint_dataset(dataset, 0).cases[0].labels
    assert (both.label, both.voxels) == (1, np.count_nonzero(numbers))
    assert (dark.label, dark.voxels) == (2, np.count_nonzero(numbers == 2))
    (apart,) = (one for one in measure_labels(numbers, (1.0, 1.0, 1.0)) if one.label == 2)
    assert apart == dark


def test_a_value_may_belong_to_a_label_that_is_not_annotated_if_an_annotated_label_has_it(write_raw, tmp_path):
    dataset = write_nested(write_raw, tmp_path / "a", annotated=["both"])
    assert read_case(dataset.cases[0], dataset.labels, dataset.channels)[1][0].any()
    for field, words in (
        ({"annotated": ["dark cube"]}, "has voxels of 'both' (value 1), which is not named as annotated"),
        ({"absent": ["dark cube"]}, "has voxels of 'dark cube' (value 2), which is declared absent"),
    ):
        dataset = write_nested(write_raw, tmp_path / next(iter(field)), **field)
        with pytest.raises(UserError) as caught:
            read_case(dataset.cases[0], dataset.labels, dataset.channels)
        (line,) = caught.value.lines
        assert words in line


def test_notes_on_a_scan_are_kept_with_its_fingerprint(write_raw, tmp_path):
    raw = write_raw(tmp_path, cases=2)
    for path in (raw / "imagesTr" / "tiny_01_0000.nii.gz", raw / "labelsTr" / "tiny_01.nii.gz"):
        image = nib.load(path)
        image.header["qoffset_x"] += 40
        image.to_filename(path)
    folder = PreprocessedFolder(tmp_path / "made")
    for _ in range(2):  # measured, and read again
        fingerprint = fingerprint_dataset(read_dataset(raw), workers=0, folder=folder)
        assert [case.notes for case in fingerprint.cases] == [(), (DISAGREE,)]


def test_the_memory_of_a_pair_of_files_is_that_of_its_voxels(tiny_raw):
    dataset = read_dataset(tiny_raw)
    path = dataset.cases[0].images[0]
    image, pair = sitk.ReadImage(str(path)), path.with_name("scan.mhd")
    sitk.WriteImage(image, str(pair))
    case = dataset.cases[0].model_copy(update={"images": (pair,)})
    assert bytes_per_case(dataset.model_copy(update={"cases": (case,)})) > 8 * pair.with_suffix(".raw").stat().st_size
