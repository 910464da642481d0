"""Verdicts on claims: a mean difference against its bar, over cases and seeds."""

import pytest


@pytest.fixture
def claims(benchmark):
    return benchmark("claims")


@pytest.mark.parametrize(
    ("means", "bar", "expected"),
    [
        ([0.12], 0.1, "holds"),
        ([0.08], 0.1, "fails"),
        ([0.105], 0.1, "cannot be told"),  # one seed, nearer to the bar than .01
        ([0.104, 0.105, 0.106], 0.1, "holds"),  # the spread is .002, the distance .005
        ([0.094, 0.095, 0.096], 0.1, "fails"),
        ([0.100, 0.105, 0.110], 0.1, "cannot be told"),  # the spread is .01
        ([0.105, 0.105], 0.1, "cannot be told"),  # two seeds
        ([-0.002, -0.003, -0.001], -0.01, "holds"),
    ],
)
def test_a_difference_near_its_bar_is_judged_on_three_seeds_and_their_spread(claims, means, bar, expected):
    assert claims.verdict(means, bar) == expected


def test_a_claim_is_judged_on_the_cases_that_all_seeds_share(claims):
    gaps = {0: {"a": 0.2, "b": 0.4, "c": 9.0}, 1: {"a": 0.4, "b": 0.6}}
    found = claims.judge("ours is above", gaps, 0.1)
    assert found["per_seed"] == pytest.approx({"0": 0.3, "1": 0.5})
    assert (found["spread"], found["pooled"]["mean"]) == pytest.approx((0.2, 0.4))
    assert (found["pooled"]["cases"], found["verdict"]) == (2, "holds")
    low, high = found["pooled"]["interval_95"]
    assert 0.3 <= low < high <= 0.5


def test_a_claim_without_a_common_case_cannot_be_told(claims):
    assert claims.judge("ours is above", {0: {}}, 0.1)["verdict"] == "cannot be told"
    assert claims.judge("ours is above", {}, 0.1)["verdict"] == "cannot be told"


def test_gaps_are_means_over_the_labels_that_both_sides_have(claims):
    ours = {"x": {"a": 0.9, "b": 0.5}, "y": {"a": 0.8}, "z": {"a": 1.0}}
    theirs = {"x": {"a": 0.6, "b": 0.6, "c": 0.1}, "y": {"b": 0.3}}
    assert claims.case_gaps(ours, theirs) == pytest.approx({"x": 0.1})
    assert claims.case_gaps(ours, theirs, ["b"]) == pytest.approx({"x": -0.1})
    assert claims.label_means(ours) == {
        "a": {"dice": pytest.approx(0.9), "cases": 3},
        "b": {"dice": 0.5, "cases": 1},
    }
