"""The two stages of a run: masks, then the sampler alone."""

import json
from pathlib import Path

import pytest

from textdiffseg.folds.position import TrainingPosition, parse_position
from textdiffseg.training.length import follow_pace, split_stages, with_mask_epochs, with_new_end


def position(epochs=20, share=0.15, **fields) -> TrainingPosition:
    """A run with a sampler whose iterations take .4 of the usual time."""
    fields |= {"denoiser_share": share, "denoiser_cost": 0.4}
    return split_stages(TrainingPosition(seed=0, epochs=epochs, iterations_per_epoch=10, **fields))


@pytest.mark.parametrize(
    ("epochs", "share", "first", "total"),
    [
        (20, 0.15, 14, 200),  # 140 iterations of masks, 60 of the denoiser, which take .4 of the time each
        (200, 0.15, 139, 2000),
        (4, 0.15, 3, 40),
        (2, 0.15, 1, 14),  # a whole epoch would be more than its share
        (2, 0.9, 1, 20),  # one is left for the masks
        (20, 0.0, None, 200),
        (1, 0.15, None, 10),  # no epoch to spare
    ],
)
def test_the_denoiser_learns_in_the_last_share_of_the_time(epochs, share, first, total):
    found = position(epochs, share)
    assert found.denoiser_epoch == first
    assert found.sampler_iteration == (None if first is None else 10 * first)
    assert not found.trains_sampler
    if first is not None:
        assert not found.after(iteration=10 * first - 1).trains_sampler
        assert found.after(iteration=10 * first).trains_sampler
    done = [found.after(iteration=one).sampler_iterations for one in (0, 10 * (first or 0) + 3)]
    assert done == [0, 0 if first is None else 3]
    assert found.total == total


def test_each_stage_has_a_schedule_of_its_own():
    run = position()
    assert [run.after(iteration=one).schedule for one in (0, 139, 140, 199)] == [
        (0, 140),
        (139, 140),
        (0, 60),
        (59, 60),
    ]
    assert position(share=0.0).after(iteration=170).schedule == (170, 200)


def test_a_run_that_is_trained_longer_has_both_stages_again():
    longer = with_new_end(position().after(iteration=200, seconds=50.0), epochs=40)
    assert (longer.denoiser_epoch, longer.epoch, longer.trains_sampler) == (34, 20, False)
    assert longer.schedule == (0, 140)
    assert longer.after(iteration=339).schedule == (139, 140)
    assert longer.after(iteration=340).schedule == (0, 60)


@pytest.mark.parametrize("epochs", [1, 20])
def test_a_single_further_epoch_is_the_sampler_s(epochs):
    """Without it, a prolonged run would end without samples that fit its masks."""
    longer = with_new_end(position(epochs).after(iteration=10 * epochs, seconds=50.0), epochs=epochs + 1)
    assert longer.denoiser_epoch == epochs
    assert (longer.iteration, longer.trains_sampler, longer.finished) == (longer.sampler_iteration, True, False)
    assert (longer.schedule, longer.total) == ((0, 10), 10 * epochs + 10)
    assert longer.after(iteration=longer.total).finished
    two_more = with_new_end(position(epochs).after(iteration=10 * epochs), epochs=epochs + 2)
    assert (two_more.denoiser_epoch, two_more.trains_sampler) == (epochs + 1, False)
    plain = with_new_end(position(epochs, share=0.0).after(iteration=10 * epochs), epochs=epochs + 1)
    assert (plain.denoiser_epoch, plain.trains_sampler) == (None, False)


def test_a_run_that_an_older_version_prolonged_without_a_sampler_is_read_as_it_was():
    old = {"version": 4, "seed": 3, "epochs": 2, "iterations_per_epoch": 4, "iteration": 6, "denoiser_share": 0.1}
    old |= {"denoiser_epoch": None, "start": {"iteration": 4, "epoch": 1, "seconds": 5.0}}
    found = parse_position(Path("checkpoint"), {"progress": json.dumps(old)})
    assert (found.denoiser_epoch, found.trains_sampler, found.schedule) == (None, False, (2, 4))
    assert with_new_end(found.after(iteration=8), epochs=3).denoiser_epoch == 2


def at(iteration, seconds, limit, **fields) -> TrainingPosition:
    return position(**fields).after(iteration=iteration, seconds=seconds, limit_seconds=limit)


@pytest.mark.parametrize(
    ("limit", "epochs", "first"),
    [
        (200.0, 25, 17),  # 17 epochs of 10 s and 8 of 3.6 s
        (100.0, 12, 8),
        (400.0, 49, 34),
        (10.0, 9, 6),  # one more for the masks; the denoiser's become fewer when they begin
    ],
)
def test_the_pace_of_the_masks_moves_both_ends(limit, epochs, first):
    found = follow_pace(at(50, 50.0, limit))  # 5 epochs of 10 s
    assert (found.epochs, found.denoiser_epoch) == (epochs, first)


@pytest.mark.parametrize(
    ("limit", "epochs", "total"),
    [(165.0, 20, 200), (200.0, 26, 260), (144.0, 17, 170), (100.0, 17, 170)],  # between half and twice its share
)
def test_the_denoiser_s_epochs_fill_the_time_that_the_masks_leave(limit, epochs, total):
    found = follow_pace(at(140, 140.0, limit))  # 14 epochs of 10 s; the next ones take 4 s
    assert (found.epochs, found.denoiser_epoch, found.denoiser_seconds) == (epochs, 14, 140.0)
    assert found.total == total


def test_a_short_run_has_a_shorter_epoch_for_the_denoiser():
    run = with_mask_epochs(position(share=0.05).after(iterations_per_epoch=100), 7)
    assert (run.epochs, run.denoiser_epoch, run.denoiser_per_epoch) == (8, 7, 92)  # 700 * .05 / .95 / .4
    assert run.total == 792
    places = [run.after(iteration=one) for one in (0, 699, 700, 791)]
    assert [(one.epoch, one.in_epoch, one.epoch_iterations) for one in places] == [
        (0, 0, 100),
        (6, 99, 100),
        (7, 0, 92),
        (7, 91, 92),
    ]
    longer = with_new_end(run.after(iteration=792, seconds=80.0), epochs=11)
    assert (longer.epoch, longer.in_epoch, longer.sampler_iteration, longer.total) == (8, 0, 992, 1018)


@pytest.mark.parametrize(("epochs", "longer"), [(2, 4), (4, 8), (5, 6), (8, 10), (20, 40)])
def test_a_prolonged_short_run_ends_with_the_sampler_too(epochs, longer):
    """The first run's sampler has shorter epochs. They do not count in the second run."""
    run = split_stages(TrainingPosition(seed=0, epochs=epochs, iterations_per_epoch=250, denoiser_share=0.05))
    found = with_new_end(run.after(iteration=run.total, seconds=50.0), epochs=longer)
    first = found.sampler_iteration
    assert (found.epoch, found.in_epoch, found.finished) == (epochs, 0, False)
    assert epochs <= found.denoiser_epoch < longer
    assert run.total <= first < found.total
    assert found.after(iteration=first).trains_sampler
    assert found.after(iteration=found.total - 1).schedule == (found.total - first - 1, found.total - first)


def test_the_pace_of_the_denoiser_moves_the_last_end_alone():
    later = at(160, 150.0, 200.0).after(denoiser_seconds=140.0)  # two epochs of 5 s
    assert (follow_pace(later).epochs, follow_pace(later).denoiser_epoch) == (26, 14)
    late = follow_pace(later.after(limit_seconds=100.0))
    assert late.epochs == 17, "the epoch that follows takes the rate to 0"


@pytest.mark.parametrize("iteration", [130, 190])
def test_the_last_epoch_of_a_stage_is_neither_dropped_nor_postponed(iteration):
    for limit in (1.0, 1e4):
        assert follow_pace(at(iteration, 100.0, limit)) == at(iteration, 100.0, limit)
