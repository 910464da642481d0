"""DICOM-SEG and RTSTRUCT on the slices of a scan: places, patient, names, and headers that do not fit."""

import numpy as np
import pytest

pytest.importorskip("highdicom")
pytest.importorskip("contourpy")

import pydicom
from pydicom.uid import EnhancedCTImageStorage

from plans.errors import UserError
from plans.layout import DICOM_SEG, RTSTRUCT
from textdiffseg.imaging.sources.dicom.files import DicomFile
from textdiffseg.imaging.sources.files import read_volume
from textdiffseg.imaging.volume import Geometry
from textdiffseg.imaging.writers.dicom import check_source, write_dicom
from textdiffseg.imaging.writers.source_slices import SourceSlices, read_slices

KINDS = (DICOM_SEG, RTSTRUCT)
TURNED = {"row": (0.6, 0.8, 0), "column": (-0.8 * 0.96, 0.6 * 0.96, 0.28)}
DIRECTIONS = {
    "up": {},
    "down": {"step": -1},
    "oblique": TURNED,
    "sagittal": {"row": (0, 1, 0), "column": (0, 0, -1)},
}
NAMES = {"left kidney": (7,), "Leber µ\\肝": (3,)}


def labels_for(shape):
    labels = np.zeros(shape, dtype=np.int64)
    labels[1:3, 3:9, 4:8] = 7
    labels[2, 5, 6] = 0
    labels[0, 1:3, 8:11] = 3
    return labels


@pytest.fixture
def write(tmp_path, make_series):
    """Write a series and both outputs; returns (labels, their grid, {kind: dataset})."""

    def of(names=None, labels=labels_for, **fields):
        scan = make_series(tmp_path / "ct", np.random.default_rng(0).integers(-99, 99, (4, 10, 12)), **fields)
        geometry = read_volume((scan,)).geometry
        array = labels(geometry.shape)
        paths = {kind: tmp_path / f"{kind}.dcm" for kind in KINDS}
        write_dicom(paths, array, geometry, names or NAMES, scan, "1.2.3")
        return array, geometry, {kind: pydicom.dcmread(path) for kind, path in paths.items()}

    return of


def frames_of(segmentation, geometry):
    """The voxels (D, H, W) of each segment, by the positions of its frames."""
    found = np.zeros((len(segmentation.SegmentSequence), *geometry.shape), dtype=bool)
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    row, column = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
    down, right = shared.PixelMeasuresSequence[0].PixelSpacing
    pixels = segmentation.pixel_array.reshape(-1, segmentation.Rows, segmentation.Columns)
    for group, plane in zip(segmentation.PerFrameFunctionalGroupsSequence, pixels, strict=True):
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        origin = np.array(group.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        r, c = np.nonzero(plane)
        points = origin[:, None] + np.outer(column * down, r) + np.outer(row * right, c)
        index = np.linalg.solve(geometry.affine, np.vstack([points, np.ones(len(r))]))[:3]
        assert np.abs(index - np.rint(index)).max(initial=0) < 1e-3
        found[(number - 1, *np.rint(index).astype(int))] = True
    return found


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_segments_lie_on_the_voxels_of_the_mask(write, direction):
    labels, geometry, found = write(**DIRECTIONS[direction])
    segments = frames_of(found[DICOM_SEG], geometry)
    assert np.array_equal(segments, np.stack([labels == 7, labels == 3]))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_contours_lie_in_the_plane_of_their_slice_around_its_voxels(write, direction):
    labels, geometry, found = write(**DIRECTIONS[direction])
    for roi, value in zip(found[RTSTRUCT].ROIContourSequence, (7, 3), strict=True):
        slices = set()
        for contour in roi.ContourSequence:
            points = np.array(contour.ContourData, dtype=float).reshape(-1, 3)
            index = np.linalg.solve(geometry.affine, np.c_[points, np.ones(len(points))].T)[:3]
            d = round(index[0, 0])
            assert np.abs(index[0] - d).max() < 1e-3
            rows, columns = np.nonzero(labels[d] == value)
            assert np.allclose((index[1].min(), index[1].max()), (rows.min() - 0.5, rows.max() + 0.5), atol=1e-3)
            assert np.allclose((index[2].min(), index[2].max()), (columns.min() - 0.5, columns.max() + 0.5), atol=1e-3)
            slices.add(d)
        assert slices == set(np.nonzero((labels == value).any(axis=(1, 2)))[0])


def test_outputs_refer_to_their_slices_and_carry_patient_and_study(write, tmp_path):
    _, _, found = write()
    slices = {one.SOPInstanceUID: one for one in map(pydicom.dcmread, (tmp_path / "ct").iterdir())}
    first = next(iter(slices.values()))
    for kind, dataset in found.items():
        for name in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate"):
            assert dataset[name].value == first[name].value, (kind, name)
        assert (dataset.AccessionNumber, dataset.StudyDescription) == ("ACC99", "Abdomen")
        assert dataset.SeriesInstanceUID != first.SeriesInstanceUID
        assert (dataset.Manufacturer, dataset.SoftwareVersions) == ("TextDiffSeg", "1.2.3")
    contour = found[RTSTRUCT].ROIContourSequence[0].ContourSequence[0]
    source = slices[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
    assert float(contour.ContourData[2]) == pytest.approx(float(source.ImagePositionPatient[2]), abs=1e-3)
    assert found[DICOM_SEG].FrameOfReferenceUID == first.FrameOfReferenceUID
    assert found[RTSTRUCT].StructureSetROISequence[0].ReferencedFrameOfReferenceUID == first.FrameOfReferenceUID


def test_labels_may_have_any_name(write):
    long = "x" * 100
    _, _, found = write(NAMES | {long: (9,)})
    expected = ["left kidney", "Leber µ/肝", "x" * 64]
    assert [one.SegmentLabel for one in found[DICOM_SEG].SegmentSequence] == expected
    assert [one.ROIName for one in found[RTSTRUCT].StructureSetROISequence] == expected
    codes = [one.SegmentedPropertyTypeCodeSequence[0] for one in found[DICOM_SEG].SegmentSequence]
    assert {code.CodingSchemeDesignator for code in codes} == {"99TDS"}
    assert len({code.CodeValue for code in codes}) == 3
    assert "ContourSequence" not in found[RTSTRUCT].ROIContourSequence[2]


def test_labels_that_overlap_are_whole(write):
    labels, geometry, found = write({"all": (3, 7), "part": (7,)})
    assert np.array_equal(frames_of(found[DICOM_SEG], geometry), np.stack([labels > 0, labels == 7]))
    assert found[DICOM_SEG].SegmentsOverlap == "YES"


def test_an_empty_mask_gives_both_files(write, caplog):
    _, geometry, found = write(labels=lambda shape: np.zeros(shape, dtype=np.int64))
    assert not frames_of(found[DICOM_SEG], geometry).any()
    assert all("ContourSequence" not in one for one in found[RTSTRUCT].ROIContourSequence)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Jörg"}, "Müller^Jörg"),
        ({"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "Yamada=山田^太郎"}, "Yamada=山田^太郎"),
        ({"PatientName": None, "PatientID": None, "PatientSex": None, "StudyDate": None, "AccessionNumber": None}, ""),
        ({"PatientSex": "X", "PatientBirthDate": None}, "Doe^Jane"),
    ],
)
def test_headers_of_all_kinds_are_carried(write, fields, name):
    _, _, found = write(**fields)
    assert [str(one.PatientName) for one in found.values()] == [name, name]


def test_slices_that_nothing_can_refer_to_are_one_line(write, tmp_path, make_series):
    array = np.zeros((3, 4, 5))
    bare = make_series(tmp_path / "bare", array, FrameOfReferenceUID=None)
    with pytest.raises(UserError, match=r"000\.dcm: its FrameOfReferenceUID is missing, so no DICOM output"):
        check_source(bare, "--rtstruct")
    (tmp_path / "a.nii.gz").write_bytes(b"")
    with pytest.raises(
        UserError, match=r"a\.nii\.gz: --rtstruct needs a DICOM scan\. Leave it out, or give the folder"
    ):
        check_source(tmp_path / "a.nii.gz", "--rtstruct")


def test_every_file_of_a_series_is_checked(tmp_path, make_series):
    """An output that cannot be made must be refused before the prediction, whichever file prevents it."""
    scan = make_series(tmp_path / "ct", np.zeros((3, 4, 5)))
    check_source(scan, "--rtstruct")
    last = sorted(scan.iterdir())[-1]
    header = pydicom.dcmread(last)
    del header.StudyInstanceUID
    header.save_as(last)
    with pytest.raises(UserError, match=f"{last.name}: its StudyInstanceUID is missing"):
        check_source(scan, "--rtstruct")


@pytest.mark.parametrize("several", [0, 1])
def test_a_series_of_several_multi_frame_files_is_refused(tmp_path, make_series, several):
    scan = make_series(tmp_path / "ct", np.zeros((2, 4, 5)))
    path = sorted(scan.iterdir())[several]
    header = pydicom.dcmread(path)
    header.NumberOfFrames = 2
    header.save_as(path)
    with pytest.raises(UserError, match="a series of several multi-frame files"):
        read_slices([DicomFile(path) for path in sorted(scan.iterdir())])


def test_a_mask_on_a_straight_grid_is_put_on_tilted_slices(make_series, tmp_path):
    """The slices of a tilted gantry are shifted along their rows; the mask is on a straight grid."""
    scan = make_series(tmp_path / "ct", np.zeros((4, 10, 12)), spacing=(2, 1, 1), shift=1.0)
    source = read_slices([DicomFile(path) for path in sorted(scan.iterdir())])
    affine = np.eye(4)
    affine[:3] = [[0, 0, 1, -10], [0, 1, 0, 20], [2, 0, 0, 30]]
    labels = np.zeros((4, 13, 12), dtype=np.uint8)
    labels[:, 5, 3] = 1
    placed = source.place(labels, Geometry((4, 13, 12), affine))
    assert [tuple(place) for place in np.argwhere(placed)] == [(0, 5, 3), (1, 4, 3), (2, 3, 3), (3, 2, 3)]


def test_frames_of_an_enhanced_file_are_slices(make_series, tmp_path):
    one = pydicom.dcmread(make_series(tmp_path / "ct", np.zeros((1, 4, 5))) / "000.dcm")
    frames = []
    for z in (30.0, 28.0):
        group, place = pydicom.Dataset(), pydicom.Dataset()
        place.ImagePositionPatient = [0, 0, z]
        group.PlanePositionSequence = [place]
        frames.append(group)
    shared, turn, size = (pydicom.Dataset() for _ in range(3))
    turn.ImageOrientationPatient, size.PixelSpacing = [1, 0, 0, 0, 1, 0], [0.5, 0.75]
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [turn], [size]
    one.NumberOfFrames, one.PerFrameFunctionalGroupsSequence, one.SharedFunctionalGroupsSequence = 2, frames, [shared]
    one.PixelData = one.PixelData * 2
    one.save_as(tmp_path / "enhanced.dcm")
    source = read_slices([DicomFile(tmp_path / "enhanced.dcm")])
    assert isinstance(source, SourceSlices)
    assert [(each.frame, each.plane[2, 2]) for each in source.slices] == [(1, 30.0), (2, 28.0)]
    assert np.allclose(source.slices[0].plane[:3, :2], [[0, 0.75], [0.5, 0], [0, 0]])
    for number, group in enumerate(frames):
        one.NumberOfFrames, one.PerFrameFunctionalGroupsSequence = 1, [group]
        one.save_as(tmp_path / f"{number}.dcm")
    source = read_slices([DicomFile(tmp_path / f"{number}.dcm") for number in (0, 1)])
    assert [(each.frame, each.plane[2, 2]) for each in source.slices] == [(1, 30.0), (1, 28.0)], "one file a slice"


def item(**fields):
    made = pydicom.Dataset()
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def enhanced(path, scan, numbers, shared):
    """An enhanced file of some slices of a series. `shared`: orientation and spacing are, else each frame has them."""
    slices = [pydicom.dcmread(file) for file in sorted(scan.iterdir())]
    one, groups = pydicom.dcmread(scan / "000.dcm"), []
    for source in (slices[number] for number in numbers):
        group = item(PlanePositionSequence=[item(ImagePositionPatient=source.ImagePositionPatient)])
        groups.append(group)
    for owner in (item(),) if shared else groups:
        owner.PlaneOrientationSequence = [item(ImageOrientationPatient=one.ImageOrientationPatient)]
        owner.PixelMeasuresSequence = [item(PixelSpacing=one.PixelSpacing, SliceThickness=one.SliceThickness)]
        one.SharedFunctionalGroupsSequence = [owner if shared else item()]
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(one, name)
    one.PerFrameFunctionalGroupsSequence, one.NumberOfFrames = groups, len(groups)
    one.SOPClassUID, one.SOPInstanceUID = EnhancedCTImageStorage, pydicom.uid.generate_uid()
    one.PatientName = "Müller^Jörg"
    one.PixelData = b"".join(slices[number].PixelData for number in numbers)
    path.parent.mkdir(exist_ok=True)
    one.save_as(path)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("files", [1, 4])
def test_enhanced_files_give_the_outputs_of_the_same_slices(make_series, tmp_path, files, shared):
    """Orientation and spacing may be shared or of each frame, and a file may have one frame."""
    array = np.random.default_rng(0).integers(-99, 99, (4, 10, 12))
    scan = make_series(tmp_path / "ct", array, SpecificCharacterSet="ISO_IR 100", **TURNED)
    for number, frames in enumerate([range(4)] if files == 1 else [[number] for number in range(4)]):
        enhanced(tmp_path / "enhanced" / f"{number}.dcm", scan, frames, shared)
    source = tmp_path / "enhanced" if files > 1 else tmp_path / "enhanced" / "0.dcm"
    geometry = read_volume((source,)).geometry
    labels, paths = labels_for(geometry.shape), {kind: tmp_path / f"{kind}.dcm" for kind in KINDS}
    for kind in KINDS:
        check_source(source, f"--{kind}", kind=kind)
    write_dicom(paths, labels, geometry, NAMES, source, "1.2.3")
    segmentation, structures = (pydicom.dcmread(path) for path in paths.values())
    assert np.array_equal(frames_of(segmentation, geometry), np.stack([labels == 7, labels == 3]))
    assert [str(one.PatientName) for one in (segmentation, structures)] == ["Müller^Jörg"] * 2
    headers = [pydicom.dcmread(path) for path in sorted((tmp_path / "enhanced").iterdir())]
    of_files = {header.SOPInstanceUID for header in headers}
    found = []
    for dataset in (segmentation, structures):
        dataset.walk(
            lambda owner, element: (
                found.append((element.value, owner.ReferencedSOPClassUID))
                if element.keyword == "ReferencedSOPInstanceUID" and element.value in of_files
                else None
            )
        )
    assert {uid for uid, _ in found} == of_files
    assert {sop_class for _, sop_class in found} == {EnhancedCTImageStorage}


def broken(*arguments):
    raise UserError("broken")


def test_what_highdicom_refuses_is_refused_before_the_prediction(make_series, tmp_path):
    """A one-frame file of a class with frames, without functional groups. An RTSTRUCT can refer to it."""
    scan = make_series(tmp_path / "ct", np.zeros((3, 4, 5)), SOPClassUID=EnhancedCTImageStorage)
    check_source(scan, "--rtstruct", kind=RTSTRUCT)
    with pytest.raises(UserError, match=r"000\.dcm: no dicom-seg can be made from its header .* Leave --dicom-seg out"):
        check_source(scan, "--dicom-seg", kind=DICOM_SEG)


def test_if_one_output_fails_the_other_one_is_written(make_series, tmp_path, monkeypatch):
    scan = make_series(tmp_path / "ct", np.zeros((4, 10, 12)))
    geometry = read_volume((scan,)).geometry
    paths = {kind: tmp_path / f"{kind}.dcm" for kind in KINDS}
    monkeypatch.setattr("textdiffseg.imaging.writers.dicom_seg.write_segmentation", broken)
    with pytest.raises(UserError, match="broken"):
        write_dicom(paths, labels_for(geometry.shape), geometry, NAMES, scan, "1.2.3")
    assert [path.is_file() for path in paths.values()] == [False, True]


def test_slices_without_a_preamble_get_outputs(make_series, tmp_path):
    scan = make_series(tmp_path / "ct", np.zeros((3, 4, 5)))
    for path in scan.iterdir():
        one = pydicom.dcmread(path)
        one.preamble = None
        one.save_as(path, enforce_file_format=False)
        path.write_bytes(path.read_bytes().removeprefix(bytes(128) + b"DICM"))
    assert len(read_slices([DicomFile(path) for path in sorted(scan.iterdir())]).slices) == 3
