"""Resampling equals scipy's. Labels and probabilities keep their invariants."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from textdiffseg.imaging.resample import (
    SPLINE_MARGIN,
    resample,
    resample_labels,
    spline_matrix,
)


def scipy_zoom(array, shape, order):
    factors = [m / n for n, m in zip(array.shape, shape, strict=True)]
    return ndimage.zoom(array, factors, order=order, mode="nearest", grid_mode=True)


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize("shape", [(20, 9, 14), (7, 25, 13), (5, 40, 30), (10, 17, 13), (1, 2, 40)])
def test_equals_scipy_zoom(order, shape):
    array = np.random.default_rng(0).normal(100, 50, (2, 10, 17, 13)).astype(np.float32)
    ours = resample(array, shape, order)
    for channel, found in zip(array, ours, strict=True):
        expected = scipy_zoom(channel, shape, order).clip(channel.min(), channel.max())
        assert np.abs(found - expected).max() < 1e-3


def test_a_single_axis_may_have_its_own_order():
    array = np.random.default_rng(1).normal(size=(1, 6, 20, 22)).astype(np.float32)
    ours = resample(array, (11, 30, 15), 3, {0: 0})
    planes = np.stack([scipy_zoom(plane, (30, 15), 3) for plane in array[0]])
    expected = scipy_zoom(planes, (11, 30, 15), 0).clip(array.min(), array.max())
    assert np.abs(ours[0] - expected).max() < 1e-4


def test_results_stay_within_the_range_of_each_channel():
    array = np.zeros((2, 8, 8, 8), np.float32)
    array[0, 4:], array[1, :4] = 1000, -5
    found = resample(array, (19, 8, 30), 3)
    assert (found.min((1, 2, 3)) >= (0, -5)).all()
    assert (found.max((1, 2, 3)) <= (1000, 0)).all()


def test_same_shape_is_a_copy():
    array = np.random.default_rng(2).normal(size=(1, 4, 5, 6)).astype(np.float32)
    found = resample(array[:, ::-1], (4, 5, 6))
    assert np.array_equal(found, array[:, ::-1])
    found[...] = 0
    assert array.any()


@pytest.mark.parametrize("ignored", [False, True])
def test_labels_equal_the_largest_of_the_interpolated_masks(ignored):
    rng = np.random.default_rng(3)
    first = -1 if ignored else 0
    labels = ndimage.zoom(rng.integers(first, first + 4, (4, 5, 6)), 4, order=0).astype(np.int16)
    shape = (23, 14, 31)
    masks = np.stack([scipy_zoom((labels == first + k).astype(np.float64), shape, 1) for k in range(4)])
    top = np.sort(masks, axis=0)
    clear = top[-1] - top[-2] > 1e-3
    found = resample_labels(labels, shape)
    assert found.dtype == labels.dtype
    assert clear.mean() > 0.9
    assert np.array_equal(found[clear], first + masks.argmax(0)[clear])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.tuples(*[st.integers(1, 12)] * 3), st.tuples(*[st.integers(1, 20)] * 3))
def test_resampled_labels_have_no_new_values(seed, shape, shape_to):
    labels = np.random.default_rng(seed).integers(-1, 3, shape).astype(np.int16)
    found = resample_labels(labels, shape_to)
    assert found.shape == shape_to
    assert set(np.unique(found)) <= set(np.unique(labels))


def test_enlarging_and_shrinking_back_returns_the_labels():
    labels = np.zeros((12, 14, 10), np.int16)
    labels[2:8, 3:9, 2:9], labels[8:11, 3:9, 2:9] = 1, 5
    there = resample_labels(labels, (36, 42, 30))
    assert np.array_equal(resample_labels(there, labels.shape), labels)


def test_no_hole_where_three_labels_meet():
    labels = np.ones((6, 6, 6), np.int16)
    labels[:, 3:, :3], labels[:, 3:, 3:] = 2, 3
    assert (resample_labels(labels, (17, 17, 17)) > 0).all()


def test_voxels_that_are_half_ignored_are_ignored():
    labels = np.array([1, -1, 0, 0], np.int16).reshape(4, 1, 1)
    assert resample_labels(labels, (2, 1, 1)).ravel().tolist() == [-1, 0]
    assert (resample_labels(np.full((3, 4, 5), -1, np.int16), (6, 7, 8)) == -1).all()


def test_empty_labels_stay_empty():
    assert not resample_labels(np.zeros((3, 4, 5), np.int16), (6, 7, 8)).any()


@pytest.mark.parametrize(("size", "size_to"), [(512, 502), (512, 512 - 1), (512, 563), (600, 512)])
def test_matrices_of_full_size_equal_the_exact_ones_to_1e_6(size, size_to):
    matrix = spline_matrix(size, size_to, 3)
    exact = ndimage.zoom(np.eye(size), (size_to / size, 1), order=3, mode="nearest", grid_mode=True)
    assert np.count_nonzero((matrix != 0) & (np.abs(matrix) < np.finfo(np.float32).tiny)) == 0
    assert np.abs(matrix - exact).max() < 1e-6


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize("shape", [(7, 30, 11), (6, 9, 40)])
def test_a_box_with_a_margin_is_resampled_as_a_part_of_the_whole(order, shape):
    """At the same places: those of the box on the spline through the whole array."""
    array = np.random.default_rng(5).normal(0, 1000, (1, 6, 60, 50)).astype(np.float32)
    starts, sizes = (0, 20, 14), (6, 21, 23)
    read = (slice(None), slice(None), slice(20 - SPLINE_MARGIN, 41 + SPLINE_MARGIN), slice(1, None))
    inside = (slice(0, 6), slice(SPLINE_MARGIN, SPLINE_MARGIN + 21), slice(13, 36))
    found = resample(array[read], shape, order, inside=inside, limits=(-1e9, 1e9))
    axes = zip(starts, sizes, shape, strict=True)
    places = np.meshgrid(*(start + (np.arange(m) + 0.5) * n / m - 0.5 for start, n, m in axes), indexing="ij")
    expected = ndimage.map_coordinates(array[0].astype(float), places, order=order, mode="nearest")
    assert np.abs(found[0] - expected).max() < 1e-2 if order else (found[0] == expected).mean() > 0.99


def test_limits_replace_the_range_of_a_channel_and_the_result_is_written_in_place():
    array = np.random.default_rng(6).normal(0, 1, (1, 8, 9, 10)).astype(np.float32)
    out = np.empty((1, 13, 9, 7), np.float32)
    assert resample(array, (13, 9, 7), limits=(-0.5, 0.25), out=out) is out
    assert (out.min(), out.max()) == (-0.5, 0.25)


def test_matrices_of_full_size_hold_no_denormal_numbers_and_still_equal_scipy():
    """512 to 502 voxels would have 11,024 denormals, which make a product ten times slower."""
    matrix = spline_matrix(512, 502, 3)
    magnitudes = np.abs(matrix[matrix != 0])
    assert magnitudes.min() >= 1e-12
    row = np.random.default_rng(0).normal(0, 1000, 512)
    expected = ndimage.zoom(row, 502 / 512, order=3, mode="nearest", grid_mode=True)
    assert np.abs(matrix @ row - expected).max() < 1e-3
