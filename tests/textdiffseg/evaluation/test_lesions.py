"""Lesions are matched one to one, and missed and false lesions count."""

import numpy as np
import pytest

from textdiffseg.evaluation.lesions import lesion_scores, mean_over_cases, mean_over_references


def mask(*lesions: tuple[int, int], length: int = 40) -> np.ndarray:
    """Lesions along one line, as (first, last + 1)."""
    found = np.zeros((1, 1, length), bool)
    for first, last in lesions:
        found[..., first:last] = True
    return found


def figures(found):
    return found.dice, found.precision, found.recall, found.f1, found.predicted, found.reference, found.matched


def test_matched_missed_and_false_lesions():
    reference = mask((0, 4), (10, 14), (20, 22))
    predicted = mask((0, 4), (12, 16), (30, 33))
    expected = (pytest.approx((1 + 4 / 8) / 4), pytest.approx(2 / 3), pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert figures(lesion_scores(predicted, reference)) == (*expected, 3, 3, 2)


def test_one_prediction_over_two_lesions_matches_the_larger_overlap():
    reference, predicted = mask((0, 2), (3, 9)), mask((0, 9))
    assert figures(lesion_scores(predicted, reference)) == (pytest.approx(12 / 15 / 2), 1.0, 0.5, 2 / 3, 1, 2, 1)
    assert figures(lesion_scores(reference, predicted)) == (pytest.approx(12 / 15 / 2), 0.5, 1.0, 2 / 3, 2, 1, 1)


def test_the_largest_iou_is_matched_first():
    """The prediction over both lesions fits the second one better, which leaves the first to the other prediction."""
    reference, predicted = np.zeros((2, 1, 1, 12), bool)
    reference[..., :4] = reference[..., 5:12] = True
    predicted[..., 3:12] = predicted[..., :2] = True
    found = lesion_scores(predicted, reference)
    assert (found.matched, found.f1) == (2, 1.0)
    assert found.dice == pytest.approx((2 * 2 / 6 + 2 * 7 / 16) / 2)


def test_lesions_touch_at_corners():
    diagonal = np.zeros((3, 3, 3), bool)
    diagonal[[0, 1, 2], [0, 1, 2], [0, 1, 2]] = True
    assert lesion_scores(diagonal, diagonal).reference == 1


def test_the_rule_for_empty_masks():
    empty, full = mask(), mask((0, 4), (6, 8))
    assert figures(lesion_scores(empty, empty)) == (None, None, None, None, 0, 0, 0)
    assert figures(lesion_scores(empty, full)) == (0.0, None, 0.0, 0.0, 0, 2, 0)
    assert figures(lesion_scores(full, empty)) == (0.0, 0.0, None, 0.0, 2, 0, 0)


def test_several_references_are_averaged_and_an_absent_lesion_is_right():
    empty, full = mask(), mask((0, 4))
    found = mean_over_references([lesion_scores(empty, full), lesion_scores(empty, empty)])
    assert figures(found) == (0.5, None, 0.0, 0.5, 0, 0.5, 0)
    none = lesion_scores(empty, empty)
    assert mean_over_references([none, none]) == none
    assert mean_over_references([]) is None


def test_cases_are_averaged_and_counts_are_added():
    empty, full = mask(), mask((0, 4))
    found = mean_over_cases([lesion_scores(full, full), None, lesion_scores(empty, full), lesion_scores(empty, empty)])
    assert figures(found) == (0.5, 1.0, 0.5, 0.5, 1, 2, 1)
    assert mean_over_cases([None]) is None
