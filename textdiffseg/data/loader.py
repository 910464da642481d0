"""Batches of training samples, loaded in this process or in worker processes.

The number of workers changes the speed only. The batches are the same with 0, 1 or 8 workers.
"""

import os
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from plans.errors import UserError
from plans.plan import Plan
from textdiffseg.data.batch import Batch, Fault, Sample, SampleKey, batch_keys, collate, raise_fault
from textdiffseg.data.samples import TrainingSamples
from textdiffseg.execution import without_main

PREFETCH = 3  # batches that each worker prepares ahead
TIMED_BATCHES_PER_WORKER = 4


class TrainingLoader:
    """The training batches of a run, in order."""

    def __init__(
        self,
        folder: Path,
        case_ids: Sequence[str],
        plan: Plan,
        phrasings: Sequence[int],
        seed: int,
        workers: int = 0,
        pin_memory: bool = False,
    ):
        """
        Args:
            folder: the folder of the preprocessed data set.
            case_ids: the training cases.
            plan: the plan of the model.
            phrasings: the number of phrasings of label 1, 2, ..., N.
            seed: of the training run.
            workers: processes that load and augment; 0: this process does.
            pin_memory: put batches into page-locked memory.
        """
        self.samples = TrainingSamples(folder, case_ids, plan, phrasings, seed)
        self._order = _Order(plan.batch)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores: a user's choice
            self._loader = DataLoader(
                self.samples,
                batch_sampler=self._order,
                collate_fn=collate,
                num_workers=workers,
                persistent_workers=workers > 0,
                prefetch_factor=PREFETCH if workers else None,
                worker_init_fn=_start_worker,
                pin_memory=pin_memory,
                generator=torch.Generator(),  # the default would draw from the global generator, which must not change
            )

    def epoch(self, epoch: int, iterations: int, start: int = 0, subsets_from: int = 0) -> Iterator[Batch]:
        """Batches `start` to `iterations - 1` of an epoch. `UserError` if a case is damaged or a worker has died.

        From batch `subsets_from` on, subsets of the labels may be queried.
        """
        self._order.set(epoch, start, iterations, subsets_from)
        return map(raise_fault, _guarded(self._loader))

    def seconds_per_batch(self) -> float:
        """The seconds that workers take per batch; 0 without workers.

        No timed batch was prepared ahead. Prepared batches would hide, for a while, that loading is slower than
        training.
        """
        workers = self._loader.num_workers
        began = time.perf_counter()
        for _ in self.epoch(0, TIMED_BATCHES_PER_WORKER * workers):
            pass
        return (time.perf_counter() - began) / (TIMED_BATCHES_PER_WORKER * workers) if workers else 0.0

    def batch(self, epoch: int, iteration: int) -> Batch:
        """One batch, computed in this process."""
        return raise_fault(collate([self.samples[key] for key in batch_keys(epoch, iteration, self._order.size)]))


class _Order:
    """The sample keys of each batch of an epoch. DataLoader reads them in this process."""

    def __init__(self, size: int):
        self.size = size
        self.set(0, 0, 0, 0)

    def set(self, epoch: int, start: int, iterations: int, subsets_from: int) -> None:
        self.epoch, self.iterations, self.subsets_from = epoch, range(start, iterations), subsets_from

    def __len__(self) -> int:
        return len(self.iterations)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for iteration in self.iterations:
            yield batch_keys(self.epoch, iteration, self.size, iteration >= self.subsets_from)


def workers_that_fit(plan: Plan, workers: int, shared_memory: Path = Path("/dev/shm")) -> int:
    """The number of workers, at most `workers`, whose prepared batches fill at most half of the free shared memory.

    Containers often have 64 MB of shared memory. A process dies when it is full. Without that folder, as on Windows
    and macOS, batches are stored elsewhere.
    """
    if not shared_memory.is_dir():
        return workers
    batch_bytes = plan.batch * prod(plan.patch) * (4 * len(plan.channels) + 2)  # float32 images, int16 labels
    return min(workers, shutil.disk_usage(shared_memory).free // (2 * PREFETCH * batch_bytes))


def _guarded(loader: "DataLoader[Sample | Fault]") -> Iterator[Batch | Fault]:
    """The loader's batches. `UserError` if a worker has died.

    torch's handler of SIGCHLD would raise in the middle of a step. torch also checks its workers while it waits for a
    batch. That is early enough, so its handler is not installed.
    """
    try:
        with _same_handler("SIGCHLD"), without_main():
            batches = iter(loader)  # from the second epoch on, it waits for a batch
        yield from batches
    except RuntimeError as error:
        if "DataLoader worker" not in str(error) or "exited unexpectedly" not in str(error):
            raise
        raise UserError(
            "A process that loads batches was killed, most likely because memory ran out. Run the same command again "
            f"with fewer than --workers {loader.num_workers}: it resumes where it stopped."
        ) from None


@contextmanager
def _same_handler(name: str) -> Iterator[None]:
    """Restore the handler of a signal at the end, if the signal exists and this is the main thread."""
    number = getattr(signal, name, None)
    if number is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(number)
    try:
        yield
    finally:
        signal.signal(number, before or signal.SIG_DFL)


def _start_worker(_: int) -> None:
    """Set a worker up: one thread, a process group of its own, and a quiet end on SIGTERM.

    In its own process group a worker does not receive Ctrl-C, so the training can save its state. Schedulers send
    SIGTERM to all processes of a job. If it killed a worker, DataLoader would raise in the middle of a step.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if hasattr(os, "setpgrp"):
        os.setpgrp()
