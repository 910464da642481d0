"""Samples of stored cases: augmented for training, fixed for validation.

A training sample is a function of (seed, epoch, index, subsets) alone, whichever process computes it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from plans.errors import UserError
from plans.geometry import Triple
from plans.plan import Plan
from textdiffseg.data.augment import Augmentation, Placement, read_patch
from textdiffseg.data.batch import Batch, Fault, Sample, SampleKey, collate, raise_fault
from textdiffseg.data.sampling import (
    choose_case,
    choose_rater,
    context_query,
    draw_dropped,
    draw_patch,
    draw_query,
    forced_foreground,
    full_query,
    generator,
    reads_overview,
    reads_text,
)
from textdiffseg.data.store import StoredCase, open_case, read_record
from textdiffseg.overview import Overview, cell_offsets, reduced


class _Cases:
    """The cases that samples are drawn from.

    If a patch must hold foreground, its case is drawn from the cases with foreground. nnU-Net draws from all cases:
    where most cases have no lesion, most of these patches have none either.
    """

    def __init__(self, folder: Path, case_ids: Sequence[str], seed: int):
        self.folder, self.ids, self.seed = Path(folder), tuple(sorted(case_ids)), seed
        self._reduced: dict[str, Tensor] = {}

    def choose(self, epoch: int, index: int, forced: bool) -> str:
        """The id of a sample's case. `forced`: its patch must hold foreground."""
        ids = self._with_foreground if forced and self._with_foreground else self.ids
        return ids[choose_case(len(ids), self.seed, epoch, index)]

    def open(self, case: str, plan: Plan, epoch: int, index: int) -> StoredCase:
        """The case of a sample, with the label map of the one reference that the sample learns from."""
        reference = choose_rater(read_record(self.folder, case).references, self.seed, epoch, index)
        return open_case(self.folder, case, plan, (reference,))

    def overview(self, stored: StoredCase, plan: Plan, start: Triple, placement: Placement) -> Overview | None:
        """The overview of a sample's case, seen from its patch; None if the plan has none.

        A process reads each case once for it. 32 x 32 x 32 cells of a channel take 131 kB.
        """
        if plan.overview is None:
            return None
        case, shape = stored.record.case, stored.record.shape
        if case not in self._reduced:
            self._reduced[case] = reduced(stored.image, plan.overview.edge)
        where = cell_offsets(shape, start, plan.patch, plan.overview.cells, placement.matrix)
        overview = Overview(self._reduced[case][None], where[None], torch.ones(1, dtype=torch.bool))
        return overview.flip(placement.mirrored)

    @cached_property
    def _with_foreground(self) -> tuple[str, ...]:
        return tuple(case for case in self.ids if read_record(self.folder, case).present)


class TrainingSamples(Dataset[Sample | Fault]):
    """The augmented samples of a run, by key: `samples[SampleKey(epoch, index)]`. A damaged case returns a `Fault`."""

    def __init__(self, folder: Path, case_ids: Sequence[str], plan: Plan, phrasings: Sequence[int], seed: int):
        """The arguments are those of `TrainingLoader`."""
        self.plan, self.seed, self.phrasings = plan, seed, tuple(phrasings)
        self.cases = _Cases(folder, case_ids, seed)
        self.augment = Augmentation(plan)

    def __getitem__(self, key: SampleKey) -> Sample | Fault:
        epoch, index = key.epoch, key.index
        forced = forced_foreground(index, self.plan.batch, self.plan.training.foreground_share)
        case = self.cases.choose(epoch, index, forced)
        try:
            stored = self.cases.open(case, self.plan, epoch, index)
            return self._draw(stored, key, forced)
        except UserError as error:
            return Fault(error.naming(case))
        except Exception as error:
            error.add_note(f"while loading case {case} (epoch {epoch}, sample {index})")
            raise

    def _draw(self, stored: StoredCase, key: SampleKey, forced: bool) -> Sample:
        record, rng = stored.record, generator(self.seed, key.epoch, key.index)
        start = draw_patch(rng, record.shape, self.plan.patch, stored.centres(forced))
        query, context_labels = full_query(record.known), full_query(())
        if self.plan.reads_words:
            query, context_labels = draw_query(rng, record.known, record.present, self.phrasings, key.subsets)
        texted = reads_text(self.seed, key.epoch, key.index)
        image, labels, placement = self.augment(stored.image, stored.labels, record.shape, start, rng, texted)
        dropped: list[int] = []
        if optional := self.plan.optional_channels:
            shown = image.flatten(1).any(1).nonzero().flatten().tolist()
            dropped = list(draw_dropped(rng, optional, shown))
        image[dropped] = 0
        overview = self.cases.overview(stored, self.plan, start, placement)
        if overview is not None:
            read = overview.known & reads_overview(self.seed, key.epoch, key.index)
            overview = replace(overview.without(dropped), known=read)
        return Sample(image, labels, query, record.case, key, context_labels, texted, overview)


class ValidationPatches:
    """Batches of fixed patches of validation cases, not augmented. All known labels are queried."""

    def __init__(self, folder: Path, case_ids: Sequence[str], plan: Plan, seed: int, patches: int):
        """`patches`: their number. The other arguments are those of `TrainingLoader`."""
        self.plan, self.seed, self.patches = plan, seed, patches
        self.cases = _Cases(folder, case_ids, seed)

    def __iter__(self) -> Iterator[Batch]:
        for first in range(0, self.patches, self.plan.batch):
            last = min(first + self.plan.batch, self.patches)
            yield raise_fault(collate([self._sample(index) for index in range(first, last)]))

    def _sample(self, index: int) -> Sample:
        forced = forced_foreground(index, self.plan.batch, self.plan.training.foreground_share)
        case = self.cases.choose(0, index, forced)
        stored = self.cases.open(case, self.plan, 0, index)
        rng = generator(self.seed, 0, index)
        start = draw_patch(rng, stored.record.shape, self.plan.patch, stored.centres(forced))
        image, labels = read_patch(stored.image, stored.labels, stored.record.shape, start, self.plan.patch)
        known = stored.record.known
        context_labels = context_query(self.plan, known)
        overview = self.cases.overview(stored, self.plan, start, Placement(None, ()))
        return Sample(image, labels, full_query(known), case, SampleKey(0, index), context_labels, overview=overview)
