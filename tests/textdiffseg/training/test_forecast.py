"""What training reports of the time to come, on a clock that the tests turn."""

from types import SimpleNamespace

import pytest

from textdiffseg import pace
from textdiffseg.folds.position import TrainingPosition
from textdiffseg.training.forecast import TrainingForecast


@pytest.fixture
def train(monkeypatch):
    """A function that trains some iterations, each of so many seconds; the lines that were reported."""
    clock, lines = [0.0], []
    monkeypatch.setattr(pace, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    forecast = TrainingForecast(lines.append)

    def go_on(position, iterations, seconds):
        for _ in range(iterations):
            clock[0] += seconds
            position = position.after(iteration=position.iteration + 1, seconds=position.seconds + seconds)
            forecast.update(position)
        return position

    return go_on, lines


def test_a_run_of_epochs_reports_its_time_and_that_it_grows(train):
    go_on, lines = train
    position = go_on(TrainingPosition(seed=0, epochs=20, iterations_per_epoch=100), 50, 1.0)
    assert lines == ["The training will take about 33 minutes."]
    go_on(position, 50, 2.0)
    assert lines[1] == "The machine has become slower. The training needs another 50 minutes, not 32 minutes."


def test_a_run_of_minutes_reports_that_fewer_iterations_fit(train):
    go_on, lines = train
    position = TrainingPosition(seed=0, epochs=10, iterations_per_epoch=60, limit_seconds=600.0)
    position = go_on(position, 100, 1.0)
    assert lines == [], "it goes as planned"
    position = go_on(position, 20, 2.0)
    assert lines == [
        "The machine has become slower: an iteration takes 1.56 s, 1 s were planned. "
        "About 419 iterations will fit into 10 minutes, not 600."
    ]
    go_on(position, 4, 2.0)
    assert len(lines) == 1
