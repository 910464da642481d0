"""The spread that fits the gaps and losses of samples."""

import math

import pytest

from textdiffseg.training.spread import MAX_GAP, MAX_LOSS, fitting_spread

SPREADS = (0.25, 0.5, 1.0, 2.0, 4.0)


def chosen(gap, loss, least=0.25):
    """The spread that is chosen where both figures are functions of it."""
    return fitting_spread({s: gap(s) for s in SPREADS}, {s: loss(s) for s in SPREADS}, least)


@pytest.mark.parametrize("least", [0.25, 1.0])
def test_the_least_spread_is_chosen_if_it_fits(least):
    assert chosen(lambda s: 0.019, lambda s: 0.0, least) == least


def test_between_tried_spreads_the_gap_is_interpolated():
    assert chosen(lambda s: 0.05 - 0.01 * s, lambda s: 0.0) == pytest.approx(3.0)
    assert chosen(lambda s: MAX_GAP if s >= 2 else 0.03, lambda s: 0.0) == pytest.approx(2.0)


def test_a_spread_that_is_too_rough_is_not_chosen():
    assert chosen(lambda s: 0.05 - 0.01 * s, lambda s: 0.02 * s) == pytest.approx(2.0)
    assert chosen(lambda s: 0.1, lambda s: MAX_LOSS / 3 * s) == pytest.approx(3.0)
    assert chosen(lambda s: 0.0, lambda s: 0.05 * s, least=1.0) == pytest.approx(0.8)


def test_the_smallest_is_chosen_if_all_are_too_rough():
    assert chosen(lambda s: 0.1, lambda s: 0.05) == 0.25
    assert chosen(lambda s: 0.0, lambda s: math.inf, least=1.0) == 0.25


def test_the_largest_is_chosen_if_none_fits_and_none_is_too_rough():
    assert chosen(lambda s: 0.1, lambda s: 0.0) == 4.0


def test_a_spread_without_a_gap_does_not_fit():
    """No label has both an agreement and a reference."""
    assert chosen(lambda s: math.inf if s < 2 else 0.0, lambda s: 0.0) == 2.0
