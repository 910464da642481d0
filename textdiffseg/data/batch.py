"""Training samples and batches of them. A `SampleKey` identifies a sample within a run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from plans.errors import UserError
from textdiffseg.overview import Overview, stacked
from textdiffseg.queries import Queries, Query
from textdiffseg.text.bank import TextBank
from textdiffseg.transfer import send


@dataclass(frozen=True)
class SampleKey:
    """The identity of a training sample within a run."""

    epoch: int
    index: int  # within the epoch
    subsets: bool = True  # a subset of the labels may be queried (`draw_query`)


@dataclass(frozen=True)
class Sample:
    """A patch and its queried labels."""

    image: Tensor  # (C, *patch) float32, normalised; 0 outside the case
    labels: Tensor  # (*patch) int16: label numbers, 0 background and outside the case, -1 ignored
    query: Query
    case: str
    key: SampleKey
    context_labels: Query = ()  # labels whose words are read, too
    with_text: bool = True  # the case's text is read, if it has one
    overview: Overview | None = None  # of the case (B = 1), if the network reads it


@dataclass(frozen=True)
class Batch:
    """Stacked samples. `read` converts `queries`, `texts` and `context_labels` to text vectors."""

    image: Tensor  # (B, C, *patch) float32
    labels: Tensor  # (B, *patch) int16, to send little between processes; `Queries.slots` returns int64
    queries: tuple[Query, ...]
    cases: tuple[str, ...]
    texts: tuple[str | None, ...]  # the case whose text is read, or None for a sample without text
    keys: tuple[SampleKey, ...]  # the random parameters of a step are drawn from them
    context_labels: tuple[Query, ...] = ()  # labels whose words are read, too
    overview: Overview | None = None  # of the cases, if the network reads it

    def read(self, bank: TextBank) -> Queries:
        """The queries as text vectors, with the overviews of the cases."""
        return replace(bank.queries(self.queries, self.texts, self.context_labels), overview=self.overview)

    def to(self, device: torch.device | str) -> "Batch":
        """The same images and label maps on another device."""
        return replace(self, image=send(self.image, device), labels=send(self.labels, device))

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory. Copies to a GPU then do not block. torch's DataLoader calls it."""
        return replace(self, image=self.image.pin_memory(), labels=self.labels.pin_memory())


@dataclass(frozen=True)
class Fault:
    """The lines of a `UserError` in a loading process. DataLoader would replace the error itself by its traceback."""

    lines: tuple[str, ...]


def collate(items: Sequence[Sample | Fault]) -> Batch | Fault:
    """The stacked samples. If any item is a fault: one fault with the lines of all faults."""
    faults = [item for item in items if isinstance(item, Fault)]
    if faults:
        return Fault(tuple(dict.fromkeys(line for fault in faults for line in fault.lines)))
    samples = [item for item in items if isinstance(item, Sample)]
    return Batch(
        image=torch.stack([sample.image for sample in samples]),
        labels=torch.stack([sample.labels for sample in samples]),
        queries=tuple(sample.query for sample in samples),
        cases=tuple(sample.case for sample in samples),
        texts=tuple(sample.case if sample.with_text else None for sample in samples),
        context_labels=tuple(sample.context_labels for sample in samples),
        keys=tuple(sample.key for sample in samples),
        overview=stacked([sample.overview for sample in samples]),
    )


def raise_fault(batch: Batch | Fault) -> Batch:
    """The batch. A fault is raised as `UserError`."""
    if isinstance(batch, Fault):
        raise UserError(*batch.lines)
    return batch


def batch_keys(epoch: int, iteration: int, size: int, subsets: bool = True) -> list[SampleKey]:
    """The keys of the `size` samples of one iteration of an epoch."""
    return [SampleKey(epoch, iteration * size + row, subsets) for row in range(size)]
