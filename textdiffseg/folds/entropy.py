"""The uncertainty of a validation case's mask, kept for the report: the entropy of the probabilities of each voxel.

It is stored on the plan's grid in steps of 1/32 bit, so that a map takes a byte per voxel before compression.
"""

import numpy as np

from plans.errors import UserError
from plans.geometry import Triple
from plans.layout import FoldFolder
from textdiffseg.data.arrays import open_array, write_array

STEPS_PER_BIT = 32


class EntropyMap:
    """The map of one case, from slabs of entropy."""

    def __init__(self, shape: Triple):
        """`shape`: (D, H, W) of the case on the plan's grid."""
        self._steps = np.zeros(shape, np.uint8)

    def add(self, first: int, entropy: np.ndarray) -> None:
        """Add planes (D, H, W) in bits, from plane `first` on. Values of 8 bits and more are cut."""
        steps = np.rint(entropy * STEPS_PER_BIT).clip(max=255)
        self._steps[first : first + len(entropy)] = steps

    def write(self, fold: FoldFolder, case: str) -> None:
        """Write the map into the folder of a fold."""
        write_array(fold.entropy(case), self._steps)


def read_entropy(fold: FoldFolder, case: str, shape: Triple) -> np.ndarray | None:
    """The map (D, H, W) in bits, float32; None if validation has written none. `UserError` if it is damaged."""
    path = fold.entropy(case)
    if not path.is_file():
        return None
    try:
        steps = np.asarray(open_array(path)[...])
    except (ValueError, RuntimeError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}). Validate the fold again with tds_train --val.") from None
    if steps.shape != shape or steps.dtype != np.uint8:
        raise UserError(f"{path}: its size is not that of case {case}. Validate the fold again with tds_train --val.")
    return steps.astype(np.float32) / STEPS_PER_BIT
