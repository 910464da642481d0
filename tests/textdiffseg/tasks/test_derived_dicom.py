"""`tds_predict --dicom-seg --rtstruct`: files beside the mask of a DICOM scan, and no patient data in the others."""

import warnings
import zipfile

import numpy as np
import pytest

pytest.importorskip("highdicom")
pytest.importorskip("contourpy")

import pydicom

import textdiffseg as tds
from plans.errors import UserError
from textdiffseg.imaging.sources.files import read_labels
from textdiffseg.tasks import stages
from textdiffseg.tasks.manifest import Manifest
from textdiffseg_cli.predict import main

PATIENT = (b"Jane", b"P-4711", b"19500203", b"ACC99", b"House", b"Abdomen", b"20200304")


@pytest.fixture
def predict(root, make_series, capsys):
    """Run the command on two series in root/scans; returns (exit code, stdout, stderr)."""
    for number, case in enumerate(("one", "two")):
        array = np.random.default_rng(number).normal(100, 20, (9, 20, 17))
        make_series(root / "scans" / case, array, spacing=(2.0, 1.0, 1.0))

    def run(*arguments, source=root / "scans"):
        fixed = ["--root", root, "-i", source, "-o", root / "out", "--folds", 0, "--no-mirroring"]
        code = main([*map(str, fixed), *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


def messages(err: str) -> list[str]:
    """The lines on the terminal without the progress."""
    return [line for line in err.splitlines() if not line.startswith("Predict:")]


def test_both_files_are_written_and_listed(predict, root):
    assert predict("--dicom-seg", "--rtstruct", "--separate")[0] == 0
    mask = read_labels(root / "out" / "one.nii.gz").array[0]
    segmentation = pydicom.dcmread(root / "out" / "dicom-seg" / "one.dcm")
    pixels = segmentation.pixel_array
    numbers = [
        group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        for group in segmentation.PerFrameFunctionalGroupsSequence
    ]
    counts = [sum(plane.sum() for plane, own in zip(pixels, numbers, strict=True) if own == one) for one in (1, 2)]
    assert counts == [np.count_nonzero(mask == 7), np.count_nonzero(mask == 3)]
    structures = pydicom.dcmread(root / "out" / "rtstruct" / "one.dcm")
    assert [one.ROIName for one in structures.StructureSetROISequence] == ["Front_Part", "back"]
    assert str(structures.PatientName) == str(segmentation.PatientName) == "Doe^Jane"
    converted = Manifest.read(root / "out" / "one.json").converted
    assert set(converted) == {
        "separate/one/Front_Part.nii.gz",
        "separate/one/back.nii.gz",
        "dicom-seg/one.dcm",
        "rtstruct/one.dcm",
    }


def test_only_the_dicom_files_hold_patient_data(predict, root):
    code, out, err = predict("--dicom-seg", "--rtstruct", "--separate", "--uncertainty")
    assert code == 0
    for path in (root / "out").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            found = [word for word in PATIENT if word in content]
            assert bool(found) == (path.suffix == ".dcm"), (path, found)
    assert not [word for word in PATIENT if word.decode() in out + err]


def test_complete_cases_get_the_files_without_a_prediction(predict, root, monkeypatch):
    predict()
    monkeypatch.setattr(stages, "window_reporter", None)
    code, out, _ = predict("--rtstruct")
    assert (code, "2 complete already" in out) == (0, True)
    path = root / "out" / "rtstruct" / "two.dcm"
    first = path.read_bytes()
    assert predict("--rtstruct")[0] == 0
    assert path.read_bytes() == first
    path.write_bytes(first[:100])
    predict("--rtstruct")
    assert pydicom.dcmread(path).Modality == "RTSTRUCT"


def test_a_zip_gets_the_files_of_its_folder(predict, root):
    with zipfile.ZipFile(root / "scans" / "three.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in (root / "scans" / "one").iterdir():
            archive.write(path, f"study/{path.name}")
    code, _, err = predict("--dicom-seg", "--rtstruct", source=root / "scans" / "three.zip")
    assert (code, messages(err)) == (0, [])
    predict("--dicom-seg", "--rtstruct")
    for kind in ("dicom-seg", "rtstruct"):
        zipped, unpacked = (pydicom.dcmread(root / "out" / kind / f"{case}.dcm") for case in ("three", "one"))
        assert zipped.PatientID == unpacked.PatientID == "P-4711"
        if kind == "dicom-seg":
            assert np.array_equal(zipped.pixel_array, unpacked.pixel_array)
        else:
            assert str(zipped.ROIContourSequence) == str(unpacked.ROIContourSequence)


def test_invalid_headers_leave_the_terminal_quiet(predict, root, make_series, recwarn):
    """pydicom warns of values that break the standard, and shows them. highdicom logs some faults."""
    wrong = {
        "FrameOfReferenceUID": "1.2.03.4",
        "AccessionNumber": "A" * 40,
        "StudyID": "S" * 30,
        "PatientID": "P" * 80,
        "StudyTime": "25:61",
    }
    array = np.random.default_rng(2).normal(100, 20, (9, 20, 17))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make_series(root / "odd" / "scan", array, spacing=(2.0, 1.0, 1.0), **wrong)
    recwarn.clear()
    code, _, err = predict("--dicom-seg", "--rtstruct", source=root / "odd")
    assert (code, messages(err)) == (0, [])
    assert [str(one.message) for one in recwarn if "pydicom" in one.filename or "highdicom" in one.filename] == []


def test_two_series_of_one_folder_keep_their_files_apart(predict, root, make_series):
    for number in (3, 4):
        array = np.random.default_rng(number).normal(100, 20, (9, 20, 17))
        make_series(root / "study" / str(number), array, spacing=(2.0, 1.0, 1.0))
        for path in (root / "study" / str(number)).iterdir():
            path.rename(root / "study" / f"{number}_{path.name}")
    uids = [pydicom.dcmread(root / "study" / f"{number}_000.dcm").SeriesInstanceUID for number in (3, 4)]
    for uid in uids:
        assert predict("--dicom-seg", "--series", uid, source=root / "study")[0] == 0
    for uid in uids:
        written = pydicom.dcmread(root / "out" / "dicom-seg" / f"study_{uid}.dcm")
        assert written.ReferencedSeriesSequence[0].SeriesInstanceUID == uid
        code, out, _ = predict("--dicom-seg", "--series", uid, source=root / "study")
        assert (code, "1 complete already" in out) == (0, True)


def test_a_scan_that_is_not_dicom_is_one_line_and_the_others_are_predicted(predict, root, make_scan):
    make_scan(root / "scans" / "plain.nii.gz")
    code, out, err = predict("--dicom-seg")
    assert (code, "2 predicted" in out) == (2, True)
    line = f"error: {root}/scans/plain.nii.gz: --dicom-seg needs a DICOM scan. Leave it out, or give the folder of"
    assert err.count("error: ") == err.count(line) == 1
    assert not (root / "out" / "plain.nii.gz").exists()


def test_a_failure_after_the_mask_leaves_the_mask(predict, root, monkeypatch):
    from textdiffseg.imaging.writers import conversions

    def full(*_):
        raise OSError(28, "No space left on device", "x")

    monkeypatch.setattr(conversions, "write_dicom", full)
    code, _, err = predict("--dicom-seg")
    assert code == 2
    assert "Traceback" not in err
    monkeypatch.undo()
    monkeypatch.setattr(stages, "window_reporter", None)
    code, out, _ = predict("--dicom-seg", source=root / "scans" / "one")
    assert (code, "1 complete already" in out) == (0, True)
    assert (root / "out" / "dicom-seg" / "one.dcm").is_file()


def test_a_form_that_fails_does_not_take_the_others_with_it(predict, root, monkeypatch):
    pytest.importorskip("matplotlib")
    from textdiffseg.imaging.writers import dicom_seg

    def refused(*_):
        raise UserError("one.dcm: no dicom-seg can be made.")

    monkeypatch.setattr(dicom_seg, "write_segmentation", refused)
    wanted = ("--dicom-seg", "--rtstruct", "--separate", "--picture")
    code, _, err = predict(*wanted, source=root / "scans" / "one")
    assert (code, "no dicom-seg can be made" in err) == (2, True)
    others = ("one.nii.gz", "one.png", "rtstruct/one.dcm", "separate/one/back.nii.gz")
    assert all((root / "out" / name).is_file() for name in others)
    monkeypatch.undo()
    drawn = (root / "out" / "one.png").stat().st_mtime_ns
    monkeypatch.setattr(stages, "window_reporter", None)
    assert predict(*wanted, source=root / "scans" / "one")[0] == 0
    assert (root / "out" / "dicom-seg" / "one.dcm").is_file()
    assert (root / "out" / "one.png").stat().st_mtime_ns == drawn


def test_python_writes_the_same_forms_of_a_result(predict, root, plan):
    assert predict("--dicom-seg", "--separate")[0] == 0
    model = tds.load(root / "results" / plan.dataset / "default", folds=(0,), device="cpu")
    result = model.segment(root / "scans" / "one", mirroring=False)
    written = result.write(root / "python", "one.nii.gz", conversions=("separate", "dicom-seg", "rtstruct"))
    assert set(written) == {
        "one.nii.gz",
        "separate/one/Front_Part.nii.gz",
        "separate/one/back.nii.gz",
        "dicom-seg/one.dcm",
        "rtstruct/one.dcm",
    }
    own, other = (pydicom.dcmread(root / folder / "dicom-seg" / "one.dcm") for folder in ("python", "out"))
    assert np.array_equal(own.pixel_array, other.pixel_array)
    assert own.PatientName == other.PatientName


def test_a_result_that_dicom_cannot_refer_to_is_not_written(root, plan):
    model = tds.load(root / "results" / plan.dataset / "default", folds=(0,), device="cpu")
    result = model.segment(np.zeros((9, 20, 17), np.float32), spacing=(2.0, 1.0, 1.0))
    with pytest.raises(UserError, match="dicom-seg needs a DICOM scan that was given as a path"):
        result.write(root / "python", conversions="dicom-seg")
    with pytest.raises(UserError, match="conversions"):
        result.write(root / "python", conversions="dicom")
    assert not list((root / "python").glob("*"))
