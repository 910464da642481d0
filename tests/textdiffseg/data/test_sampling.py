from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from textdiffseg.data.sampling import (
    candidate_centres,
    choose_case,
    context_query,
    draw_patch,
    draw_query,
    first_subset_iteration,
    forced_foreground,
    full_query,
    generator,
    reads_text,
)


def test_randomness_is_a_function_of_seed_epoch_and_index():
    draws = {key: generator(*key).random() for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]}
    assert draws[0, 0, 0] == generator(0, 0, 0).random()
    assert len(set(draws.values())) == 4


def test_every_case_is_drawn_once_before_any_is_drawn_again():
    for turn in range(3):
        assert sorted(choose_case(7, 5, 1, 7 * turn + place) for place in range(7)) == list(range(7))
    assert [choose_case(7, 5, 1, i) for i in range(7)] != [choose_case(7, 5, 2, i) for i in range(7)]


@pytest.mark.parametrize(
    ("batch", "share", "forced"), [(2, 0.33, 1), (3, 0.33, 1), (12, 0.33, 4), (2, 0, 0), (3, 1, 3)]
)
def test_each_batch_has_its_share_of_forced_foreground(batch, share, forced):
    for first in range(0, 10 * batch, batch):
        flags = [forced_foreground(first + place, batch, share) for place in range(batch)]
        assert flags == [False] * (batch - forced) + [True] * forced


def test_with_batch_1_the_share_of_samples_is_forced():
    assert sum(forced_foreground(index, 1, 0.33) for index in range(100)) == 33


def test_patches_lie_inside_the_case_and_cover_all_of_it():
    rng = np.random.default_rng(0)
    starts = np.array([draw_patch(rng, (20, 10, 8), (8, 8, 8)) for _ in range(500)])
    assert starts.min(0).tolist() == [0, 0, 0]
    assert starts.max(0).tolist() == [12, 2, 0]


def test_patches_larger_than_the_case_are_centred():
    start = draw_patch(np.random.default_rng(0), (20, 9, 8), (8, 16, 12))
    assert start[1:] == (-4, -2)


def test_forced_patches_contain_a_label_drawn_uniformly():
    rows = np.array([(1, 2, 3, 4)] * 99 + [(2, 28, 29, 1)])
    rng = np.random.default_rng(0)
    seen = Counter()
    for _ in range(400):
        start = np.array(draw_patch(rng, (30, 30, 8), (8, 8, 12), rows))
        inside = ((rows[:, 1:] >= start) & (rows[:, 1:] < start + np.array([8, 8, 12]))).all(1)
        held = set(rows[inside, 0].tolist())
        assert len(held) == 1
        seen.update(held)
    assert 150 < seen[1] < 250


def test_without_foreground_a_forced_patch_is_a_random_one():
    empty = np.zeros((0, 4), np.int32)
    forced = draw_patch(np.random.default_rng(3), (30, 30, 30), (8, 8, 8), empty)
    assert forced == draw_patch(np.random.default_rng(3), (30, 30, 30), (8, 8, 8))


@pytest.mark.parametrize("known", [1000, 200_000])
def test_patches_of_partly_ignored_cases_may_lie_anywhere_that_is_known(known):
    """Also where every voxel that is not ignored belongs to a label."""
    labels = np.full((64, 64, 64), -1, np.int16)
    labels.ravel()[:known] = 2
    rows = candidate_centres(labels, "case")
    anywhere = rows[rows[:, 0] == 0]
    assert len(anywhere) == len(rows[rows[:, 0] == 2]) == min(known, 2000)
    assert (labels[tuple(anywhere[:, 1:].T)] == 2).all()
    assert np.array_equal(rows, candidate_centres(labels, "case"))


def test_half_of_the_samples_query_all_labels_and_the_others_a_subset_with_absent_ones():
    known, present, phrasings = (1, 2, 3, 4, 5, 7), (1, 2), (1, 2, 3, 1, 1, 1, 4)
    rng = np.random.default_rng(0)
    full, others = 0, Counter()
    for _ in range(2000):
        query, context_labels = draw_query(rng, known, present, phrasings)
        labels = [label for label, _ in query]
        assert [label for label, _ in context_labels] == ([6] if labels == list(known) else [])
        assert labels == sorted(set(labels))
        assert all(0 <= which < phrasings[label - 1] for label, which in query)
        if labels == list(known):
            full += 1
            continue
        assert set(labels) & set(present)
        assert len(set(labels) - set(present)) <= 3
        others.update(labels)
    assert 900 < full < 1100
    assert set(others) == {*known}


def test_a_case_without_structures_queries_absent_labels():
    rng = np.random.default_rng(0)
    queries = [draw_query(rng, (1, 2), (), (1, 1))[0] for _ in range(200)]
    assert all(queries)
    assert {len(query) for query in queries} == {1, 2}


def test_labels_that_are_not_known_are_never_queried():
    rng = np.random.default_rng(0)
    assert {label for _ in range(100) for label, _ in draw_query(rng, (2,), (1, 2), (1, 1, 1))[0]} == {2}


def test_a_query_of_all_known_labels_also_reads_the_words_of_all_others(make_plan):
    """So a model of two data sets cannot recognise the data set by the words alone."""
    rng = np.random.default_rng(0)
    drawn = [draw_query(rng, (2, 4), (2,), (1, 1, 1, 3, 2), subsets=False)[1] for _ in range(100)]
    assert {tuple(label for label, _ in context_labels) for context_labels in drawn} == {(1, 3, 5)}
    assert {which for query in drawn for _, which in query[2:]} == {0, 1}, "each has a random phrasing"
    assert {draw_query(rng, (2, 4), (2,), (1,) * 4)[1] for _ in range(100)} == {(), ((1, 0), (3, 0))}
    assert context_query(make_plan(), (2,)) == ((1, 0),)
    assert context_query(SimpleNamespace(reads_words=False, labels=(1, 2)), (2,)) == ()


def test_the_full_query_is_in_label_order_and_first_phrasings():
    assert full_query((3, 1)) == ((1, 0), (3, 0))


def test_half_of_the_samples_have_no_case_text():
    with_text = [reads_text(0, epoch, index) for epoch in range(4) for index in range(250)]
    assert 0.45 < sum(with_text) / len(with_text) < 0.55
    assert with_text == [reads_text(0, epoch, index) for epoch in range(4) for index in range(250)]
    assert with_text[:250] != with_text[250:500]
    assert with_text != [reads_text(1, epoch, index) for epoch in range(4) for index in range(250)]


def test_in_the_first_half_of_a_run_every_sample_queries_all_known_labels():
    assert [first_subset_iteration(iterations) for iterations in (1, 7, 10)] == [1, 4, 5]
    rng = np.random.default_rng(0)
    queries = [draw_query(rng, (1, 2, 4), (1, 2), (2, 2, 2, 2), subsets=False)[0] for _ in range(100)]
    assert {tuple(label for label, _ in query) for query in queries} == {(1, 2, 4)}
    assert {which for query in queries for _, which in query} == {0, 1}
