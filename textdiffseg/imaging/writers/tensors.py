"""The mask as MONAI's MetaTensor."""

from copy import deepcopy
from typing import TYPE_CHECKING

import numpy as np

from textdiffseg.extras import require
from textdiffseg.imaging.forms import RAS_TO_LPS
from textdiffseg.imaging.volume import Geometry, in_file_order

if TYPE_CHECKING:
    from monai.data.meta_tensor import MetaTensor

    from textdiffseg.imaging.sources.tensors import MonaiRecord

# As LoadImage notes it of a file with one channel. Without it, SaveImage takes the mask's first axis for a channel.
_NO_CHANNEL = {"original_channel_dim": float("nan")}


def as_metatensor(labels: np.ndarray, geometry: Geometry, record: "MonaiRecord | None" = None) -> "MetaTensor":
    """The mask (1, x, y, z), int32, with the affine that its NIfTI file would have.

    Args:
        labels: label values (D, H, W) on `geometry`.
        geometry: of the scan.
        record: of the MetaTensor that was segmented. The mask gets a copy of it, its affine included.

    Raises `UserError` if MONAI is not installed.
    """
    require("train", "A MetaTensor", "monai")
    from monai.data.meta_tensor import MetaTensor

    array, grid = in_file_order(labels, geometry)
    values = np.ascontiguousarray(array.transpose(), dtype=np.int32)[None]
    if record is not None:
        meta = deepcopy(record.meta) | _NO_CHANNEL
        return MetaTensor(values, meta=meta, applied_operations=deepcopy(record.operations))
    forms = grid.forms
    lps = forms.affine if forms is not None and forms.is_placed else grid.affine[:, [2, 1, 0, 3]]
    affine = RAS_TO_LPS @ lps
    return MetaTensor(values, meta={"affine": affine, "original_affine": affine.copy(), "space": "RAS"} | _NO_CHANNEL)
