"""Alternatives: the diffusion samples of a scan, and the few of them that represent all.

The distance of two samples is 1 minus their Dice, averaged over the labels that at least one of them contains. Labels
that overlap are compared in the values that they write.
"""

from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from plans.errors import UserError
from plans.geometry import triple
from plans.planning.scan_memory import sums_bytes
from textdiffseg.arguments import is_whole
from textdiffseg.folds.sampling import ALTERNATIVE_SAMPLES
from textdiffseg.imaging.boxes import joint
from textdiffseg.inference.medoids import medoids
from textdiffseg.inference.region import Region
from textdiffseg.inference.samples import SamplePredictor
from textdiffseg.overlaps import dice_of, intersections
from textdiffseg.preprocessing.case import TransformRecord
from textdiffseg.progress import StepProgress, share_of
from textdiffseg.queries import Queries

USUAL_SAMPLER_ITERATIONS = 300  # show each of two equal nodules (docs/method.md, "Words"); 61 do not
MAX_DRAWN_SUMS_BYTES = 1e9  # of the samples that are drawn at once, unless one alone needs more


@dataclass(frozen=True)
class Alternative:
    """One of several possible masks of a scan."""

    labels: np.ndarray  # the value of each voxel on the scan's own grid, 0 background
    share: float  # of the samples that are nearer to this one than to the other alternatives


def check_count(alternatives: int) -> int:
    """The number of alternatives; 0 means none. `UserError` if it is not possible."""
    if not is_whole(alternatives) or not 0 <= int(alternatives) <= ALTERNATIVE_SAMPLES:
        raise UserError(
            f"--alternatives: expected a whole number from 1 to {ALTERNATIVE_SAMPLES}, the number of samples; found "
            f"{alternatives}."
        )
    return int(alternatives)


def class_type(classes: int) -> type[np.uint8] | type[np.int16]:
    """The integer type of kept masks with this number of classes."""
    return np.uint8 if classes <= 256 else np.int16


def samples_at_once(classes: int, voxels: int) -> int:
    """The number of samples that are drawn together. More are faster, as the image is encoded once for all of them.

    `voxels`: in the sums of one sample (`Predictor.slab_voxels`).
    """
    return int(max(1, min(ALTERNATIVE_SAMPLES, MAX_DRAWN_SUMS_BYTES // sums_bytes(classes, voxels))))


def draw_masks(
    predictor: SamplePredictor,
    image: Tensor,
    transform: TransformRecord,
    queries: Queries,
    n_answers: int,
    progress: StepProgress | None = None,
) -> np.ndarray:
    """The masks (S, D, H, W) of all S samples on the scan's own grid. Class q is answer q, and 0 is background.

    Args:
        predictor: its settings have S samples.
        image: (C, D, H, W) on the plan's grid.
        transform: from the scan's grid to the plan's.
        queries: of one sample.
        n_answers: the number of answers, the first slots. The other slots are rivals, and are not written.
        progress: called with (done, total), in groups of windows of one pass over the scan. Their ratio is the share
            of the work on all samples that is done.
    """
    samples, readout = predictor.settings.samples, predictor.readout
    classes = 1 + queries.labels.shape[1]
    at_once = samples_at_once(classes, predictor.slab_voxels(triple(image.shape[1:])))
    masks = np.zeros((samples, *transform.original_shape), class_type(classes))
    for first in range(0, samples, at_once):
        numbers = range(first, min(first + at_once, samples))
        progress_of_some = share_of(progress, first / samples, len(numbers) / samples)
        restoring = [readout.restoring(transform) for _ in numbers]
        for slabs in predictor.sample_slabs(image, queries, numbers, progress_of_some):
            for mask, slab in zip(restoring, slabs, strict=True):
                mask.add(readout.classes_to_compare(slab.prediction.probabilities.numpy()))
        for number, mask in zip(numbers, restoring, strict=True):
            slots = mask.finish()
            masks[number] = np.where(slots > n_answers, 0, slots)  # rivals are background
    return masks


def few_iterations_note(iterations: int | None) -> str | None:
    """A note on a sampler that has learned in few iterations; None: they are enough, or not known."""
    if iterations is None or iterations >= USUAL_SAMPLER_ITERATIONS:
        return None
    return (
        f"Alternatives: the sampler learned in {iterations} iterations, where {USUAL_SAMPLER_ITERATIONS} are usual. "
        "They may miss something that readers disagree about. Train longer, or raise diffusion.share in plan.json."
    )


@dataclass(frozen=True)
class AlternativeChoice:
    """Draws the samples of a scan and chooses alternatives among them."""

    predictor: SamplePredictor  # its settings have `ALTERNATIVE_SAMPLES` samples
    count: int
    sampler_note: str | None = None  # if the sampler has learned too little

    def near(self, region: Region) -> "AlternativeChoice":
        """The same for one scan: only windows that touch a region of the scan are computed."""
        return replace(self, predictor=self.predictor.near(region))

    def __call__(
        self,
        image: Tensor,
        transform: TransformRecord,
        queries: Queries,
        values: tuple[int, ...],
        progress: StepProgress | None,
    ) -> tuple[Alternative, ...]:
        """The alternatives of an image (C, D, H, W) on the plan's grid. `values`: of the answers in the masks."""
        masks = draw_masks(self.predictor, image, transform, queries, len(values), progress)
        return choose_alternatives(masks, values, self.count)

    def notes(self, chosen: int) -> tuple[str, ...]:
        """A note if there are fewer alternatives than requested."""
        if chosen == self.count:
            return ()
        samples = self.predictor.settings.samples
        reason = (
            f"the {samples} samples contain only {chosen} different masks" if chosen > 1 else "all samples are equal"
        )
        return (f"Alternatives: {chosen} instead of {self.count}, because {reason}.",)


def choose_alternatives(masks: np.ndarray, values: tuple[int, ...], count: int) -> tuple[Alternative, ...]:
    """At most `count` of the samples' masks, with their shares. There are fewer if the samples differ in fewer masks.

    Args:
        masks: (S, D, H, W), from `draw_masks`.
        values: the value of each answer.
        count: of alternatives.
    """
    table = value_table(values)
    chosen = medoids(distances(masks, len(values)), count)
    return tuple(Alternative(table[masks[medoid.sample]], medoid.share) for medoid in chosen)


def value_table(values: tuple[int, ...]) -> np.ndarray:
    """The value of each class of a mask, in the smallest integer type: 0, then the `values` of the answers."""
    return np.array([0, *values], dtype=np.result_type(*map(np.min_scalar_type, (0, *values))))


def distances(masks: np.ndarray, n_answers: int) -> np.ndarray:
    """The distance (S, S) of every pair of masks (S, D, H, W) with the classes 1 to `n_answers`."""
    from scipy.ndimage import find_objects

    total, labels = np.zeros((2, len(masks), len(masks)))
    boxes = [find_objects(mask, max_label=n_answers) for mask in masks]
    for answer in range(1, 1 + n_answers):
        box = joint(boxes_of_mask[answer - 1] for boxes_of_mask in boxes)
        if box is None:
            continue
        counts = intersections([mask[box] for mask in masks], (answer,))
        sizes = np.diagonal(counts)
        contained = (sizes[:, None] + sizes) > 0
        total += contained * (1 - dice_of(counts))
        labels += contained
    return total / np.maximum(labels, 1)
