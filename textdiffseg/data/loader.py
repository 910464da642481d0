"""Batches for training and validation. Sample `index` of `epoch` is a function of (seed, epoch, index) alone, and of
whether it may query subsets of the labels.

Workers only change who computes a sample, never the sample: the same numbers come with 0, 1 or 8 of them.
"""

import os
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from plans.plan import Plan
from textdiffseg.data.augment import Augmentation, read_patch
from textdiffseg.data.sampling import (
    choose_case,
    draw_patch,
    draw_query,
    forced_foreground,
    full_query,
    generator,
    reads_text,
)
from textdiffseg.data.store import StoredCase, open_case, read_record
from textdiffseg.queries import Query
from textdiffseg.transfer import send

PREFETCH = 3  # batches that each worker prepares ahead
BATCHES_A_WORKER = 4  # to measure how fast they are


@dataclass(frozen=True)
class SampleKey:
    """Which sample of a run."""

    epoch: int
    index: int
    subsets: bool = True  # it may query a subset of the annotated labels (`draw_query`)


@dataclass(frozen=True)
class Sample:
    """One patch and what is asked of it."""

    image: Tensor  # (C, *patch) float32, normalised; 0 outside the case
    labels: Tensor  # (*patch) int16: label numbers, 0 background and outside the case, -1 ignore
    query: Query
    case: str
    key: SampleKey
    told: bool = True  # the case's text, if it has one


@dataclass(frozen=True)
class Batch:
    """Samples stacked; `queries` are for `TextBank.queries`."""

    image: Tensor  # (B, C, *patch) float32
    labels: Tensor  # (B, *patch) int16, small on its way between processes; `Queries.slots` makes them int64
    queries: tuple[Query, ...]
    cases: tuple[str, ...]
    told: tuple[str | None, ...]  # the case again where its text is told, if it has one
    keys: tuple[SampleKey, ...]  # from which all else that is random in a step is drawn

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        return replace(self, image=send(self.image, device), labels=send(self.labels, device))

    def pin_memory(self) -> "Batch":
        """Page-locked, for copies to a GPU that do not wait; called by torch's DataLoader."""
        return replace(self, image=self.image.pin_memory(), labels=self.labels.pin_memory())


class _Cases:
    """The case of each sample.

    A patch that must hold foreground is of a case that has some. nnU-Net draws it from all of them, so that where most
    cases have no lesion most such patches have none either.
    """

    def __init__(self, folder: Path, case_ids: Sequence[str], seed: int):
        self.folder, self.ids, self.seed = Path(folder), tuple(sorted(case_ids)), seed

    def choose(self, epoch: int, index: int, forced: bool) -> str:
        """The id of a sample's case."""
        ids = (forced and self._holding) or self.ids
        return ids[choose_case(len(ids), self.seed, epoch, index)]

    @cached_property
    def _holding(self) -> tuple[str, ...]:
        return tuple(case for case in self.ids if read_record(self.folder, case).present)


class TrainingSamples(Dataset[Sample]):
    """Random-access samples: `samples[SampleKey(epoch, index)]`."""

    def __init__(self, folder: Path, case_ids: Sequence[str], plan: Plan, phrasings: Sequence[int], seed: int):
        self.folder, self.plan, self.seed, self.phrasings = Path(folder), plan, seed, tuple(phrasings)
        self.cases = _Cases(folder, case_ids, seed)
        self.augment = Augmentation(plan)

    def __getitem__(self, key: SampleKey) -> Sample:
        epoch, index = key.epoch, key.index
        forced = forced_foreground(index, self.plan.batch, self.plan.training.foreground_share)
        case = self.cases.choose(epoch, index, forced)
        try:
            sample = self._draw(open_case(self.folder, case), key, forced)
            return replace(sample, told=reads_text(self.seed, epoch, index))
        except Exception as error:
            error.add_note(f"while loading case {case} (epoch {epoch}, sample {index})")
            raise

    def _draw(self, stored: StoredCase, key: SampleKey, forced: bool) -> Sample:
        record, rng = stored.record, generator(self.seed, key.epoch, key.index)
        start = draw_patch(rng, record.shape, self.plan.patch, stored.centres(forced))
        if self.plan.reads_words:
            query = draw_query(rng, record.annotated, record.present, self.phrasings, record.absent, key.subsets)
        else:
            query = full_query(record.known)
        image, labels = self.augment(stored.image, stored.labels, record.shape, start, rng)
        return Sample(image, labels, query, record.case, key)


class TrainingLoader:
    """Batches of an epoch, in order, from `workers` processes or, with 0, from this one."""

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
        """`folder`: of the preprocessed data set; `phrasings`: number of phrasings of label 1..N, in label order."""
        self.samples = TrainingSamples(folder, case_ids, plan, phrasings, seed)
        self._order = _Order(plan.batch)
        self._loader = DataLoader(
            self.samples,
            batch_sampler=self._order,
            collate_fn=collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=PREFETCH if workers else None,
            worker_init_fn=_start_worker,
            pin_memory=pin_memory,
            generator=torch.Generator(),  # or it would draw from the global one, which a resume must find unmoved
        )

    def epoch(self, epoch: int, iterations: int, start: int = 0, subsets_from: int = 0) -> Iterator[Batch]:
        """Batches `start` to `iterations - 1` of an epoch; from batch `subsets_from` on queries may be subsets."""
        self._order.set(epoch, start, iterations, subsets_from)
        return iter(self._loader)

    def seconds_a_batch(self) -> float:
        """What a batch takes where processes load, measured over batches of which none was prepared ahead; else 0.

        What they prepare while training starts hides for a while that they are slower than the training.
        """
        workers = self._loader.num_workers
        clock = time.perf_counter()
        for _ in self.epoch(0, BATCHES_A_WORKER * workers):
            pass
        return (time.perf_counter() - clock) / (BATCHES_A_WORKER * workers) if workers else 0.0

    def batch(self, epoch: int, iteration: int) -> Batch:
        """One batch, computed in this process."""
        return collate([self.samples[key] for key in batch_keys(epoch, iteration, self._order.size)])


def workers_that_fit(plan: Plan, workers: int, shared_memory: Path = Path("/dev/shm")) -> int:
    """At most `workers`, and no more than half of what is free of the shared memory can hold batches of.

    Containers often have 64 MB of it, and a process that finds it full dies. Where there is no such place, as on
    Windows and macOS, batches lie elsewhere.
    """
    if not shared_memory.is_dir():
        return workers
    batch = plan.batch * prod(plan.patch) * (4 * len(plan.channels) + 2)  # bytes: float32 images, int16 labels
    return min(workers, shutil.disk_usage(shared_memory).free // (2 * PREFETCH * batch))


class ValidationPatches:
    """The same unaugmented patches of validation cases every time; all annotated labels are asked for."""

    def __init__(self, folder: Path, case_ids: Sequence[str], plan: Plan, seed: int, patches: int):
        self.folder, self.plan, self.seed, self.patches = Path(folder), plan, seed, patches
        self.cases = _Cases(folder, case_ids, seed)

    def __iter__(self) -> Iterator[Batch]:
        for first in range(0, self.patches, self.plan.batch):
            last = min(first + self.plan.batch, self.patches)
            yield collate([self._sample(index) for index in range(first, last)])

    def _sample(self, index: int) -> Sample:
        forced = forced_foreground(index, self.plan.batch, self.plan.training.foreground_share)
        case = self.cases.choose(0, index, forced)
        stored = open_case(self.folder, case)
        rng = generator(self.seed, 0, index)
        start = draw_patch(rng, stored.record.shape, self.plan.patch, stored.centres(forced))
        image, labels = read_patch(stored.image, stored.labels, stored.record.shape, start, self.plan.patch)
        return Sample(image, labels, full_query(stored.record.annotated), case, SampleKey(0, index))


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples."""
    return Batch(
        image=torch.stack([sample.image for sample in samples]),
        labels=torch.stack([sample.labels for sample in samples]),
        queries=tuple(sample.query for sample in samples),
        cases=tuple(sample.case for sample in samples),
        told=tuple(sample.case if sample.told else None for sample in samples),
        keys=tuple(sample.key for sample in samples),
    )


class _Order:
    """The keys of each batch of one epoch; DataLoader reads them in this process."""

    def __init__(self, size: int):
        self.size = size
        self.set(0, 0, 0, 0)

    def set(self, epoch: int, start: int, iterations: int, subsets_from: int) -> None:
        self.epoch, self.iterations, self.subsets_from = epoch, range(start, iterations), subsets_from

    def __len__(self) -> int:
        return len(self.iterations)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        return (batch_keys(self.epoch, one, self.size, one >= self.subsets_from) for one in self.iterations)


def batch_keys(epoch: int, iteration: int, size: int, subsets: bool = True) -> list[SampleKey]:
    """The keys of the `size` samples of one iteration of an epoch."""
    return [SampleKey(epoch, iteration * size + place, subsets) for place in range(size)]


def _start_worker(_: int) -> None:
    """One thread; and a process group of its own, so that Ctrl-C reaches the training alone, which ends it well.

    A SIGTERM that schedulers send to every process of a job ends this one quietly: DataLoader would raise at once, in
    the middle of a step, for a process that a signal killed.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if hasattr(os, "setpgrp"):
        os.setpgrp()
