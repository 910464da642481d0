"""The fit of the expected Dice: it recovers a known curve, and its threshold separates poor masks."""

import numpy as np
import pytest

from textdiffseg.validation.degrading import MAX_DEGRADED_SCANS, pairs
from textdiffseg.validation.expected_dice import POOR_DICE, ScoredMask, fit_expected_dice


def drawn(cases, lowest, degraded_from, seed=0):
    """Masks of two labels whose Dice is soft Dice squared, and a little noise."""
    rng = np.random.default_rng(seed)
    masks = []
    for number in range(cases):
        soft = rng.uniform(lowest, 1, 2)
        dice = np.clip(soft**2 + rng.normal(0, 0.01, 2), 0, 1)
        masks.append(ScoredMask(number, soft, dice, degraded=number >= degraded_from))
    return masks


def test_the_curve_is_recovered_and_separates_poor_masks(plan):
    fit = fit_expected_dice(drawn(200, 0.3, 100), plan)
    assert fit.expected(np.array([0.4, 0.6, 0.8, 0.95])) == pytest.approx([0.16, 0.36, 0.64, 0.9], abs=0.03)
    assert np.all(np.diff(fit.curve) >= 0)
    assert (fit.scans, fit.degraded) == (200, 100)
    assert fit.error < 0.02
    usual = np.median([mask.mean_dice for mask in drawn(200, 0.3, 100)[:100]])
    assert fit.poor_dice == pytest.approx(0.9 * usual), "a difficult data set has a lower limit"
    assert fit.threshold == pytest.approx(fit.poor_dice, abs=0.03)
    assert fit.poor_found > 0.95
    assert fit.good_flagged < 0.05


def test_below_what_was_seen_the_curve_falls_to_zero(plan):
    fit = fit_expected_dice(drawn(60, 0.9, 50), plan)
    assert fit.expected(np.array([0.0, 0.45])) == pytest.approx([0.0, 0.405], abs=0.03)
    assert (fit.threshold, fit.poor_dice) == (POOR_DICE, POOR_DICE), "no mask is poor"
    assert (fit.poor_found, fit.good_flagged) == (None, 0.0)


def test_scores_are_those_of_the_other_half(plan):
    """Half of the cases has another curve, which the scores show and the curve averages."""
    masks = [
        ScoredMask(number, np.array([0.8, np.nan]), np.array([(0.9, 0.5)[number % 2], np.nan]), number > 1)
        for number in range(8)
    ]
    fit = fit_expected_dice(masks, plan)
    assert fit.expected(np.array(0.8)) == pytest.approx(0.7)
    assert fit.error == pytest.approx(0.4)


def test_without_degraded_masks_or_with_one_case_nothing_is_fitted(plan):
    masks = drawn(8, 0.5, 4)
    assert fit_expected_dice(masks[:4], plan) is None
    assert fit_expected_dice([mask for mask in masks if mask.case == 5], plan) is None
    assert fit_expected_dice([], plan) is None
    assert fit_expected_dice(masks, plan, absent=[2]).may_be_absent == ("back",)


def test_the_first_degraded_scans_differ_in_case_and_degradation():
    found = list(pairs(5))
    assert len({index for index, _ in found[:5]}) == len({name for _, name in found[:5]}) == 5
    assert len(set(found)) == len(found) == 40, "each of five cases with each of eight degradations"
    assert len(list(pairs(100))) == len({index for index, _ in pairs(100)}) == MAX_DEGRADED_SCANS
    assert list(pairs(0)) == []
