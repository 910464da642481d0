"""The wait for batches is measured beside the whole time of an iteration."""

import pytest

from textdiffseg.training import timing
from textdiffseg.training.timing import IterationTimes


class Clock:
    """A clock that moves only when it is moved."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(timing, "time", made)
    return made


def test_waits_and_iterations_are_averaged(clock):
    def batches():
        for wait in (3.0, 0.0, 0.0):
            clock.now += wait
            yield wait
        clock.now += 50.0  # no batch follows, so no iteration waits for it

    times = IterationTimes()
    assert (times.seconds, times.waited, str(times)) == (None, None, "")
    for _ in times.timed(batches()):
        clock.now += 1.0
    assert (times.seconds, times.waited) == (2.0, 1.0)
    assert str(times) == "2 s/it, 50% wait for data"


def test_an_error_while_loading_is_raised(clock):
    def batches():
        yield 1
        raise ValueError("no batch")

    times = IterationTimes()
    timed = times.timed(batches())
    next(timed)
    clock.now += 1.0
    with pytest.raises(ValueError, match="no batch"):
        next(timed)
    assert times.seconds == 1.0
