"""The choice of the sampling: its trials, and the time that they may take."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from plans.layout import FoldFolder
from plans.plan import Plan
from textdiffseg.data.store import open_case
from textdiffseg.folds.sampling import read_sampling, settings_of_choice
from textdiffseg.validation import choose, timing
from textdiffseg.validation.cases import evenly_spaced
from textdiffseg.validation.choose import choose_sampling
from textdiffseg.validation.score import validate_fold

CASES = ("p", "q", "r", "s")


def stopped_clock(monkeypatch):
    """The time of choosing, as a list of one number of seconds. Only the test moves it."""
    clock = [0.0]
    for module in (choose, timing):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    return clock


def slow_down(monkeypatch, name, seconds):
    """Let a function that `choose` calls take so many seconds, and all else no time."""
    plain, clock = getattr(choose, name), stopped_clock(monkeypatch)

    def slow(*args, **rest):
        clock[0] += seconds
        return plain(*args, **rest)

    monkeypatch.setattr(choose, name, slow)


def test_the_choice_of_sampling_is_a_table_that_prediction_reads(fold, stored):
    sampling = choose_sampling(FoldFolder(fold), stored, ["p", "q"])
    assert [(row.steps, row.mirroring) for row in sampling.table] == [(0, False), (0, True)]
    assert sampling.cases == 2
    assert read_sampling(FoldFolder(fold)) == sampling
    best = max(row.dice for row in sampling.table)
    chosen = next(row for row in sampling.table if (row.steps, row.mirroring) == (sampling.steps, sampling.mirroring))
    assert chosen.dice >= best - 0.001
    plan = Plan.read(FoldFolder(fold).plan)
    assert len(settings_of_choice(plan, sampling).mirror_axes) == 2 * sampling.mirroring


def test_a_single_setting_is_not_tried(tmp_path, stored, make_plan, make_fold, bank, monkeypatch):
    """As of a model that was trained without mirroring, the usual one."""
    make_fold(tmp_path / "fold_0", make_plan("default").model_copy(update={"mirror_axes": ()}), bank, 0)
    monkeypatch.setattr(choose, "open_case", lambda *_: pytest.fail("a case is read"))
    sampling = choose_sampling(FoldFolder(tmp_path / "fold_0"), stored, ["p", "q"])
    assert sampling == read_sampling(FoldFolder(tmp_path / "fold_0"))
    assert (sampling.cases, sampling.steps, sampling.mirroring, sampling.table) == (0, 0, False, ())


def test_without_the_time_for_every_setting_none_is_tried(fold, stored, monkeypatch):
    """The mask without mirroring then, known after single windows."""
    monkeypatch.setattr(choose, "predict_case", lambda *_, **__: pytest.fail("a whole scan is predicted"))
    sampling = choose_sampling(FoldFolder(fold), stored, ["p", "q"], max_seconds=1e-6)
    assert sampling == read_sampling(FoldFolder(fold))
    assert (sampling.cases, sampling.steps, sampling.mirroring, sampling.table) == (0, 0, False, ())


def test_settings_that_take_longer_than_their_share_are_cut_off(fold, stored, monkeypatch):
    """The machine becomes slower once the windows are timed."""
    plain, calls, clock = choose.predict_case, [], stopped_clock(monkeypatch)

    def slowly(*args, progress=None, **rest):
        calls.append(args)
        pause = 0 if len(calls) < 3 else 1.0  # from the second setting on

        def after(done, total):
            clock[0] += pause
            progress(done, total)

        return plain(*args, progress=after, **rest)

    monkeypatch.setattr(choose, "predict_case", slowly)
    monkeypatch.setattr(choose, "seconds_of", lambda *_: 0.01)
    sampling = choose_sampling(FoldFolder(fold), stored, ["p"], max_seconds=3.0)
    assert clock[0] == 4.0, "the group of windows in which the limit passed was the last"
    assert [(row.steps, row.mirroring) for row in sampling.table] == [(0, False)]
    assert (sampling.steps, sampling.mirroring) == (0, False)


def test_trials_weigh_what_they_cost_on_one_bar(fold, stored):
    reports = []
    choose_sampling(FoldFolder(fold), stored, ["p"], progress=lambda *at: reports.append(at))
    assert reports == sorted(reports)
    assert reports[-1] == (2, 2)
    plan = Plan.read(fold / "plan.json")
    costs = [settings_of_choice(plan, trial).passes for trial in choose.trials_of(plan)]
    assert costs == pytest.approx([1, 4]), "four views"
    ends = [2 * sum(costs[: number + 1]) / sum(costs) for number in range(2)]
    assert all(any(done == pytest.approx(end) for done, _ in reports) for end in ends)


def test_one_large_case_does_not_keep_the_others_from_choosing(fold, small, monkeypatch):
    plain, predicted = choose.predict_case, []

    def listening(predictor, case, *rest, **more):
        predicted.append(case.record.case)
        return plain(predictor, case, *rest, **more)

    monkeypatch.setattr(choose, "predict_case", listening)

    def large(folder, case, *rest):
        """The size of p is read from its record."""
        found = open_case(folder, case, *rest)
        shape = tuple((4 if case == "p" else 1) * edge for edge in found.record.shape)
        return replace(found, record=found.record.model_copy(update={"shape": shape}))

    monkeypatch.setattr(choose, "open_case", large)
    choose_sampling(FoldFolder(fold), small, CASES, max_seconds=1e6)
    assert predicted[0] == "q"
    assert set(predicted[1:]) == {"p", "q", "r", "s"}


def test_unet_tries_mirroring_alone(tmp_path, stored, make_plan, make_fold, bank):
    fold = tmp_path / "fold_0"
    make_fold(fold, make_plan("unet"), bank, 0)
    assert [row.steps for row in choose_sampling(FoldFolder(fold), stored, ["p"]).table] == [0, 0]
    assert validate_fold(FoldFolder(fold), stored, ["p"]).cases[0].case == "p"


def test_the_way_back_to_the_file_s_grid_counts_as_time(fold, stored, monkeypatch, in_slabs, one_hot):
    monkeypatch.setattr(choose, "predict_case", lambda _, case, *__, **___: in_slabs(one_hot(case)))
    monkeypatch.setattr(choose, "seconds_of", lambda *_: 0.1)
    slow_down(monkeypatch, "restore_labels", 1.0)
    assert choose_sampling(FoldFolder(fold), stored, ["p", "q"], max_seconds=6.0).cases == 1


def test_the_seconds_of_a_trial_are_those_of_one_case(fold, small, monkeypatch):
    slow_down(monkeypatch, "predict_case", 0.2)
    first = choose_sampling(FoldFolder(fold), small, CASES, max_seconds=1e6).table[0]
    assert first.seconds == pytest.approx(0.2)


def test_few_cases_are_spread_over_all():
    assert evenly_spaced(list("abcdefgh"), 4) == list("aceg")
    assert evenly_spaced(["a"], 4) == ["a"]
