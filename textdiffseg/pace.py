"""How fast work goes: the time to come in words, and again where the machine becomes slower."""

import time
from collections.abc import Callable

from textdiffseg.progress import Report

MIN_SECONDS = 2.0  # of the first measurement
CHECK_SECONDS = 10.0  # between two later ones
SLOWER = 4 / 3  # times the seconds a unit: worth a word
SMOOTHING = 0.5  # the weight of a new measurement, so that a short stop is not a slower machine
MIN_REPORTED = 10.0  # seconds to come; less is not worth a word
MINUTE, HOUR = 60.0, 3600.0


def duration(seconds: float) -> str:
    """A time in words: `40 seconds`, `12 minutes`, `3.5 hours`."""
    if seconds < 1.5 * MINUTE:
        count, unit = max(1.0, round(seconds)), "second"
    elif seconds < 1.5 * HOUR:
        count, unit = round(seconds / MINUTE), "minute"
    else:
        count, unit = round(seconds / HOUR, 1), "hour"
    return f"{count:g} {unit}{'' if count == 1 else 's'}"


class Pace:
    """Seconds a unit of work, measured while it goes on. The first unit, which warms up, is left out."""

    def __init__(self, clock: Callable[[], float] | None = None):
        self.seconds: float | None = None  # a unit; None until `MIN_SECONDS` were measured
        self._clock = clock or time.perf_counter
        self._last: tuple[float, float] | None = None  # units done, and when

    def measure(self, done: float) -> bool:
        """Look at the clock; True where `seconds` has a new value."""
        now = self._clock()
        if self._last is None:
            self._last = done, now
            return False
        units, passed = done - self._last[0], now - self._last[1]
        if units <= 0 or passed < (MIN_SECONDS if self.seconds is None else CHECK_SECONDS):
            return False
        new = passed / units
        self.seconds = new if self.seconds is None else (1 - SMOOTHING) * self.seconds + SMOOTHING * new
        self._last = done, now
        return True


class Forecast:
    """Reports how long work will take, once its first units are measured, and again where it becomes slower."""

    def __init__(self, work: str, report: Report, clock: Callable[[], float] | None = None):
        self.work, self.report, self.pace = work, report, Pace(clock)
        self._expected: float | None = None  # seconds a unit, as reported

    def __call__(self, done: float, total: float) -> None:
        """Take note of the units done so far."""
        if not self.pace.measure(done) or self.pace.seconds is None:
            return
        left = (total - done) * self.pace.seconds
        if self._expected is None:
            if left >= MIN_REPORTED:
                self.report(f"{self.work} will take about {duration(left)}.")
            self._expected = self.pace.seconds
        elif self.pace.seconds > SLOWER * self._expected and left >= MIN_REPORTED:
            before = duration((total - done) * self._expected)
            self.report(f"The machine has become slower. {self.work} will take {duration(left)} more, not {before}.")
            self._expected = self.pace.seconds
