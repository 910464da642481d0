"""Scores of two sets are compared case by case."""

import numpy as np
import pytest

from plans.errors import UserError
from textdiffseg.evaluation import comparison
from textdiffseg.evaluation.comparison import bootstrap_interval, compare, difference_of, signed_rank_p
from textdiffseg.evaluation.metrics import BOTH_EMPTY, CaseScores, LabelScores


def cases(**dice: dict[str, float | None]) -> list[CaseScores]:
    """By case and label."""
    other = {"volume_ml": 1, "reference_ml": 1}
    return [
        CaseScores(
            case=case,
            labels={
                name: LabelScores(dice=value, nsd=value, hd95=None if value is None else 10 * (1 - value), **other)
                for name, value in labels.items()
            },
        )
        for case, labels in dice.items()
    ]


def test_differences_are_paired_and_undefined_scores_left_out():
    first = cases(a={"x": 0.75, "y": 1.0}, b={"x": 0.5, "y": None}, c={"x": 1.0, "y": 0.5}, only={"x": 0.0, "y": 0.0})
    second = cases(b={"x": 0.25, "y": 1.0}, a={"x": 0.5, "y": 0.5}, c={"x": 0.5, "y": 0.5}, other={"x": 1.0})
    found = compare(first, second, "B")
    assert (found.only_first, found.only_second, found.against) == (("only",), ("other",), "B")
    x, y, mean = found.labels["x"]["dice"], found.labels["y"]["dice"], found.mean["dice"]
    assert (x.cases, x.first, x.second, x.difference) == (3, 0.75, pytest.approx(1.25 / 3), pytest.approx(1 / 3))
    assert (y.cases, y.first, y.second, y.difference) == (2, 0.75, 0.5, 0.25)
    by_case = [(0.875, 0.5), (0.5, 0.25), (0.75, 0.5)]
    assert (mean.cases, mean.difference) == (3, pytest.approx(np.subtract(*np.transpose(by_case)).mean()))
    assert found.labels["x"]["hd95"].difference == pytest.approx(-10 / 3)
    assert list(found.labels) == ["x", "y"]


def test_a_false_structure_counts_against_a_mask_that_is_rightly_empty():
    volumes = {"volume_ml": 1.0, "reference_ml": 0.0}
    empty = LabelScores(dice=None, nsd=None, hd95=None, note=BOTH_EMPTY, **volumes)
    false = LabelScores(dice=0.0, nsd=0.0, hd95=None, **volumes)
    sick = {"x": LabelScores(dice=0.5, nsd=0.5, hd95=1.0, **volumes)}
    first = [CaseScores(case="sick", labels=sick), CaseScores(case="healthy", labels={"x": empty})]
    second = [CaseScores(case="sick", labels=sick), CaseScores(case="healthy", labels={"x": false})]
    found = compare(first, second, "B")
    assert [found.labels["x"][score].difference for score in ("dice", "nsd", "hd95")] == [0.5, 0.5, 0.0]
    assert compare(second, first, "A").mean["dice"].difference == -0.5
    assert compare(first, first, "A").mean["dice"].cases == 1, "if both are empty, the case says nothing"


def test_the_interval_is_that_of_resampled_means():
    gaps = np.random.default_rng(1).normal(0.01, 0.1, 400)
    low, high = bootstrap_interval(gaps)
    error = gaps.std() / 20
    assert (low, high) == (
        pytest.approx(gaps.mean() - 1.96 * error, abs=0.1 * error),
        pytest.approx(2 * gaps.mean() - low, abs=0.2 * error),
    )
    assert bootstrap_interval(np.full(7, 0.25)) == (0.25, 0.25)


def test_draws_in_blocks_are_the_same(monkeypatch):
    gaps = np.random.default_rng(2).normal(size=13)
    whole = bootstrap_interval(gaps)
    monkeypatch.setattr(comparison, "MAX_DRAWN", 13 * 77)
    assert bootstrap_interval(gaps) == whole


def test_wilcoxons_p_is_exact_for_few_cases():
    """With n differences of one sign, two of the 2^n signs are as extreme."""
    assert signed_rank_p(np.array([0.1, 0.2, 0.3, 0.4, 0.5])) == pytest.approx(2 / 2**5)
    assert signed_rank_p(np.array([0.1, -0.2, 0.3, -0.4, 0.5, 0.6])) == signed_rank_p(
        np.array([-0.1, 0.2, -0.3, 0.4, -0.5, -0.6])
    )


def test_equal_sets_differ_in_nothing():
    same = cases(a={"x": 0.75}, b={"x": 0.5})
    found = compare(same, same, "B").labels["x"]["dice"]
    assert (found.difference, found.interval_95, found.p) == (0.0, (0.0, 0.0), 1.0)


def test_one_case_has_a_difference_but_no_interval():
    one, none = difference_of(np.array([[0.5, 0.25]])), difference_of(np.empty((0, 2)))
    assert (one.cases, one.difference, one.interval_95, one.p) == (1, 0.25, None, None)
    assert (none.cases, none.first, none.difference) == (0, None, None)


def test_sets_without_a_common_label_are_refused():
    with pytest.raises(
        UserError, match=r"^--against B: its scored labels \(1\) are not those .* \(liver\) in any case"
    ):
        compare(cases(a={"liver": 1.0}), cases(a={"1": 1.0}), "B")
    with pytest.raises(UserError, match="in any case"):
        compare(cases(a={"liver": 1.0}), cases(b={"liver": 1.0}), "B")
