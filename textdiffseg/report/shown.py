"""One case to show: its scan, masks and maps in canonical orientation, read from disk."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from plans.errors import UserError
from plans.layout import FoldFolder
from plans.plan import Plan
from textdiffseg.data.store import open_case
from textdiffseg.folds.entropy import read_entropy
from textdiffseg.imaging.planes import grey_range
from textdiffseg.imaging.sources.files import read_labels, read_volume
from textdiffseg.imaging.volume import Geometry, Volume, to_canonical
from textdiffseg.preprocessing.case import restore_map

Parts = Mapping[str, tuple[int, ...]]
"""The numbers in label maps that belong to each label. Overlapping labels share numbers."""


@dataclass(frozen=True)
class ShownCase:
    """A scan and its masks. Arrays are (D, H, W) with axes towards superior, posterior and left."""

    name: str
    image: np.ndarray
    geometry: Geometry
    prediction: np.ndarray  # numbers of labels
    parts: Parts
    window: tuple[float, float]  # intensities of black and white
    reference: np.ndarray | None = None  # numbers of labels
    uncertainty: np.ndarray | None = None
    title: str = ""  # of its picture; empty: its name
    lines: tuple[str, ...] = ()  # sentences beside its picture

    @property
    def labelled(self) -> np.ndarray:
        """The voxels that any mask labels, bool."""
        known = self.prediction > 0
        return known if self.reference is None else known | (self.reference > 0)


def shown_case(
    name: str,
    scan: Volume,
    prediction: np.ndarray,
    parts: Parts,
    hounsfield: bool,
    reference: np.ndarray | None = None,
    uncertainty: np.ndarray | None = None,
    title: str = "",
    lines: tuple[str, ...] = (),
) -> ShownCase:
    """The case in canonical orientation. All arrays (D, H, W) have the grid of the scan; its first channel is shown."""
    canonical, turn = to_canonical(scan)
    image, masks = canonical.array[0], turn.apply(prediction)
    truth = None if reference is None else turn.apply(reference)
    known = masks > 0 if truth is None else (masks > 0) | (truth > 0)
    window = grey_range(image, known, hounsfield)
    doubt = None if uncertainty is None else turn.apply(uncertainty)
    return ShownCase(name, image, canonical.geometry, masks, parts, window, truth, doubt, title, lines)


def validation_case(
    case: str,
    fold: FoldFolder,
    preprocessed: Path,
    plan: Plan,
    scan: tuple[Path, ...] | None,
    title: str = "",
    lines: tuple[str, ...] = (),
) -> ShownCase:
    """A validation case with its reference, as stored, and the uncertainty of its mask.

    `fold` has predicted it. Without the files of its scan, the stored image is shown.
    Raises `UserError` if a file is missing or damaged.
    """
    stored = open_case(preprocessed, case, plan)
    transform = stored.record.transform
    if scan is None:
        image = stored.image[...][0].astype(np.float32)
        volume = Volume(restore_map(image, transform, float(image.min()))[None], transform.geometry)
    else:
        volume = read_volume(scan[:1])
    mask = fold.mask(case)
    predicted = read_labels(mask).array[0]
    if not predicted.shape == volume.geometry.shape == transform.original_shape:
        raise UserError(f"{mask}: its size is not that of the scan of case {case}. Validate the fold again.")
    numbers = {label.value: number for label, number in zip(plan.labels, plan.written_numbers, strict=True)}
    values, places = np.unique(predicted, return_inverse=True)
    known = np.array([numbers.get(int(value), 0) for value in values])
    hounsfield = scan is not None and plan.channels[0].scheme == "ct"
    parts = dict(zip((label.name for label in plan.labels), plan.value_numbers, strict=True))
    masks = known[places.reshape(predicted.shape)]
    entropy = read_entropy(fold, case, transform.shape)
    doubt = None if entropy is None else restore_map(entropy, transform)
    return shown_case(case, volume, masks, parts, hounsfield, stored.original_labels(), doubt, title, lines)
