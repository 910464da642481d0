"""The speed of work, and reports of the remaining time: at the beginning, and when the machine's speed changes."""

import time
from collections.abc import Callable

from textdiffseg.progress import Report

MIN_FIRST_SECONDS = 2.0  # of the first measurement
MIN_LATER_SECONDS = 10.0  # of each later measurement
MIN_CHANGE = 4 / 3  # ratio of the seconds per unit that is reported, slower or faster
SMOOTHING = 0.5  # weight of a new measurement, so a short pause does not count as a slower machine
MIN_REPORTED_SECONDS = 10.0  # remaining; less is not reported
MINUTE, HOUR = 60.0, 3600.0


def duration(seconds: float) -> str:
    """A duration in words: `40 seconds`, `12 minutes`, `3.5 hours`."""
    if seconds < 1.5 * MINUTE:
        count, unit = max(1.0, round(seconds)), "second"
    elif seconds < 1.5 * HOUR:
        count, unit = round(seconds / MINUTE), "minute"
    else:
        count, unit = round(seconds / HOUR, 1), "hour"
    return f"{count:g} {unit}{'' if count == 1 else 's'}"


class Pace:
    """The seconds per unit of work, measured during the work. The first unit is a warm-up and is left out."""

    def __init__(self, clock: Callable[[], float] | None = None):
        self.seconds: float | None = None  # per unit; None before `MIN_FIRST_SECONDS`
        self._clock = clock or time.perf_counter
        self._last: tuple[float, float] | None = None  # units done, and when

    def measure(self, done: float) -> bool:
        """Measure the time after `done` units. Returns whether `seconds` has a new value."""
        now = self._clock()
        if self._last is None:
            self._last = done, now
            return False
        units, passed = done - self._last[0], now - self._last[1]
        if units <= 0 or passed < (MIN_FIRST_SECONDS if self.seconds is None else MIN_LATER_SECONDS):
            return False
        new = passed / units
        self.seconds = new if self.seconds is None else (1 - SMOOTHING) * self.seconds + SMOOTHING * new
        self._last = done, now
        return True


class Forecast:
    """Reports of the remaining time: after the first measurement, and when the machine becomes slower or faster."""

    def __init__(self, work: str, report: Report, clock: Callable[[], float] | None = None):
        self.work, self.report, self.pace = work, report, Pace(clock)
        self._expected: float | None = None  # seconds per unit, as reported

    def __call__(self, done: float, total: float) -> None:
        """Measure the time after `done` of `total` units, and report if necessary."""
        if not self.pace.measure(done) or self.pace.seconds is None:
            return
        pace, left = self.pace.seconds, (total - done) * self.pace.seconds
        if self._expected is None:
            if left >= MIN_REPORTED_SECONDS:
                self.report(f"{self.work} will take about {duration(left)}.")
            self._expected = pace
            return
        before = (total - done) * self._expected
        change = "slower" if pace > self._expected else "faster"
        if max(pace, self._expected) > MIN_CHANGE * min(pace, self._expected) and left >= MIN_REPORTED_SECONDS:
            self.report(
                f"The machine has become {change}. {self.work} needs another {duration(left)}, not {duration(before)}."
            )
            self._expected = pace
