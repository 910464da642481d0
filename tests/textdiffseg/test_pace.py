"""Time to come, with a clock that the tests turn."""

import pytest

from textdiffseg.pace import Forecast, duration


class Work:
    """Units of work on a clock of its own; keeps what is reported."""

    def __init__(self, total):
        self.now, self.done, self.total, self.lines = 0.0, 0, total, []
        self.forecast = Forecast("Predicting 3 scans", self.lines.append, clock=lambda: self.now)

    def go_on(self, units, seconds):
        for _ in range(units):
            self.now, self.done = self.now + seconds, self.done + 1
            self.forecast(self.done, self.total)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.1, "1 second"), (40.2, "40 seconds"), (90, "2 minutes"), (720, "12 minutes"), (12600, "3.5 hours")],
)
def test_durations_in_words(seconds, words):
    assert duration(seconds) == words


def test_the_time_to_come_is_reported_after_the_first_units_without_the_very_first():
    work = Work(101)
    work.go_on(1, 50.0)
    assert work.lines == []
    work.go_on(3, 3.0)
    assert work.lines == ["Predicting 3 scans will take about 5 minutes."]
    work.go_on(90, 3.0)
    assert len(work.lines) == 1, "an even pace is reported once"


def test_a_machine_that_becomes_slower_is_reported_once_for_each_third():
    work = Work(1000)
    work.go_on(20, 1.0)
    work.go_on(100, 1.2)
    assert work.lines == ["Predicting 3 scans will take about 17 minutes."]
    work.go_on(100, 2.0)
    slower = "The machine has become slower. Predicting 3 scans needs another 24 minutes, not 15 minutes."
    assert work.lines[1:] == [slower]
    work.go_on(100, 2.0)
    assert len(work.lines) == 2


def test_a_machine_that_becomes_faster_is_reported():
    """On a busy machine the first windows may take much longer than all others."""
    work = Work(1000)
    work.go_on(20, 3.0)
    work.go_on(14, 1.0)
    assert work.lines == [
        "Predicting 3 scans will take about 50 minutes.",
        "The machine has become faster. Predicting 3 scans needs another 27 minutes, not 48 minutes.",
    ]


def test_short_work_is_not_worth_a_word():
    work = Work(6)
    work.go_on(6, 2.0)
    assert work.lines == []
