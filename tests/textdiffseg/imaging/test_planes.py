"""Pictures of segmentations: which planes, how they are turned, and which names they show."""

import warnings

import numpy as np
import pytest

from textdiffseg.imaging import planes
from textdiffseg.imaging.planes import BONE, LUNG, SOFT_TISSUE, draw_planes, grey_range, middle
from textdiffseg.imaging.volume import Geometry, Volume

SHAPE, SPACING = (6, 20, 30), (5.0, 2.0, 1.0)


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved; each is drawn first."""
    kept = []

    def save(figure, path):
        figure.canvas.draw()
        kept.append(figure)

    monkeypatch.setattr(planes, "save_figure", save)
    return kept


def volume(flip=()):
    """A bright voxel near the patient's left, anterior and superior end, in LPS+ axes unless they are turned round."""
    array = np.full(SHAPE, 50.0)
    array[:, 4:16, 5:25] = 100.0
    array[5, 4, 24] = 900.0
    affine = np.diag([*SPACING, 1.0])[[2, 1, 0, 3]]
    for axis in flip:
        array = np.flip(array, axis)
        affine[:3, 3] += affine[:3, axis] * (SHAPE[axis] - 1)
        affine[:3, axis] *= -1
    return Volume(array[None], Geometry(SHAPE, affine))


def bright(axes):
    """Where the brightest pixel lies in a panel, in 0..1 from left and from top."""
    picture = axes.images[0].get_array()
    row, column = np.unravel_index(np.argmax(picture), picture.shape)
    return column / (picture.shape[1] - 1), row / (picture.shape[0] - 1)


@pytest.mark.parametrize("flip", [(), (0,), (1, 2), (0, 1, 2)])
def test_left_of_the_patient_is_right_in_the_picture_and_superior_is_up(figures, tmp_path, flip):
    scan = volume(flip)
    draw_planes(tmp_path / "a.png", scan, (scan.array[0] == 900).astype(np.uint8), {1: "spot"}, "a")
    axial, coronal, sagittal = figures[0].axes
    assert bright(axial) == (1.0, 0.0), "left and anterior"
    assert bright(coronal) == (1.0, 0.0), "left and superior"
    assert bright(sagittal) == (0.0, 0.0), "anterior and superior"
    letters = [[text.get_text() for text in axes.texts] for axes in figures[0].axes]
    assert letters == [["R", "L", "A", "P"], ["R", "L", "S", "I"], ["A", "P", "S", "I"]]


def test_a_millimetre_is_as_long_in_every_direction(figures, tmp_path):
    draw_planes(tmp_path / "a.png", volume(), np.zeros(SHAPE, np.uint8), {1: "spot"}, "a")
    assert [axes.images[0].axes.get_aspect() for axes in figures[0].axes] == [2.0, 5.0, 2.5]
    scales = [axes.get_window_extent().width / np.ptp(axes.get_xlim()) for axes in figures[0].axes]
    assert scales[0] / SPACING[2] == pytest.approx(scales[1] / SPACING[2], rel=0.05)
    assert scales[0] / SPACING[2] == pytest.approx(scales[2] / SPACING[1], rel=0.05)


def test_planes_go_through_the_middle_of_the_masks():
    masks = np.zeros((9, 9, 9), np.uint8)
    assert middle(masks) == (4, 4, 4)
    masks[2, 3, 1:3] = masks[2, 3, 7:9] = 1
    assert middle(masks) == (2, 3, 2), "the middle between two kidneys lies in neither of them"


def test_grey_values_are_those_of_the_tissue():
    labelled = np.zeros((4, 4, 4), bool)
    labelled[0] = True
    for tissue, expected in ((40, SOFT_TISSUE), (-800, LUNG), (900, BONE)):
        image = np.full((4, 4, 4), -1000.0)
        image[0] = tissue
        assert grey_range(image, labelled, hounsfield=True) == expected
    mr = np.linspace(0, 1000, 64).reshape(4, 4, 4)
    low, high = grey_range(mr, labelled, hounsfield=False)
    assert 0 < low < 50 < 950 < high <= 1000


def test_names_are_plain_and_tell_what_was_not_found(figures, tmp_path):
    masks = np.zeros(SHAPE, np.uint8)
    masks[2, 5, 5:15] = 3
    names = {7: "肝臓", 3: "grade $\\frac{$", 9: "x" * 500}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_planes(tmp_path / "a.png", volume(), masks, names, "a $x_{$ b")
    shown = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert shown[0] == "grade $\\frac{$, 0.1 ml"
    assert "not in the mask: " in shown[1]
    assert figures[0]._suptitle.get_text() == "a $x_{$ b"


def test_an_empty_scan_of_one_value_is_drawn(tmp_path):
    scan = Volume(np.zeros((1, 3, 4, 5)), Geometry((3, 4, 5), np.eye(4)))
    draw_planes(tmp_path / "a.png", scan, np.zeros((3, 4, 5), np.int16), {1: "liver"}, "a")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
