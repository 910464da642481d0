"""The search at low resolution: it shows the full resolution where to look.

The low-resolution mask of a scan is predicted in a single pass. The full resolution is then computed only in windows
that hold a voxel near this mask (`Region`). A voxel near the mask gets all of its windows, so its probabilities are
those of a whole prediction. Voxels in no window are background.
"""

from dataclasses import dataclass
from itertools import islice

import numpy as np
from torch import Tensor

from plans.errors import listed
from textdiffseg.inference.predictor import Predictor
from textdiffseg.inference.prompting import Selection
from textdiffseg.inference.region import Region
from textdiffseg.progress import StepProgress

NOTHING_FOUND = (
    "Low resolution found nothing in this scan, so full resolution was not computed. To compute it everywhere: "
    "--no-guide."
)


@dataclass(frozen=True)
class GuideResult:
    """What the search at low resolution found in a scan."""

    region: Region
    missing: tuple[str, ...]  # the answers that it found nowhere

    @property
    def notes(self) -> tuple[str, ...]:
        """A note for the user if answers are missing."""
        if not self.region.found.any():
            return (NOTHING_FOUND,)
        if not self.missing:
            return ()
        return (
            f"Low resolution did not find {listed(self.missing)}, so full resolution looked for it only near the other "
            "structures. To look everywhere: --no-guide.",
        )


def find_region(
    predictor: Predictor, image: Tensor, selection: Selection, progress: StepProgress | None = None
) -> GuideResult:
    """What a low-resolution model finds in an image (C, D, H, W) on its grid.

    Args:
        predictor: of the low-resolution model.
        image: (C, D, H, W) on the grid of its plan.
        selection: the queries and answers, for this model.
        progress: called with (groups of windows done, all groups).
    """
    found = np.zeros(image.shape[1:], dtype=bool)  # voxels of any answer
    seen = np.zeros(len(selection.names), dtype=bool)  # answers with voxels
    for slab in predictor.predict_slabs(image, selection.queries, progress=progress):
        p = slab.prediction.probabilities
        for answer, mask in enumerate(islice(predictor.readout.slot_masks(p), len(seen))):  # rivals follow
            seen[answer] |= bool(mask.any())
            found[slab.first : slab.first + p.shape[1]] |= mask.numpy()
    missing = tuple(name for name, is_seen in zip(selection.names, seen, strict=True) if not is_seen)
    return GuideResult(Region(found), missing)
