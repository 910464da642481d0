"""The time and the peak memory of a function in this process."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import psutil

Result = TypeVar("Result")


class Cost(NamedTuple):
    """What a call needed."""

    seconds: float
    cpu_seconds: float
    peak_mb: float  # above the memory before the call


def measured(work: Callable[..., Result], *arguments: object) -> tuple[Result, Cost]:
    """The result of `work(*arguments)` and its cost. Memory is read every 2 ms."""
    process, sizes, done = psutil.Process(), [], threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        while not done.wait(0.002):
            sizes.append(process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    clock, cpu = time.perf_counter(), time.process_time()
    try:
        result = work(*arguments)
    finally:
        seconds, cpu_seconds = time.perf_counter() - clock, time.process_time() - cpu
        done.set()
        watcher.join()
    return result, Cost(seconds, cpu_seconds, (max(sizes, default=before) - before) / 1e6)


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """The largest resident memory of this process in GB while the context lasts, as a list of one number."""
    process, stop = psutil.Process(), threading.Event()
    peak = [process.memory_info().rss / 1e9]

    def watch() -> None:
        while not stop.wait(0.05):
            peak[0] = max(peak[0], process.memory_info().rss / 1e9)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield peak
    finally:
        stop.set()
        watching.join()
