"""Channels on other grids."""

import numpy as np
import pytest

from plans.errors import UserError
from textdiffseg.imaging.regrid import overlap, placed, regrid
from textdiffseg.imaging.sources.files import read_volume
from textdiffseg.imaging.volume import Geometry
from textdiffseg.imaging.writers.files import write_volume


def grid(shape, spacing=(1, 1, 1), origin=(0, 0, 0), turn=0.0):
    """A grid that is turned about z by `turn` radians."""
    axes = np.array([[0, -np.sin(turn), np.cos(turn)], [0, np.cos(turn), np.sin(turn)], [1, 0, 0]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes * np.array(spacing), origin
    return Geometry(shape, affine)


def linear(geometry):
    """x + 2 y + 3 z at each voxel (D, H, W)."""
    index = np.stack([*np.indices(geometry.shape), np.ones(geometry.shape)]).reshape(4, -1)
    return (np.array([1, 2, 3, 0]) @ geometry.affine @ index).reshape(geometry.shape).astype(np.float32)


FIRST = grid((20, 30, 40))


@pytest.mark.parametrize(
    "other",
    [
        grid((30, 50, 60), (1, 1, 1), (-5, -6, -7)),
        grid((30, 100, 120), (2, 0.5, 0.6), (-5, -6, -7)),
        grid((60, 130, 130), (1, 1, 1), (-40, -40, -20), turn=0.4),
    ],
)
def test_a_linear_image_keeps_its_values(other):
    found = regrid(linear(other)[None], other, FIRST)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0], linear(FIRST), atol=1e-3)


def test_the_outer_half_of_a_border_voxel_has_its_value_and_the_outside_the_lowest():
    coarse = grid((10, 15, 20), (2, 2, 2), (0.5, 0.5, 0.5))
    found = regrid(np.full((1, 10, 15, 20), 5.0), coarse, FIRST)
    assert (found == 5).all()
    shifted = grid((20, 30, 40), origin=(10, 0, 0))
    values = np.full((1, 20, 30, 40), 5.0)
    values[0, 0, 0, 0] = -3
    found = regrid(values, shifted, FIRST)
    assert (found[..., :9] == -3).all()
    assert (found[..., 11:] == 5).all()


def test_the_overlap_is_a_share_of_the_first_grid():
    assert overlap(FIRST, FIRST) == 1
    assert overlap(grid((200, 300, 400), origin=(-99, -99, -99)), FIRST) == 1
    assert overlap(grid((20, 30, 40), origin=(20, 0, 0)), FIRST) == pytest.approx(0.5, abs=0.05)
    assert overlap(grid((20, 30, 40), origin=(400, 0, 0)), FIRST) == 0


@pytest.mark.parametrize("endings", [(".nii.gz", ".nii.gz"), (".nrrd", ".nii.gz"), (".mha", ".nrrd")])
def test_a_channel_on_another_grid_is_resampled_with_a_note(tmp_path, endings):
    other = grid((30, 100, 120), (2, 0.5, 0.6), (-5, -6, -7))
    paths = tuple(tmp_path / f"a_{number:04d}{ending}" for number, ending in enumerate(endings))
    for path, geometry in zip(paths, (FIRST, other), strict=True):
        write_volume(path, linear(geometry), geometry)
    scan = read_volume(paths)
    assert scan.geometry.matches(FIRST, 1e-3)
    np.testing.assert_allclose(scan.array[1], linear(FIRST), atol=1e-2)
    assert scan.notes == ("Channel 1 was resampled to the grid of channel 0, as its own grid differs.",)
    with pytest.raises(UserError, match="Resample all channels to one grid"):
        read_volume(paths, one_grid=True)


def test_a_channel_that_covers_too_little_is_refused(tmp_path):
    for number, geometry in enumerate((FIRST, grid((20, 30, 40), origin=(8, 0, 0)))):
        write_volume(tmp_path / f"a_{number:04d}.nrrd", linear(geometry), geometry)
    with pytest.raises(UserError, match=r"a_0001\.nrrd: its grid .* differs from that of .*a_0000\.nrrd"):
        read_volume((tmp_path / "a_0000.nrrd", tmp_path / "a_0001.nrrd"))


def test_a_turned_part_of_a_label_map_is_placed_voxel_by_voxel():
    labels = np.random.default_rng(0).integers(0, 4, (5, 6, 7))
    target = grid((5, 6, 7), (3, 2, 1))
    part = Geometry((6, 4, 5), target.affine @ [[0, 1, 0, 1], [-1, 0, 0, 5], [0, 0, 1, 2], [0, 0, 0, 1]])
    expected = np.zeros_like(labels)
    expected[1:5, :, 2:7] = labels[1:5, :, 2:7]
    turned = labels[1:5, ::-1, 2:7].transpose(1, 0, 2)
    assert np.array_equal(placed(turned, part, target), expected)


def test_other_voxels_are_not_placed():
    labels, target = np.ones((5, 6, 7), int), grid((5, 6, 7), (3, 2, 1))
    assert placed(labels, grid((5, 6, 7), (3, 2, 1.2)), target) is None
    shifted = target.affine.copy()
    shifted[0, 3] = 0.4
    assert placed(labels, Geometry((5, 6, 7), shifted), target) is None
    assert placed(np.ones((5, 6, 8), int), grid((5, 6, 8), (3, 2, 1)), target) is None, "a labelled voxel would be lost"
    assert np.array_equal(placed(np.pad(labels, ((0, 0), (0, 0), (0, 1))), grid((5, 6, 8), (3, 2, 1)), target), labels)
