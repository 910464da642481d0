"""Masks from DICOM objects: what our own writers wrote is read voxel by voxel."""

import warnings
from copy import deepcopy

import numpy as np
import pytest

pytest.importorskip("highdicom")
pytest.importorskip("contourpy")

import pydicom

from plans.errors import UserError
from plans.layout import DICOM_SEG, RTSTRUCT
from textdiffseg.imaging.sources.dicom.drawings import drawing_kind, masks_of, read_drawing
from textdiffseg.imaging.sources.files import read_volume
from textdiffseg.imaging.volume import Geometry
from textdiffseg.imaging.writers.dicom import write_dicom

DIRECTIONS = {
    "up": {},
    "down": {"step": -1},
    "oblique": {"row": (0.6, 0.8, 0), "column": (-0.8 * 0.96, 0.6 * 0.96, 0.28)},
    "sagittal": {"row": (0, 1, 0), "column": (0, 0, -1)},
}
NAMES = {"left kidney": (7,), "Leber µ": (3,), "nothing": (9,)}
KINDS = {DICOM_SEG: "DICOM-SEG", RTSTRUCT: "RTSTRUCT"}


@pytest.fixture
def drawn(tmp_path, make_series):
    """Write a series with random masks, as both objects; returns (labels, grid, {kind: path}, folder of the scan)."""

    def of(**fields):
        rng = np.random.default_rng(3)
        scan = make_series(tmp_path / "ct", rng.integers(-99, 99, (5, 13, 16)), **fields)
        geometry = read_volume((scan,)).geometry
        labels = rng.choice([0, 3, 7], geometry.shape, p=(0.6, 0.2, 0.2))  # with holes, edges and single voxels
        paths = {kind: tmp_path / f"{kind}.dcm" for kind in KINDS}
        write_dicom(paths, labels, geometry, NAMES, scan, "1.2.3")
        return labels, geometry, paths, scan

    return of


def read(path, geometry):
    drawing = read_drawing(path)
    values = {number: place for place, number in enumerate(drawing.names)}
    masks = {list(drawing.names.values())[one.value]: one.mask for one in masks_of(drawing, values, geometry)}
    return drawing, masks


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_written_masks_are_read(drawn, kind, direction):
    labels, geometry, paths, scan = drawn(**DIRECTIONS[direction])
    drawing, masks = read(paths[kind], geometry)
    assert (drawing.kind, list(drawing.names.values())) == (KINDS[kind], list(NAMES))
    assert drawing.series == str(pydicom.dcmread(next(scan.iterdir())).SeriesInstanceUID)
    for name, (value,) in NAMES.items():
        assert np.array_equal(masks[name], labels == value), name


@pytest.mark.parametrize("kind", KINDS)
def test_another_grid_is_refused(drawn, kind):
    _, geometry, paths, _ = drawn()
    affine = geometry.affine.copy()
    affine[:3, 3] += 0.4 * affine[:3, :3].sum(1)
    with pytest.raises(UserError, match=r"its pixels are not those|is not on a slice"):
        read(paths[kind], Geometry(geometry.shape, affine))


@pytest.mark.parametrize("kind", KINDS)
def test_a_larger_scan_holds_the_same_masks(drawn, kind):
    labels, geometry, paths, _ = drawn()
    affine, shape = geometry.affine.copy(), tuple(size + 3 for size in geometry.shape)
    affine[:3, 3] -= affine[:3, :3].sum(1)  # one voxel more at the start of each axis, two at the end
    masks = read(paths[kind], Geometry(shape, affine))[1]
    assert np.array_equal(masks["left kidney"][1:-2, 1:-2, 1:-2], labels == 7)
    assert np.count_nonzero(masks["left kidney"]) == np.count_nonzero(labels == 7)


def test_other_files_are_no_drawings(drawn, tmp_path):
    *_, scan = drawn()
    (tmp_path / "x.txt").write_text("x")
    assert drawing_kind(next(scan.iterdir())) is drawing_kind(tmp_path / "x.txt") is None


def test_a_truncated_object_is_one_line(drawn):
    _, geometry, paths, _ = drawn()
    path = paths[DICOM_SEG]
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(UserError, match=r"dicom-seg\.dcm"):
        read(path, geometry)


def changed(path, change):
    """Read the object, apply `change` to it, and write it again."""
    content = pydicom.dcmread(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values that no standard allows
        change(content)
        content.save_as(path)


def moved(millimetres, axis):
    """A function that moves all frames or outlines of an object along an axis of the world."""

    def change(content):
        for group in content.get("PerFrameFunctionalGroupsSequence", ()):
            group.PlanePositionSequence[0].ImagePositionPatient[axis] += millimetres
        for structure in content.get("ROIContourSequence", ()):
            for contour in structure.get("ContourSequence", ()):
                data = [float(place) for place in contour.ContourData]
                data[axis::3] = [place + millimetres for place in data[axis::3]]
                contour.ContourData = data

    return change


@pytest.mark.parametrize(("voxels", "axis"), [(4, 0), (-4, 1), (400, 2)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_structure_outside_the_scan_is_refused_in_both_kinds(drawn, kind, voxels, axis):
    _, geometry, paths, _ = drawn()
    changed(paths[kind], moved(voxels * float(np.abs(geometry.affine[axis, :3]).max()), axis))
    with pytest.raises(UserError, match=rf"{kind}\.dcm: \d+% of left kidney lie outside the scan, up to [\d.]+ mm"):
        read(paths[kind], geometry)


@pytest.mark.parametrize("kind", KINDS)
def test_a_structure_on_every_second_slice_is_refused_in_both_kinds(drawn, kind):
    _, geometry, paths, _ = drawn()
    affine = geometry.affine.copy()
    affine[:, 0] /= 2
    with pytest.raises(UserError, match="left kidney was drawn on 5 of 9 slices, mostly in steps of 2 slices"):
        read(paths[kind], Geometry((9, *geometry.shape[1:]), affine))


def test_all_items_of_a_structure_count(drawn):
    labels, geometry, paths, _ = drawn()

    def split(content):
        first = content.ROIContourSequence[0]
        second = deepcopy(first)
        first.ContourSequence, second.ContourSequence = first.ContourSequence[:2], first.ContourSequence[2:]
        content.ROIContourSequence.append(second)

    changed(paths[RTSTRUCT], split)
    assert np.array_equal(read(paths[RTSTRUCT], geometry)[1]["left kidney"], labels == 7)


@pytest.mark.parametrize("place", ["nan", "1e20"])
def test_a_frame_that_is_nowhere_is_refused(drawn, place):
    _, geometry, paths, _ = drawn()

    def lose(content):
        content.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient[0] = place

    changed(paths[DICOM_SEG], lose)
    with pytest.raises(UserError, match="a frame has no position"):
        read(paths[DICOM_SEG], geometry)


@pytest.mark.parametrize("written", [b"nan", b"abc", b"1,5"])
def test_a_coordinate_that_is_not_a_number_names_its_structure(drawn, written):
    _, geometry, paths, _ = drawn()

    def mark(content):
        content.ROIContourSequence[0].ContourSequence[0].ContourData[4] = "777"

    changed(paths[RTSTRUCT], mark)
    content = paths[RTSTRUCT].read_bytes()
    assert content.count(b"\\777\\") == 1
    paths[RTSTRUCT].write_bytes(content.replace(b"\\777\\", b"\\" + written + b"\\"))
    with pytest.raises(UserError, match="an outline of left kidney has a coordinate that is not a number"):
        read(paths[RTSTRUCT], geometry)


def test_a_field_that_is_missing_is_named(drawn):
    _, geometry, paths, _ = drawn()

    def lose(content):
        del content.ROIContourSequence[0].ReferencedROINumber

    changed(paths[RTSTRUCT], lose)
    with pytest.raises(UserError, match=r"a part is missing or malformed \(ReferencedROINumber\)\. Export it again"):
        read(paths[RTSTRUCT], geometry)
