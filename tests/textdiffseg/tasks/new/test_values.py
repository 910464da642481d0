"""The values of masks. A scan of 8 bits in place of a mask is recognised."""

from pathlib import Path

import numpy as np
import pytest

from plans.errors import UserError
from textdiffseg.imaging.sources.files import read_labels, read_volume
from textdiffseg.phantoms import draw_anatomy, paint
from textdiffseg.tasks.new.values import label_counts

MASK = Path("mask.nii.gz")


def eight_bits(scan):
    """The middle 98% of the values as 0 to 255, as tools that make pictures write them."""
    low, high = np.percentile(scan, (1, 99))
    return np.clip((scan.astype(float) - low) / (high - low) * 255, 0, 255).astype(np.uint8)


def refuse(array):
    with pytest.raises(UserError, match=r"mask\.nii\.gz has \d+ different values: it seems to be a scan"):
        label_counts(array, MASK)


@pytest.mark.parametrize("number", range(4))
def test_a_scan_of_eight_bits_is_not_a_mask(number):
    scan, labels = paint(draw_anatomy(0, number), np.random.default_rng(number))
    refuse(scan.astype(np.uint8))
    refuse(eight_bits(scan))
    assert len(label_counts(labels, MASK)) >= 5


def blocks(width, gap):
    """A grid of 6 x 6 x 6 cubes, each with its own value. `width` of a cube and `gap` between two, in voxels."""
    numbers = np.arange(1, 217).reshape(6, 6, 6)
    return np.kron(numbers, np.pad(np.ones((width,) * 3, int), (0, gap)))


@pytest.mark.parametrize(("width", "gap"), [(3, 0), (10, 0), (1, 1), (1, 3), (2, 1)])
def test_a_label_map_with_many_small_labels_is_a_mask(width, gap):
    assert label_counts(blocks(width, gap), MASK) == dict.fromkeys(range(1, 217), width**3)


def test_a_map_of_few_values_may_change_at_each_voxel():
    assert len(label_counts(np.arange(24 * 27).reshape(24, 27, 1) % 24, MASK)) == 23


def test_values_below_0_are_refused():
    with pytest.raises(UserError, match=r"mask\.nii\.gz has the value -1\. Expected 0 for background"):
        label_counts(np.array([[[0, -1, 2]]], np.int8), MASK)


def test_real_scans_are_refused_and_real_label_maps_are_not(shared_data):
    for dataset in ("Dataset004_Hippocampus", "Dataset101_SoftTissueSarcoma", "Dataset102_HeadAndNeck"):
        folder = shared_data / dataset
        image, mask = (sorted((folder / part).iterdir())[0] for part in ("imagesTr", "labelsTr"))
        refuse(eight_bits(read_volume((image,)).array[0]))
        assert label_counts(read_labels(mask).array[0], MASK)
