"""`checkpoint_latest` is written in each epoch, unless that would take much of the time."""

from types import SimpleNamespace

import pytest

from textdiffseg.folds.position import TrainingPosition
from textdiffseg.training import saving


@pytest.mark.parametrize(
    ("cost", "epoch_seconds", "written"),
    [(0.4, 1.0, 6), (2.0, 50.0, 6), (2.0, 15.0, 4)],  # cheap; long epochs; every third epoch, and both of the end
)
def test_an_expensive_checkpoint_is_written_less_often(monkeypatch, cost, epoch_seconds, written):
    clock, saved = [0.0], []
    first = TrainingPosition(seed=0, epochs=6, iterations_per_epoch=10, denoiser_epoch=5, denoiser_per_epoch=4)
    state = SimpleNamespace(position=first)

    def save(_):
        clock[0] += cost
        saved.append(state.position.iteration)

    state.save = save
    monkeypatch.setattr(saving, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(saving, "discard", lambda *_: None)
    one = saving.Saving(SimpleNamespace(fold=None), state, print)
    for iteration in (10, 20, 30, 40, 50, 54):
        clock[0] += epoch_seconds
        state.position = first.after(iteration=iteration)
        one.save_if_due()
    assert len(saved) == written
    assert {10, 50, 54} <= {*saved}, "the first one, the start of the sampler, and the end"
