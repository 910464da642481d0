"""The intensity schemes."""

import tracemalloc

import numpy as np
import pytest

from plans.plan import ChannelPlan
from textdiffseg.imaging.normalise import nonzero_mask, normalise


@pytest.fixture
def image() -> np.ndarray:
    image = np.random.default_rng(0).normal(300, 40, (1, 8, 9, 10)).astype(np.float32)
    image[:, :3] = 0
    return image


def test_ct_clips_then_scales_by_the_data_set(image):
    plan = ChannelPlan(name="CT", scheme="ct", mean=310, std=20, low=290, high=330)
    found = normalise(image, [plan])
    assert np.allclose(found, (np.clip(image, 290, 330) - 310) / 20, atol=1e-5)


def test_zscore_over_the_whole_case(image):
    found = normalise(image, [ChannelPlan(name="MRI", scheme="zscore")])
    assert abs(found.mean()) < 1e-4
    assert abs(found.std() - 1) < 1e-4


def test_zscore_inside_the_mask_leaves_the_rest_at_zero(image):
    mask = nonzero_mask(image)
    found = normalise(image, [ChannelPlan(name="MRI", scheme="zscore", foreground_only=True)], mask)
    assert abs(found[0][mask].mean()) < 1e-4
    assert abs(found[0][mask].std() - 1) < 1e-4
    assert not found[0][~mask].any()


@pytest.mark.parametrize("foreground_only", [False, True])
def test_zscore_makes_no_copy_of_the_scan_in_float64(foreground_only):
    image = np.random.default_rng(0).normal(300, 40, (1, 64, 64, 64)).astype(np.float32)
    mask, plan = nonzero_mask(image), ChannelPlan(name="MRI", scheme="zscore", foreground_only=foreground_only)
    tracemalloc.start()
    found = normalise(image, [plan], mask)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.allclose(found, (image - image.mean(dtype=float)) / image.std(dtype=float), atol=1e-5)
    assert peak < found.nbytes + 2 * image.size, "less than a float64 copy by far"


def test_rescale_to_0_1(image):
    found = normalise(image, [ChannelPlan(name="photo", scheme="rescale_to_0_1")])
    assert (found.min(), found.max()) == (0, 1)


def test_a_constant_image_stays_finite():
    image = np.full((3, 4, 4, 4), 7, np.float32)
    plans = [ChannelPlan(name="a", scheme=scheme) for scheme in ("zscore", "rescale_to_0_1", "none")]
    found = normalise(image, plans)
    assert np.isfinite(found).all()
    assert (found[2] == 7).all()


def test_the_mask_has_no_holes():
    image = np.ones((2, 5, 5, 5), np.float32)
    image[:, 2, 2, 2] = 0
    assert nonzero_mask(image).all()
