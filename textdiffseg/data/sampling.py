"""What a training sample is: which case, which patch of it, and which labels are asked for in which words.

Everything here is drawn from a `numpy.random.Generator` that is a function of (seed, epoch, index) alone.
"""

from collections.abc import Sequence
from math import ceil

import numpy as np

from plans.geometry import Triple, triple
from textdiffseg.queries import Query

ALL_LABELS_SHARE = 0.5  # of all iterations, those at the start: every sample queries all annotated labels
SUBSET_SHARE = 0.5  # of the later samples query a random subset of the labels instead of all
TEXT_DROPOUT = 0.5  # share of the samples that go without their case's text, so that it may be missing
MAX_ABSENT = 3  # labels known to be absent that a subset may ask for as well


def generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The randomness of one sample."""
    return np.random.default_rng((0, seed, epoch, index))


def choose_case(cases: int, seed: int, epoch: int, index: int) -> int:
    """The case of a sample: a new permutation of all cases each time they are through, from the epoch's start."""
    turn, place = divmod(index, cases)
    return int(np.random.default_rng((1, seed, epoch, turn)).permutation(cases)[place])


def tells_text(seed: int, epoch: int, index: int) -> bool:
    """Whether a sample is given its case's text; a draw of its own, so that all others are the same without texts."""
    return bool(np.random.default_rng((2, seed, epoch, index)).random() >= TEXT_DROPOUT)


def forced_foreground(index: int, batch: int, share: float) -> bool:
    """Whether this sample's patch must hold foreground (nnU-Net: the last `share` of each batch, at least one).

    With a batch of one, `share` of the samples, evenly spread.
    """
    if batch == 1:
        return int((index + 1) * share) > int(index * share)
    count = max(batch - round(batch * (1 - share)), 1 if share > 0 else 0)
    return index % batch >= batch - count


def draw_patch(rng: np.random.Generator, shape: Triple, patch: Triple, foreground: np.ndarray | None = None) -> Triple:
    """The first voxel of a patch; negative where the patch is larger than the case, which is then centred.

    Args:
        shape: of the case, in voxels (D, H, W).
        foreground: rows (label, d, h, w) of sampled voxels. If given and not empty, the patch is centred on a voxel
            of a label, both drawn at random (nnU-Net's rule), as far as the case's border allows.
    """
    low = np.array([min(0, (size - wanted) // 2) for size, wanted in zip(shape, patch, strict=True)])
    high = np.array([max(0, size - wanted) for size, wanted in zip(shape, patch, strict=True)])
    high = np.where(low < 0, low, high)
    if foreground is None or len(foreground) == 0:
        return _voxels(rng.integers(low, high, endpoint=True))
    label = rng.choice(np.unique(foreground[:, 0]))
    rows = foreground[foreground[:, 0] == label]
    centre = rows[rng.integers(len(rows)), 1:]
    return _voxels(np.clip(centre - np.array(patch) // 2, low, high))


def first_subset_iteration(iterations: int) -> int:
    """The iteration of a run of so many from which samples may query subsets of the labels.

    Random subsets from the first iteration on cost an order of magnitude in learning speed: on head and neck, `unet`
    finds the parotid glands after 106 iterations with all labels and not after 174 with subsets (docs/method.md).
    """
    return ceil(ALL_LABELS_SHARE * iterations)


def draw_query(
    rng: np.random.Generator,
    annotated: Sequence[int],
    present: Sequence[int],
    phrasings: Sequence[int],
    absent: Sequence[int] = (),
    subsets: bool = True,
) -> Query:
    """The labels that a sample queries, in label order, each in a random phrasing.

    With `subsets`, `SUBSET_SHARE` of the samples query a random non-empty subset of the present labels and up to
    `MAX_ABSENT` absent ones. All others query all annotated labels.

    Args:
        annotated: label numbers that the annotator looked for in this case; never empty.
        present: those of them that have voxels in this case.
        phrasings: the number of phrasings of label 1, 2, ..., N.
        absent: labels that are not annotated but declared absent.
    """
    asked = sorted(annotated)
    if subsets and rng.random() < SUBSET_SHARE:
        here = sorted(set(annotated) & set(present))
        empty = sorted((set(annotated) | set(absent)) - set(present))
        some = rng.integers(1, len(here), endpoint=True) if here else 0
        others = rng.integers(0 if here else 1, min(MAX_ABSENT, len(empty)), endpoint=True) if empty else 0
        asked = sorted([*rng.permutation(here)[:some], *rng.permutation(empty)[:others]])
    return tuple((int(label), int(rng.integers(phrasings[label - 1]))) for label in asked)


def full_query(labels: Sequence[int]) -> Query:
    """All of these labels, in label order, each in its first phrasing."""
    return tuple((label, 0) for label in sorted(labels))


def _voxels(values: np.ndarray) -> Triple:
    return triple(int(value) for value in values)
