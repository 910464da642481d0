"""Each degradation does what its name states, in its unit, and is a function of its seed."""

import numpy as np
import pytest

from textdiffseg.degradations import DEGRADATIONS, LOST_ROWS, MAX_BIAS, degrade


@pytest.fixture(scope="module")
def image():
    """Two channels: smooth waves, normalised."""
    z, y, x = np.meshgrid(*(np.linspace(0, 3 * np.pi, size) for size in (22, 40, 30)), indexing="ij")
    waves = np.stack([np.sin(z) + np.cos(y) * np.sin(x), np.cos(z + x) + np.sin(2 * y)])
    return ((waves - waves.mean((1, 2, 3), keepdims=True)) / waves.std((1, 2, 3), keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_a_degraded_image_has_its_shape_and_is_a_function_of_the_seed(image, name):
    before = image.copy()
    found = degrade(name, image, 3, 1)
    assert (found.shape, found.dtype) == (image.shape, np.float32)
    assert np.isfinite(found).all()
    assert np.array_equal(image, before), "the image itself is kept"
    assert np.array_equal(found, degrade(name, image, 3, 1))
    assert np.abs(found - image).max() > 0.1
    assert name in ("blur", "thick slices", "gamma") or not np.array_equal(found, degrade(name, image, 3, 2))


@pytest.mark.parametrize(("name", "sd"), [("noise 0.5", 0.5), ("noise 1", 1.0), ("noise 2", 2.0)])
def test_noise_has_its_standard_deviation(image, name, sd):
    added = degrade(name, image, 0) - image
    assert added.std() == pytest.approx(sd, rel=0.02)
    assert added.mean() == pytest.approx(0, abs=0.03 * sd)


def test_blur_removes_detail_and_keeps_the_mean(image):
    point = np.zeros((1, 21, 21, 21), np.float32)
    point[0, 10, 10, 10] = 1
    spread = degrade("blur", point, 0)[0]
    assert spread.sum() == pytest.approx(1, abs=1e-3)
    offsets = np.arange(21) - 10
    assert np.sqrt((spread.sum((1, 2)) * offsets**2).sum()) == pytest.approx(1.5, rel=0.02)


def test_thick_slices_average_four_neighbours(image):
    steps = np.repeat([0.0, 1.0, 0.0], (10, 1, 10)).astype(np.float32).reshape(1, 21, 1, 1) * np.ones((1, 21, 4, 4))
    found = degrade("thick slices", steps, 0)[0, :, 0, 0]
    assert found.max() < 0.4, "one bright slice of four"
    assert degrade("thick slices", 5 * np.ones((1, 7, 3, 3)), 0) == pytest.approx(5 * np.ones((1, 7, 3, 3)))


def test_a_bias_field_is_smooth_and_multiplies(image):
    flat = np.ones((1, 24, 24, 24), np.float32)
    flat[0, 0, 0, 0] = 0  # the lowest intensity, from which factors count
    found = degrade("bias field", flat, 0)[0]
    inner = found[1:, 1:, 1:]
    assert np.abs(np.diff(inner, axis=0)).max() < 0.2 * np.ptp(inner)
    assert MAX_BIAS > 1


@pytest.mark.parametrize("name", ["bias field", "gamma"])
def test_brightness_is_normalised_as_before(image, name):
    found = degrade(name, image, 0)
    assert found.mean((1, 2, 3)) == pytest.approx(image.mean((1, 2, 3)), abs=1e-3)
    assert found.std((1, 2, 3)) == pytest.approx(image.std((1, 2, 3)), rel=1e-3)


def test_gamma_keeps_the_order_of_intensities(image):
    assert (np.argsort(degrade("gamma", image, 0)[0].ravel()) == np.argsort(image[0].ravel())).mean() > 0.9


def test_a_quarter_of_the_rows_is_lost(image):
    found = degrade("lost rows", image, 0)
    lost = (found == image.min((1, 2, 3), keepdims=True)).all((0, 3))
    assert lost.mean() == pytest.approx(LOST_ROWS, abs=0.04)
    assert np.array_equal(found[:, ~lost], image[:, ~lost])


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_a_constant_image_and_a_single_slice_are_degraded_too(name):
    for shape in ((1, 8, 8, 8), (1, 1, 8, 8)):
        assert np.isfinite(degrade(name, np.full(shape, 2.0), 0)).all()
