"""Random choices of a training sample: its case, its patch, and the queried labels with their phrasings.

All are drawn from a `numpy.random.Generator` that is a function of (seed, epoch, index).
"""

from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from plans.geometry import Triple, triple
from plans.plan import Plan
from textdiffseg.randomness import Stream

if TYPE_CHECKING:
    from textdiffseg.queries import Query  # it imports torch, which workers of preprocessing do without

ALL_LABELS_SHARE = 0.5  # the first share of the iterations: every sample queries all known labels
SUBSET_SHARE = 0.5  # the share of later samples that query a random subset of the labels
TEXT_DROPOUT = 0.5  # the share of samples without their case's text; prediction then also works without a text
OVERVIEW_DROPOUT = 0.1  # the share of samples without the overview of their case; words and patch then still suffice
CHANNEL_DROPOUT = 0.5  # the share of samples that may lose channels; each optional one is then dropped with P_DROP
P_DROP = 0.5
MAX_CANDIDATES_PER_LABEL = 2000  # candidate centre voxels that are stored
MAX_ABSENT_LABELS = 3  # labels known to be absent that a subset may contain


def generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random generator of one training sample."""
    return Stream.PATCH.numpy(seed, epoch, index)


def choose_case(cases: int, seed: int, epoch: int, index: int) -> int:
    """The index of a sample's case. Within an epoch, each round over all cases has its own random order."""
    pass_number, position = divmod(index, cases)
    return int(Stream.ORDER.numpy(seed, epoch, pass_number).permutation(cases)[position])


def reads_text(seed: int, epoch: int, index: int) -> bool:
    """Whether a sample gets its case's text.

    It has its own random stream, so all other draws are the same with and without texts.
    """
    return bool(Stream.TEXT.numpy(seed, epoch, index).random() >= TEXT_DROPOUT)


def reads_overview(seed: int, epoch: int, index: int) -> bool:
    """Whether a sample reads the overview of its case. It has its own random stream, as `reads_text`."""
    return bool(Stream.OVERVIEW.numpy(seed, epoch, index).random() >= OVERVIEW_DROPOUT)


def draw_dropped(rng: np.random.Generator, optional: Sequence[int], shown: Sequence[int]) -> tuple[int, ...]:
    """The optional channels that a sample loses (channel dropout). At least one channel of the sample stays.

    With `CHANNEL_DROPOUT` and `P_DROP`, each optional channel is missing in a quarter of the samples, and each
    combination of them in some. Without optional channels nothing is drawn.

    Args:
        rng: the sample's generator.
        optional: the numbers of the optional channels.
        shown: the numbers of all channels that the sample has.
    """
    droppable = [number for number in optional if number in shown]
    if not droppable or rng.random() >= CHANNEL_DROPOUT:
        return ()
    dropped = [number for number in droppable if rng.random() < P_DROP]
    if len(dropped) == len(shown):
        dropped.remove(rng.choice(dropped))
    return tuple(dropped)


def choose_rater(references: int, seed: int, epoch: int, index: int) -> int:
    """The index of the reference that a sample learns from. All references are equally likely.

    It has its own random stream, and it is independent of the patch and of the queried labels. So each voxel is
    learned from all raters alike, and all other draws are the same with one reference.
    """
    return int(Stream.REFERENCE.numpy(seed, epoch, index).integers(references)) if references > 1 else 0


def forced_foreground(index: int, batch: int, share: float) -> bool:
    """Whether this sample's patch must hold foreground (nnU-Net's oversampling).

    These are the last `share` of each batch, at least one. With batch 1 they are evenly spread over the iterations.
    """
    if batch == 1:
        return int((index + 1) * share) > int(index * share)
    count = max(batch - round(batch * (1 - share)), 1 if share > 0 else 0)
    return index % batch >= batch - count


def draw_patch(rng: np.random.Generator, shape: Triple, patch: Triple, foreground: np.ndarray | None = None) -> Triple:
    """The first voxel (D, H, W) of a random patch. Along an axis shorter than the patch, the case is centred in it.

    Args:
        rng: the sample's generator.
        shape: of the case, in voxels (D, H, W).
        patch: in voxels (D, H, W).
        foreground: candidate centre voxels, rows (label number, d, h, w). A label is drawn, then one of its voxels
            (nnU-Net's rule). The patch is centred there as far as the case's border allows. Empty or None: the patch
            lies anywhere in the case.
    """
    low = np.array([min(0, (size - edge) // 2) for size, edge in zip(shape, patch, strict=True)])
    high = np.array([max(0, size - edge) for size, edge in zip(shape, patch, strict=True)])
    high = np.where(low < 0, low, high)
    if foreground is None or len(foreground) == 0:
        return _voxels(rng.integers(low, high, endpoint=True))
    label = rng.choice(np.unique(foreground[:, 0]))
    rows = foreground[foreground[:, 0] == label]
    centre = rows[rng.integers(len(rows)), 1:]
    return _voxels(np.clip(centre - np.array(patch) // 2, low, high))


def candidate_centres(labels: np.ndarray, case: str) -> np.ndarray:
    """Candidate centre voxels for patches of a label map (D, H, W), as int32 rows (label, d, h, w).

    They are a random sample of up to `MAX_CANDIDATES_PER_LABEL` voxels per label, the same for the same case id. If
    some voxels are ignored, as many of all others are sampled, too, with the label 0.
    """
    indices = np.flatnonzero(labels > 0)
    values = labels.ravel()[indices]
    order = np.argsort(values, kind="stable")
    indices, values = indices[order], values[order]
    numbers, starts = np.unique(values, return_index=True)
    rng = np.random.default_rng([len(labels.shape), *case.encode()])
    rows = []
    if labels.min(initial=0) < 0:
        known = _known_voxels(labels.ravel(), rng)
        rows.append(np.column_stack([np.zeros_like(known), *np.unravel_index(known, labels.shape)]))
    for number, group in zip(numbers, np.split(indices, starts)[1:], strict=True):
        if len(group) > MAX_CANDIDATES_PER_LABEL:
            group = np.sort(rng.choice(group, MAX_CANDIDATES_PER_LABEL, replace=False))
        rows.append(np.column_stack([np.full(len(group), number), *np.unravel_index(group, labels.shape)]))
    return np.concatenate(rows).astype(np.int32) if rows else np.zeros((0, 4), np.int32)


def _known_voxels(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The sorted places of up to `MAX_CANDIDATES_PER_LABEL` voxels that are not ignored, in a label map (N,).

    Places are drawn at random first: a list of all voxels of a large scan takes gigabytes.
    """
    drawn = np.unique(rng.integers(labels.size, size=50 * MAX_CANDIDATES_PER_LABEL))
    known = drawn[labels[drawn] >= 0]
    if len(known) < MAX_CANDIDATES_PER_LABEL:
        known = np.flatnonzero(labels >= 0)
    if len(known) > MAX_CANDIDATES_PER_LABEL:
        known = np.sort(rng.choice(known, MAX_CANDIDATES_PER_LABEL, replace=False))
    return known


def first_subset_iteration(iterations: int) -> int:
    """The first iteration in which samples may query a subset of the labels, of a run of `iterations`.

    Random subsets from the start slow learning down by an order of magnitude. On head and neck, `unet` finds the
    parotid glands after 106 iterations with all labels, but not after 174 with subsets (docs/history.md).
    """
    return ceil(ALL_LABELS_SHARE * iterations)


def draw_query(
    rng: np.random.Generator,
    known: Sequence[int],
    present: Sequence[int],
    phrasings: Sequence[int],
    subsets: bool = True,
) -> "tuple[Query, Query]":
    """The queried labels of a sample, and the labels whose words it also reads, each with a random phrasing.

    With `subsets`, `SUBSET_SHARE` of the samples query a random non-empty subset of the present labels and up to
    `MAX_ABSENT_LABELS` absent ones. All other samples query all known labels, and also read the words of all other
    labels. A prediction of all labels reads them, too. Otherwise a model of several data sets would recognise the data
    set by the words, and fail where it is queried for the labels of all (docs/method.md).

    Args:
        rng: the sample's generator.
        known: label numbers that the annotator looked for in this case, or that are declared absent; never empty.
        present: those that have voxels in this case.
        phrasings: the number of phrasings of label 1, 2, ..., N.
        subsets: whether a subset may be drawn.
    """
    queried: Sequence[int] = sorted(known)
    context_labels = _others(known, len(phrasings))
    if subsets and rng.random() < SUBSET_SHARE:
        filled = sorted(set(known) & set(present))
        empty = sorted(set(known) - set(present))
        n_filled = rng.integers(1, len(filled), endpoint=True) if filled else 0
        n_empty = rng.integers(0 if filled else 1, min(MAX_ABSENT_LABELS, len(empty)), endpoint=True) if empty else 0
        queried = sorted([*rng.permutation(filled)[:n_filled], *rng.permutation(empty)[:n_empty]])
        context_labels = ()
    return _with_phrasings(rng, queried, phrasings), _with_phrasings(rng, context_labels, phrasings)


def _with_phrasings(rng: np.random.Generator, labels: Sequence[int], phrasings: Sequence[int]) -> "Query":
    """The labels, each with a random phrasing."""
    return tuple((int(label), int(rng.integers(phrasings[label - 1]))) for label in labels)


def context_query(plan: Plan, labels: Sequence[int]) -> "Query":
    """The labels of a plan besides `labels`. A prediction of all labels reads their words, too."""
    return full_query(_others(labels, len(plan.labels))) if plan.reads_words else ()


def _others(labels: Sequence[int], count: int) -> tuple[int, ...]:
    """The label numbers 1..`count` that are not among `labels`."""
    return tuple(number for number in range(1, count + 1) if number not in labels)


def full_query(labels: Sequence[int]) -> "Query":
    """A query for all of these label numbers, in label order, each with its first phrasing."""
    return tuple((label, 0) for label in sorted(labels))


def _voxels(values: np.ndarray) -> Triple:
    return triple(int(value) for value in values)
