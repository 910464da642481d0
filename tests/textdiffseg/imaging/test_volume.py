"""Orientation: turning an array never moves it in the world, and turning back gives the array."""

import itertools

import numpy as np
import pytest

from plans.errors import UserError
from textdiffseg.imaging.grids import MAX_ORIGIN_MM, straighten
from textdiffseg.imaging.volume import Geometry, Volume, refuse_unusable, to_canonical

CANONICAL = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]], dtype=float)  # D to z, H to y, W to x
TURNS = [
    (permutation, signs)
    for permutation in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


def turned_volume(permutation, signs) -> Volume:
    shape = (3, 4, 5)
    affine = np.eye(4)
    affine[:3, :3] = CANONICAL[:, permutation] * np.array(signs) * np.array([3.0, 0.5, 1.5])
    affine[:3, 3] = (-7, 11, 13)
    return Volume(np.arange(2 * 60, dtype=np.float32).reshape(2, *shape), Geometry(shape, affine))


@pytest.mark.parametrize(("permutation", "signs"), TURNS)
def test_each_voxel_keeps_its_place_in_the_world(permutation, signs):
    volume = turned_volume(permutation, signs)
    canonical, orientation = to_canonical(volume)
    directions = np.linalg.inv(CANONICAL) @ canonical.geometry.affine[:3, :3]
    assert np.allclose(directions, np.diag(canonical.geometry.spacing)), "no axis is turned or flipped"
    assert canonical.geometry.spacing == tuple(volume.geometry.spacing[i] for i in orientation.permutation)
    for index in ((0, 0, 0), (2, 1, 3), (1, 3, 4)):
        world = volume.geometry.affine @ (*index, 1)
        found = np.linalg.solve(canonical.geometry.affine, world)[:3].round().astype(int)
        assert canonical.array[(1, *found)] == volume.array[(1, *index)]


@pytest.mark.parametrize(("permutation", "signs"), TURNS)
def test_undo_returns_the_array(permutation, signs):
    volume = turned_volume(permutation, signs)
    canonical, orientation = to_canonical(volume)
    assert np.array_equal(orientation.undo(canonical.array), volume.array)
    assert np.array_equal(orientation.undo(canonical.array[0]), volume.array[0])


def test_oblique_axes_go_to_the_nearest():
    angle = np.deg2rad(20)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ CANONICAL
    volume = Volume(np.zeros((1, 2, 3, 4)), Geometry((2, 3, 4), affine))
    _, orientation = to_canonical(volume)
    assert orientation.permutation == (0, 1, 2)
    assert orientation.flips == ()


def test_grids_match_where_the_nearest_voxel_is_the_same_one():
    affine = np.diag([3.0, 1.0, 1.0, 1.0])
    grid, nearly, shifted, turned = (Geometry((2, 3, 4), affine.copy()) for _ in range(4))
    nearly.affine[:3, 3] = (1.4, 0.4, -0.4)
    shifted.affine[:3, 3] = (0, 0.6, 0)
    turned.affine[1, 2] = 0.2  # three voxels on, the corner is 0.6 off
    assert grid.matches(nearly)
    assert not grid.matches(shifted)
    assert not grid.matches(turned)
    assert not grid.matches(Geometry((2, 3, 5), affine))


def test_a_volume_lies_on_its_grid():
    with pytest.raises(ValueError, match="does not fit the grid"):
        Volume(np.zeros((1, 2, 3, 4)), Geometry((2, 3, 5), np.eye(4)))


def test_values_beyond_float32_are_refused_in_any_wider_type():
    array = np.zeros((1, 2, 3, 4), np.longdouble)
    refuse_unusable(array, "a")
    array[0, 0, 0, 0] = 1e39
    with pytest.raises(UserError, match="1 voxels are NaN or infinite in float32"):
        refuse_unusable(array, "a")


@pytest.mark.parametrize("place", [1.01 * MAX_ORIGIN_MM, -1e20, 1e300, np.inf, np.nan])
def test_an_origin_where_nothing_can_be_placed_is_refused(place):
    affine = np.eye(4)
    affine[1, 3] = MAX_ORIGIN_MM
    straighten(affine, (2, 3, 4), "a")
    affine[1, 3] = place
    with pytest.raises(UserError, match=r"a: its origin is 0/.*/0 mm, expected numbers of at most 100000"):
        straighten(affine, (2, 3, 4), "a")
