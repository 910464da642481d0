"""The number of threads of a CPU computation: one per core that other programs leave idle.

Each operator waits for its slowest thread. Beside a program that keeps one of two cores busy, a training step with two
threads takes 1.7 times as long as with one. On two idle cores it takes 0.55 times as long (benchmarks/threads.py).
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from textdiffseg.progress import Report
from textdiffseg.resources import cores, cpu_use, idle_cores
from textdiffseg_cli.common import print_lines

CHOSEN_BY_USER = "OMP_NUM_THREADS"
MIN_SECONDS = 0.5  # of observation


@contextmanager
def idle_cores_only(report: Report = print_lines) -> Iterator[None]:
    """Let torch use the idle cores alone, and report a line if some are busy. Afterwards it does as before.

    The load is observed while torch is imported. A number in OMP_NUM_THREADS is left as it is.
    """
    if CHOSEN_BY_USER in os.environ:
        yield
        return
    before = cpu_use()
    import torch

    time.sleep(max(0.0, MIN_SECONDS - (time.monotonic() - before.clock)))
    threads, previous = idle_cores(before), torch.get_num_threads()
    if threads >= previous:
        yield
        return
    report(
        f"Computing on {threads} of {cores()} cores: other programs keep the rest busy. "
        f"{CHOSEN_BY_USER} sets another number."
    )
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(previous)
