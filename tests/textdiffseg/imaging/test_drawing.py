"""Planes are shown in radiological orientation, and outlines of masks at a border are closed."""

import numpy as np
import pytest

from textdiffseg.imaging.drawing import fullest_slice, outline, pixel_aspect, plane


def test_superior_and_anterior_are_up():
    array = np.arange(24).reshape(2, 3, 4)
    box = (slice(0, 2), slice(0, 3), slice(1, 3))
    assert plane(array, box, 0, 1).tolist() == array[1, :, 1:3].tolist(), "from anterior down to posterior"
    assert plane(array, box, 1, 2).tolist() == array[::-1, 2, 1:3].tolist(), "from superior down to inferior"
    assert plane(array, box, 2, 1).tolist() == array[::-1, :, 1].tolist()


def test_the_aspect_is_the_height_over_the_width_of_a_voxel():
    assert [pixel_aspect((4.0, 2.0, 1.0), axis) for axis in range(3)] == [2.0, 4.0, 2.0]


@pytest.mark.parametrize("axis", range(3))
def test_the_fullest_slice_has_the_most_labels_and_then_the_most_voxels(axis):
    labels = np.zeros((6, 6, 6), int)
    rows = np.moveaxis(labels, axis, 0)
    rows[1] = 1
    rows[2, :2] = (1, 2, 1, 1, 1, 1)
    rows[4, :3] = (1, 2, 1, 1, 1, 1)
    assert fullest_slice(labels, axis) == 4


def test_the_outline_of_a_mask_at_the_border_is_closed():
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    outline(axes, np.ones((3, 4), bool), colors=["red"])
    (path,) = axes.collections[0].get_paths()
    assert path.vertices[0].tolist() == path.vertices[-1].tolist()
    outline(axes, np.zeros((3, 4), bool), colors=["red"])
    assert len(axes.collections) == 1, "an empty mask has no outline"
