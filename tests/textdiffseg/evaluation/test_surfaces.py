"""NSD and HD95 are those of DeepMind's surface-distance, whichever way the distances are found."""

import warnings

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from surface_distance import metrics as deepmind

from textdiffseg.evaluation import surfaces
from textdiffseg.evaluation.surfaces import (
    area_by_distance,
    corner_codes,
    element_areas,
    nearest_distances,
    percentile_of,
    surface_of,
    surface_scores,
)
from textdiffseg.imaging.sources.files import read_labels

SPACING = (3.27, 0.98, 0.7)
WAYS = {  # settings that force each way of finding the distances
    "tree": {"MAX_TREE_SHARE": 1.0, "MAX_FAR_PAIRS": np.inf},
    "tree, then transform": {"MAX_TREE_SHARE": 1.0, "MAX_FAR_PAIRS": 0.0, "NEAR_VOXELS": 1},
    "tree in two steps and small blocks": {
        "MAX_TREE_SHARE": 1.0,
        "MAX_FAR_PAIRS": np.inf,
        "NEAR_VOXELS": 1,
        "BLOCK": 7,
    },
    "transform": {"MAX_TREE_SHARE": 0.0},
    "by the masks": {},
}


def blob(seed: int, shape=(14, 22, 26)) -> np.ndarray:
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2)
    return noise > np.quantile(noise, 0.7)


def points(*places, shape=(14, 22, 26)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(np.array(places).T)] = True
    return mask


def slab(first: int, last: int, shape=(14, 22, 26)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[:, first:last] = True  # it touches the border on four sides
    return mask


NOISE = np.random.default_rng(9).random((14, 22, 26)) < 0.4
PAIRS = {
    "blobs": (blob(0), blob(1)),
    "far apart": (slab(0, 1), slab(21, 22)),
    "border": (slab(0, 9), slab(0, 11)),
    "one voxel in a blob": (blob(2), points((7, 11, 13))),
    "a far false voxel": (slab(0, 9), slab(0, 9) | points((13, 21, 25))),
    "noise": (NOISE, blob(3)),
    "whole array": (np.ones((14, 22, 26), bool), blob(4)),
}


def expected(predicted, reference, spacing, tolerance):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it uses names of scipy that are deprecated
        distances = deepmind.compute_surface_distances(reference, predicted, spacing)
    nsd = deepmind.compute_surface_dice_at_tolerance(distances, tolerance)
    return nsd, deepmind.compute_robust_hausdorff(distances, 95)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("pair", PAIRS)
def test_made_masks_have_the_scores_of_surface_distance(monkeypatch, way, pair):
    for name, value in WAYS[way].items():
        monkeypatch.setattr(surfaces, name, value)
    predicted, reference = PAIRS[pair]
    for spacing in (SPACING, (1.0, 1.0, 1.0)):
        for tolerance in (0.5, 0.98, 5.0, 500.0):
            found = surface_scores(predicted, reference, spacing, tolerance)
            assert found == pytest.approx(expected(predicted, reference, spacing, tolerance), abs=1e-9)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Dataset101_SoftTissueSarcoma/labelsTr/STS_008.nii.gz", 1),
        ("Dataset004_Hippocampus/labelsTr/hippocampus_003.nii.gz", 2),
    ],
)
def test_real_masks_have_the_scores_of_surface_distance(shared_data, name, value):
    volume = read_labels(shared_data / name)
    reference = volume.array[0] == value
    rolled = np.roll(reference, (1, -2, 3), (0, 1, 2))
    smooth = gaussian_filter(reference.astype(np.float32), 1.5) > 0.4
    for predicted in (rolled, smooth):
        found = surface_scores(predicted, reference, volume.geometry.spacing, 1.0)
        assert found == pytest.approx(expected(predicted, reference, volume.geometry.spacing, 1.0), abs=1e-9)


def test_one_voxel_has_eight_corners_and_a_neighbour_one_step_away():
    one, other = points((0, 0, 0)), points((0, 0, 2))
    surface = surface_of(one)
    assert sorted(surface.codes.tolist()) == [1, 2, 4, 8, 16, 32, 64, 128]
    assert surface.points[0].tolist() == [0, 0, 0]
    assert corner_codes(one).shape == (15, 23, 27)
    assert surface_scores(one, one, SPACING, 0.1) == (1.0, 0.0)
    assert surface_scores(one, other, SPACING, 1.39) == (0.5, pytest.approx(1.4))
    assert surface_scores(one, other, SPACING, 1.41) == (1.0, pytest.approx(1.4))


def test_a_flat_face_has_the_area_of_its_voxels():
    flat = np.bincount(corner_codes(slab(0, 9))[3:-3, 9, 3:-3].reshape(-1)).argmax()
    assert element_areas(SPACING)[flat] == pytest.approx(SPACING[0] * SPACING[2])


def test_distances_that_decide_nothing_are_not_searched(monkeypatch):
    monkeypatch.setattr(surfaces, "MAX_TREE_SHARE", 1.0)
    monkeypatch.setattr(surfaces, "NEAR_VOXELS", 2)
    here, there = surface_of(slab(0, 9) | points((13, 21, 25))), surface_of(slab(0, 9))
    areas = element_areas((1.0, 1.0, 1.0))
    few = nearest_distances(here, there, areas, (1.0, 1.0, 1.0), 1.0)
    assert np.isinf(few).sum() == 8, "the corners of the far voxel"
    assert np.isfinite(nearest_distances(here, there, areas, (1.0, 1.0, 1.0), 2.0)).all(), "the tolerance is not near"


def test_the_percentile_is_weighted_by_area():
    distances, codes, areas = np.array([3.0, 0.0, 1.0, 0.0]), np.array([1, 2, 3, 2]), np.arange(256.0)
    different, area = area_by_distance(distances, codes, areas)
    assert (different.tolist(), area.tolist()) == ([0.0, 1.0, 3.0], [4.0, 3.0, 1.0])
    assert percentile_of(different, np.array([1.0, 98.0, 1.0])) == 1.0
    assert percentile_of(different, np.array([1.0, 93.0, 6.0])) == 3.0
    assert percentile_of(different, np.array([95.0, 5.0, 0.0])) == 0.0
