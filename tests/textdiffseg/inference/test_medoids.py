"""The laws of k-medoids."""

import numpy as np
import pytest

from textdiffseg.inference.medoids import Medoid, medoids


def euclidean(points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[:, None] - points, axis=-1)


@pytest.mark.parametrize("k", [1, 2, 4, 8, 16])
def test_medoids_are_different_members_and_their_shares_sum_to_one(k):
    distances = euclidean(np.random.default_rng(k).normal(size=(16, 3)))
    found = medoids(distances, k)
    assert len({one.sample for one in found}) == k
    assert all(one.share >= 1 / 16 for one in found)
    assert sum(one.share for one in found) == pytest.approx(1)
    assert [one.share for one in found] == sorted((one.share for one in found), reverse=True)


def test_one_medoid_has_the_smallest_sum_of_distances():
    distances = euclidean(np.random.default_rng(0).normal(size=(16, 2)))
    assert medoids(distances, 1) == (Medoid(int(distances.sum(1).argmin()), 1.0),)


def test_separate_clusters_are_found_with_their_shares():
    centres = np.array([[0.0, 0.0]] * 10 + [[9.0, 0.0]] * 5 + [[0.0, 30.0]])
    points = centres + np.random.default_rng(1).normal(0, 0.1, (16, 2))
    found = medoids(euclidean(points), 3)
    assert [one.share for one in found] == [10 / 16, 5 / 16, 1 / 16]
    assert [one.sample // 5 for one in found] in ([0, 2, 3], [1, 2, 3])


def test_equal_samples_are_one_cluster_and_give_fewer_medoids():
    assert medoids(np.zeros((16, 16)), 4) == (Medoid(0, 1.0),)
    kind = np.array([0, 1, 1, 0, 1, 1])
    assert medoids((kind[:, None] != kind).astype(float), 4) == (Medoid(1, 4 / 6), Medoid(0, 2 / 6))


@pytest.mark.parametrize("k", [0, 17])
def test_a_number_out_of_range_is_refused(k):
    with pytest.raises(ValueError, match="expected 1 to 16 medoids"):
        medoids(np.zeros((16, 16)), k)


def test_the_order_of_samples_changes_only_their_numbers():
    distances = euclidean(np.random.default_rng(3).normal(size=(12, 2)))
    order = np.random.default_rng(4).permutation(12)
    shuffled = medoids(distances[np.ix_(order, order)], 3)
    assert [one.share for one in shuffled] == [one.share for one in medoids(distances, 3)]
    best = distances[:, [one.sample for one in medoids(distances, 3)]].min(1).sum()
    assert distances[:, [order[one.sample] for one in shuffled]].min(1).sum() == pytest.approx(best)
