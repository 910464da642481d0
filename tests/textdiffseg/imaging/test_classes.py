import numpy as np
import pytest
from scipy import ndimage

from textdiffseg.imaging.classes import SlabClasses, last_above_half, most_probable
from textdiffseg.imaging.resample import resample


def scipy_zoom(array, shape, order):
    factors = [m / n for m, n in zip(shape, array.shape, strict=True)]
    return ndimage.zoom(array, factors, order=order, mode="nearest", grid_mode=True)


def classes_on(shape, probabilities, choose=most_probable, planes=None):
    """The classes on a grid of `shape`, from slabs of so many planes."""
    slabs = SlabClasses(probabilities.shape[1:], shape, choose)
    step = planes or probabilities.shape[1]
    for first in range(0, probabilities.shape[1], step):
        slabs.add(probabilities[:, first : first + step])
    return slabs.classes


def soft_maps(classes, sharpness):
    rng = np.random.default_rng(4)
    raw = sharpness * np.stack([ndimage.gaussian_filter(rng.normal(size=(9, 12, 10)), 1) for _ in range(classes)])
    return (np.exp(raw) / np.exp(raw).sum(0)).astype(np.float32)


@pytest.mark.parametrize("shape", [(15, 11, 24), (9, 12, 17), (9, 12, 10), (4, 5, 3)])
@pytest.mark.parametrize(("classes", "sharpness"), [(4, 5), (30, 60)])
def test_probabilities_equal_the_argmax_of_all_classes_at_once(shape, classes, sharpness):
    probabilities = soft_maps(classes, sharpness)
    expected = np.stack([scipy_zoom(p.astype(np.float64), shape, 1) for p in probabilities])
    top = np.sort(expected, axis=0)
    clear = top[-1] - top[-2] > 1e-5
    assert clear.mean() > 0.99
    assert np.array_equal(classes_on(shape, probabilities)[clear], expected.argmax(0)[clear])


def test_the_last_region_above_one_half_writes_its_number():
    whole, core = np.array([0.2, 0.5, 0.9, 0.6]), np.array([0.1, 0.4, 0.51, 0.5])
    found = classes_on((1, 1, 4), np.stack((whole, core)).reshape(2, 1, 1, 4).astype(np.float32), last_above_half)
    assert found.ravel().tolist() == [0, 0, 2, 1]
    p = np.random.default_rng(0).random((3, 6, 7, 8)).astype(np.float32)
    masks = [resample(one[None], (9, 7, 5), 1)[0] > 0.5 for one in p]
    expected = np.select(masks[::-1], [3, 2, 1])
    assert np.array_equal(classes_on((9, 7, 5), p, last_above_half), expected)


@pytest.mark.parametrize("choose", [most_probable, last_above_half])
@pytest.mark.parametrize("planes", [1, 2, 4, 8])
@pytest.mark.parametrize("shape", [(9, 12, 10), (9, 20, 7), (31, 12, 17), (4, 12, 10), (2, 5, 5)])
def test_slabs_give_the_classes_of_the_whole(shape, planes, choose):
    p = soft_maps(4, 9)
    found, whole = classes_on(shape, p, choose, planes), classes_on(shape, p, choose)
    assert len(np.unique(whole)) > 2
    assert (found != whole).mean() < 1e-3, "rounding may decide a tie"


def test_outside_all_labels_the_first_class_wins():
    p = np.zeros((3, 6, 8, 8), np.float32)
    p[0], p[:2, 2:4, 3:5, 3:5] = 1, [[[[0.1]]], [[[0.9]]]]
    found = classes_on((12, 16, 16), p, planes=2)
    assert found[4:8, 7:9, 7:9].min() == 1
    assert found.sum() == found[4:8, 6:10, 6:10].sum()
    assert not classes_on((12, 16, 16), p[:, :2], planes=2).any()
