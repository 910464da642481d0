import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from textdiffseg.evaluation import calibration
from textdiffseg.evaluation.calibration import (
    PLANES,
    SlabSample,
    brier_score,
    expected_calibration_error,
    near_foreground,
    negative_log_likelihood,
)
from textdiffseg.temperature import SampledVoxels, label_by_label


def draw(count=60_000, classes=3, seed=0):
    """Probabilities, and truths drawn from them."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(classes, 0.5), count).T.astype(np.float32)
    truth = (p.cumsum(0) < rng.random(count)).sum(0).clip(max=classes - 1)
    return p, truth


def test_the_probabilities_that_generated_the_truth_are_calibrated():
    p, truth = draw()
    assert expected_calibration_error(p, truth) < 0.01
    assert expected_calibration_error(p, (truth + 1) % 3) > 0.3


def test_a_constant_overconfidence_equals_the_error():
    p = np.tile(np.array([[0.1], [0.9]]), 1000)
    truth = (np.arange(1000) % 10 < 6).astype(int)  # right in six of ten
    assert expected_calibration_error(p, truth) == pytest.approx(0.3)
    assert expected_calibration_error(1 - p, truth) == pytest.approx(0.9 - 0.4)


@pytest.mark.parametrize(("bins", "expected"), [(2, (0.4 + 0.9) / 2), (1, 0.75 - 0.5)])
def test_bins_contain_equally_many_voxels(bins, expected, monkeypatch):
    """Two bins: the half with confidence 0.6 is always right, the other with 0.9 never; the errors do not cancel."""
    confidence = np.repeat([0.6, 0.9], 50)
    p, truth = np.stack([1 - confidence, confidence]), np.repeat([1, 0], 50)
    monkeypatch.setattr(calibration, "BINS", bins)
    assert expected_calibration_error(p, truth) == pytest.approx(expected)


def test_fewer_voxels_than_bins_have_a_bin_each():
    p = np.tile(np.array([[0.4], [0.6]]), 3)
    assert expected_calibration_error(p, np.ones(3, int)) == pytest.approx(0.4)


def test_brier_has_its_closed_form_and_is_best_for_the_generating_probabilities():
    p = np.array([[0.2, 1.0], [0.3, 0.0], [0.5, 0.0]])
    assert brier_score(p, np.array([1, 0])) == pytest.approx((0.04 + 0.49 + 0.25) / 2)
    assert brier_score(p[:, 1:], np.array([2])) == pytest.approx(2.0)
    p, truth = draw()
    sharp = p**2 / (p**2).sum(0)
    assert brier_score(p, truth) == pytest.approx(np.mean(1 - (p**2).sum(0)), abs=0.01)
    assert brier_score(p, truth) < brier_score(sharp, truth)
    assert negative_log_likelihood(p, truth) < negative_log_likelihood(sharp, truth)


def test_the_distance_is_in_millimetres_along_every_axis():
    labels = np.zeros((21, 21, 21), np.int8)
    labels[10, 10, 10] = 2
    near = near_foreground(labels, (2.5, 1.0, 4.0))
    steps = np.indices(labels.shape) - 10
    distance = np.sqrt((2.5 * steps[0]) ** 2 + steps[1] ** 2 + (4.0 * steps[2]) ** 2)
    assert (near == (distance <= 5)).all()
    assert near[:, 10, 10].sum() == 5
    assert near[10, :, 10].sum() == 11
    assert near[10, 10, :].sum() == 3


def test_no_voxel_is_near_without_foreground_and_ignored_voxels_never_are():
    labels = np.zeros((4, 5, 6), np.int8)
    assert not near_foreground(labels, (1, 1, 1)).any()
    labels[2, 2, 2], labels[2, 2, 3] = 1, -1
    near = near_foreground(labels, (1, 1, 1))
    assert near[2, 2, 2]
    assert not near[2, 2, 3]


def test_the_distance_is_measured_across_blocks_of_planes():
    labels = np.zeros((3 * PLANES, 4, 4), np.int8)
    labels[PLANES - 1, 1, 1] = labels[2 * PLANES + 1, 2, 2] = 1
    expected = distance_transform_edt(labels == 0, sampling=(2.0, 1.0, 1.0)) <= 5
    assert np.array_equal(near_foreground(labels, (2.0, 1.0, 1.0)), expected)


def sampled(p, labels, **options):
    """The voxels of two slabs, near the foreground of `labels`."""
    sample = SlabSample(labels, (1, 1, 1), len(p), **options)
    for first in (0, 2):
        planes = slice(first, 2 if first == 0 else None)
        sample.add(first, p[:, planes], range(len(p)))
    return sample.finish()


def test_a_sample_of_voxels_keeps_probabilities_and_truth_together():
    labels = np.random.default_rng(0).integers(0, 3, (6, 7, 8)).astype(np.int8)
    p = np.eye(3, dtype=np.float32)[labels].transpose(3, 0, 1, 2)
    voxels = sampled(p, labels, max_voxels=50)
    assert voxels.p.shape == (3, 50)
    assert (voxels.p.argmax(0) == voxels.truth).all()
    assert brier_score(voxels.p, voxels.truth) == 0
    assert sampled(p, labels).p.shape == (3, labels.size)
    many = np.concatenate((p, np.zeros((3997, *labels.shape), np.float32)))
    assert sampled(many, labels).p.shape == (4000, 100)


def test_a_single_label_has_the_same_score_whether_exclusive_or_overlapping():
    p, truth = draw(count=500, classes=2)
    pairs = label_by_label(SampledVoxels(p, truth), ((1,),), (1,))
    assert pairs.p == pytest.approx(p, abs=1e-6)
    assert (pairs.truth == truth).all()


def test_overlapping_labels_are_binary_and_have_equal_weight():
    truth = np.array([0, 1, 2, 2])
    p = np.array([[0.5] * 4, [0.1, 0.9, 0.9, 0.9], [0.2, 0.2, 0.2, 0.8]])  # whole (1 and 2), core (2)
    pairs = label_by_label(SampledVoxels(p, truth), ((1, 2), (2,)), (1, 2))
    assert pairs.truth.tolist() == [0, 1, 1, 1, 0, 0, 1, 1]
    assert pairs.p[1].tolist() == [0.1, 0.9, 0.9, 0.9, 0.2, 0.2, 0.2, 0.8]
    whole, core = (brier_score(pairs.p[:, half], pairs.truth[half]) for half in (slice(4), slice(4, 8)))
    assert (whole, core) == pytest.approx((2 * 0.01, 2 * (3 * 0.04 + 0.64) / 4))
    assert brier_score(pairs.p, pairs.truth) == pytest.approx((whole + core) / 2)
    core_alone = label_by_label(SampledVoxels(p, truth), ((1, 2), (2,)), (2,))
    assert brier_score(core_alone.p, core_alone.truth) == pytest.approx(core)
