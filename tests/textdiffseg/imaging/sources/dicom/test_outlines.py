"""Outlines of a structure set: which voxels they hold, and which of them are refused."""

import contextlib
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydicom")

from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from plans.errors import UserError
from textdiffseg.imaging.sources.dicom import outlines
from textdiffseg.imaging.sources.dicom.coverage import DrawnSlice, refuse_unfit
from textdiffseg.imaging.sources.dicom.outlines import filled
from textdiffseg.imaging.volume import Geometry

SHAPE = (9, 20, 24)
GRID = Geometry(SHAPE, np.array([[0, 0, 0.5, 7], [0, 0.5, 0, -3], [2, 0, 0, 5], [0, 0, 0, 1]], float))


def outline(corners, number=3, kind="CLOSED_PLANAR") -> Dataset:
    """A contour item through (row, column) points on a slice."""
    index = np.array([(number, *corner, 1) for corner in corners], float)
    item = Dataset()
    item.ContourGeometricType = kind
    item.ContourData = [f"{place:.6g}" for place in (index @ GRID.affine.T)[:, :3].ravel()]
    return item


def box(low, high, number=3, kind="CLOSED_PLANAR") -> Dataset:
    """An outline around the pixels `low` to `high` - 1 along rows and columns."""
    low, high = low - 0.5, high - 0.5
    return outline([(low, low), (low, high), (high, high), (high, low)], number, kind)


def mask_of(*contours) -> np.ndarray:
    return filled(contours, "liver", GRID, Path("a.dcm"))[0]


def refused(*contours) -> str:
    with pytest.raises(UserError) as error:
        mask_of(*contours)
    (line,) = error.value.lines
    return line


def test_the_voxels_inside_are_those_that_a_ray_reaches_by_an_odd_number_of_crossings():
    """Random polygons that cross themselves and each other, pixel by pixel."""
    rng = np.random.default_rng(0)
    polygons = [rng.uniform((0, 0), (19, 23), (7, 2)) for _ in range(3)]
    expected = np.zeros(SHAPE[1:], int)
    for points in polygons:
        for start, end in zip(points, np.roll(points, -1, axis=0), strict=True):
            for row in range(SHAPE[1]):
                if (start[0] < row) != (end[0] < row):
                    at = start[1] + (row - start[0]) / (end[0] - start[0]) * (end[1] - start[1])
                    expected[row] += np.arange(SHAPE[2]) > at
    found = mask_of(*(outline(points) for points in polygons))
    assert np.array_equal(found[3], expected % 2 == 1)
    assert not found[[0, 1, 2, 4, 5, 6, 7, 8]].any()


def test_a_copy_of_an_outline_does_not_erase_it():
    corners = [(2.5, 3.5), (2.5, 9.5), (8.5, 9.5), (8.5, 3.5)]
    once = mask_of(outline(corners))
    assert np.count_nonzero(once) == 36
    rounded = [(row + 0.01, column - 0.01) for row, column in corners]
    for copy in (corners, corners[2:] + corners[:2], corners[::-1], [*corners, corners[0]], rounded):
        assert np.array_equal(mask_of(outline(corners), outline(copy)), once)
        assert np.array_equal(mask_of(outline(corners), outline(copy), outline(corners)), once)


def test_an_outline_that_differs_in_one_point_is_not_a_copy():
    corners = [(2.5, 3.5), (2.5, 9.5), (5.5, 9.5), (8.5, 9.5), (8.5, 3.5)]
    other = [(2.5, 3.5), (2.5, 9.5), (5.5, 8.5), (8.5, 9.5), (8.5, 3.5)]
    assert 0 < np.count_nonzero(mask_of(outline(corners), outline(other))) < 6


def test_an_outline_inside_another_one_is_a_hole():
    found = mask_of(box(2, 10), box(4, 7), box(4, 7, number=4))
    assert (np.count_nonzero(found[3]), np.count_nonzero(found[4])) == (64 - 9, 9)


def test_an_outline_may_touch_the_border_of_the_scan():
    corners = [(-0.5, -0.5), (-0.5, 23.5), (19.5, 23.5), (19.5, -0.5)]
    assert mask_of(outline(corners), outline(corners, 4))[3:5].all()
    beyond = [(-0.9, -0.9), (-0.9, 23.9), (19.9, 23.9), (19.9, -0.9)]
    assert mask_of(outline(beyond), outline(beyond, 4))[3:5].all(), "no voxel of it is lost"


@pytest.mark.parametrize(
    ("contours", "words"),
    [
        ([box(-2, 6)], "44% of liver lie outside the scan, up to 1.414 mm from it"),  # 28 of 64, 2 voxels along 2 axes
        ([box(40, 46)], "100% of liver lie outside the scan, up to 17.03 mm"),
        ([box(2, 6, number) for number in (7, 8, 9, 10)], "50% of liver lie outside the scan, up to 3 mm"),
        ([box(2, 6, number) for number in (-60, -59)], "100% of liver"),
        ([box(2, 6, -1)], "100% of liver lie outside the scan, up to 1 mm"),
    ],
)
def test_a_structure_outside_the_scan_is_refused(contours, words):
    line = refused(*contours)
    assert words in line
    assert line.startswith("a.dcm: ")
    assert "--labels" in line


def test_a_negligible_share_may_lie_outside_the_scan():
    wide = [(-0.5, -1.5), (-0.5, 22.5), (18.5, 22.5), (18.5, -1.5)]  # one column outside
    inside = [outline([(-0.5, -0.5), (-0.5, 22.5), (19.5, 22.5), (19.5, -0.5)], number) for number in range(6)]
    spike = outline([(2.5, -1.5), (2.5, 5.5), (3.5, 5.5), (3.5, -1.5)], 6)  # one voxel of 2,767
    assert mask_of(*inside, spike)[6].sum() == 6
    assert "4% of liver" in refused(outline(wide))


def test_a_structure_on_every_second_slice_is_refused():
    line = refused(*(box(2, 6, number) for number in range(0, 9, 2)))
    assert "liver was drawn on 5 of 9 slices" in line
    assert "mostly in steps of 2 slices" in line
    assert "Interpolate it" in line
    assert "--labels" in line


def test_a_structure_whose_ends_alone_have_all_slices_is_refused():
    assert "on 6 of 9 slices" in refused(*(box(2, 6, number) for number in (0, 1, 3, 5, 7, 8)))


@pytest.mark.parametrize(
    "numbers", [(2,), (2, 5), (0, 1, 3, 4), (0, 2, 3, 4), (0, 2, 5), (0, 1, 2, 5, 6, 7), (1, 4, 7)]
)
def test_parts_that_lie_apart_are_a_structure(numbers):
    assert np.flatnonzero(mask_of(*(box(2, 6, number) for number in numbers)).any((1, 2))).tolist() == [*numbers]


@pytest.mark.parametrize(("step", "fault"), [(5, True), (6, False)])
def test_structures_that_lie_far_apart_are_not_a_skipped_slice(step, fault):
    slices = [DrawnSlice(number, 9, 0, 0.0) for number in range(0, 4 * step, step)]
    with pytest.raises(UserError) if fault else contextlib.nullcontext():
        refuse_unfit(slices, "nodes", Path("a.dcm"))


def test_hundreds_of_outlines_are_compared_with_their_neighbours_alone(monkeypatch):
    compared = []
    monkeypatch.setattr(outlines, "_is_copy", lambda *pair: compared.append(pair))
    own = outlines._Outlines()
    for place in range(40):
        own.add(np.array([[0, 0, 0], [0, 1, 1], [3 * place, 3 * place, 3 * place + 1]], float))
    assert len(own.distinct) == 40
    assert not compared


@pytest.mark.parametrize(
    ("contours", "note"),
    [
        ([box(2, 6)], None),
        ([], None),
        ([Dataset()], None),
        ([box(2, 6, kind="OPEN_PLANAR")], "liver has no closed outlines, so it counts as not drawn."),
        ([outline([(3, 3)], kind="POINT")], "liver has no closed outlines, so it counts as not drawn."),
        ([outline([(3, 3), (4, 4)])], "liver has no closed outlines, so it counts as not drawn."),
        ([box(2, 6), outline([(3, 3)], kind="POINT")], "liver has open outlines or points, too. They were left out."),
        (
            [outline([(3.2, 3.2), (3.2, 3.8), (3.8, 3.8)])],
            "No voxel has its centre inside the outlines of liver, so it counts as not drawn.",
        ),
    ],
)
def test_outlines_that_hold_no_voxels_have_a_note(contours, note):
    assert filled(contours, "liver", GRID, Path("a.dcm"))[1] == (() if note is None else (note,))


def test_a_coordinate_that_only_python_reads_as_a_number_is_refused():
    """The values of a file are bytes until they are used."""
    item, raw = box(3, 8), b"1_0\\2\\3\\4\\5\\6\\7\\8\\9 "
    item[Tag("ContourData")] = RawDataElement(Tag("ContourData"), "DS", len(raw), raw, 0, False, True)
    assert "has a coordinate that is not a number" in refused(item)


@pytest.mark.filterwarnings("ignore:Invalid value for VR DS")  # as the values are set
@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (["1"] * 23, "has 23 coordinates, expected three for each point"),
        (["1"], "has 1 coordinates, expected three"),
        (["nan", *["1"] * 8], "has a coordinate that is not a number"),
        (["inf", *["1"] * 8], "has a coordinate that is not a number"),
        (["1e20", *["1"] * 8], "has a coordinate of 1e+20 mm, expected numbers of at most 100000"),
    ],
)
def test_a_malformed_outline_is_named_with_its_structure(data, fault):
    item = box(2, 6)
    item.ContourData = data
    assert f"a.dcm: an outline of liver {fault}" in refused(item)
