"""The time of iterations, and the part of it in which the training waits for its batches."""

import time
from collections.abc import Iterator
from typing import TypeVar

Item = TypeVar("Item")


class IterationTimes:
    """The times of an epoch's iterations, as far as this process has done them.

    On a GPU the wait is an upper bound: the device may still compute an earlier iteration.
    """

    def __init__(self) -> None:
        self._iterations, self._seconds, self._waited = 0, 0.0, 0.0

    def timed(self, batches: Iterator[Item]) -> Iterator[Item]:
        """The batches. The wait for each one is timed, and so is its use, up to the call for the next one."""
        while True:
            began = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            ready = time.perf_counter()
            yield batch
            self._iterations += 1
            self._seconds += time.perf_counter() - began
            self._waited += ready - began

    @property
    def seconds(self) -> float | None:
        """The mean seconds of an iteration; None before the first one."""
        return self._seconds / self._iterations if self._iterations else None

    @property
    def waited(self) -> float | None:
        """The mean seconds of an iteration in which it waits for its batch; None before the first one."""
        return self._waited / self._iterations if self._iterations else None

    def __str__(self) -> str:
        """E.g. `1.9 s/it, 3% wait for data`; empty before the first iteration."""
        if not self._iterations:
            return ""
        return f"{self._seconds / self._iterations:.2g} s/it, {self._waited / self._seconds:.0%} wait for data"
