"""Tensors of torch, and MONAI's MetaTensors with their place in space. Neither library is imported here.

A MetaTensor is ([B,] C, x, y, z) with B = 1. Its affine maps an index (x, y, z) to world coordinates in mm, RAS+ unless
`meta["space"]` is LPS.
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from plans.errors import UserError

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header

SOURCE = "the MetaTensor"  # its name in messages
# The world axes of `meta["space"]` -> the signs that turn them to RAS+. NRRD files have the long names.
_TO_RAS = {"RAS": (1, 1, 1), "right-anterior-superior": (1, 1, 1)}
_TO_RAS |= {"LPS": (-1, -1, 1), "left-posterior-superior": (-1, -1, 1)}
_FORMS = ("srow_x", "srow_y", "srow_z", "qoffset_x", "qoffset_y", "qoffset_z", "quatern_b", "quatern_c", "quatern_d")
_HEADER = ("dim", "pixdim", "xyzt_units", "sform_code", "qform_code", *_FORMS)


@dataclass(frozen=True)
class MonaiRecord:
    """What a MetaTensor knows beside its voxels. A mask with the same record fits into the same pipeline."""

    meta: dict[str, Any]
    operations: list[Any]  # `applied_operations`


def is_tensor(scan: Any) -> bool:
    """Whether the scan is a tensor of torch, or of a library that extends it."""
    return _extends(scan, "torch", "Tensor")


def is_metatensor(scan: Any) -> bool:
    """Whether the scan is a MetaTensor of MONAI."""
    return _extends(scan, "monai.data.meta_tensor", "MetaTensor")


def _extends(scan: Any, module: str, name: str) -> bool:
    return any((one.__module__, one.__name__) == (module, name) for one in type(scan).__mro__)


def array_of(tensor: Any) -> np.ndarray:
    """The values of a tensor of torch on any device. A number type that numpy lacks becomes float32.

    Raises `UserError` for a tensor that does not hold one value per element.
    """
    if str(tensor.layout) != "torch.strided" or tensor.is_quantized or tensor.is_nested or tensor.is_meta:
        raise UserError(
            "the tensor: expected one with a value for each voxel, found one that is sparse, quantised, nested or on "
            "the device 'meta'. Convert it, for instance with to_dense() or dequantize()."
        )
    try:
        return np.asarray(tensor.numpy(force=True))
    except TypeError:  # bfloat16
        return np.asarray(tensor.float().numpy(force=True))


def single(scan: Any) -> Any:
    """The MetaTensor without its batch axis. Raises `UserError` for several scans."""
    if scan.ndim < (1 if scan.is_batch else 5):
        return scan
    if len(scan) != 1:
        raise UserError(f"{SOURCE}: a batch of {len(scan)} scans, expected one. Segment them one by one: scan[0], ...")
    return scan[0]


def values_and_affine(scan: Any) -> tuple[np.ndarray, np.ndarray]:
    """The voxels ([C,] x, y, z) of a MetaTensor from `single`, and its affine (4, 4) to RAS+ in mm.

    Raises `UserError` if its place in space is not known.
    """
    affine, meta, shape = _numbers(scan.affine), scan.meta, tuple(scan.shape)
    space = str(meta.get("space", "RAS"))
    if space not in _TO_RAS:
        raise UserError(f"{SOURCE}: its space is {space!r}, expected RAS or LPS. Turn its affine to RAS+ first.")
    if affine.shape != (4, 4):
        raise UserError(f"{SOURCE}: its affine has the shape {affine.shape}, expected (4, 4). Give it a 3D affine.")
    if _is_default(scan, affine):
        raise UserError(
            f"{SOURCE}: its affine comes from MONAI's default, the identity, so its spacing and its sides are not "
            "known. Load it with LoadImage. If its affine is right, give scan.as_tensor() with affine=scan.affine."
        )
    if len(shape) == 4 and shape[:3] == tuple(_numbers(meta.get("spatial_shape"))) != shape[1:]:
        raise UserError(
            f"{SOURCE}: found the shape {shape} with channels last, expected (C, x, y, z). Load it with "
            "ensure_channel_first=True."
        )
    return array_of(scan.as_tensor()), np.diag([*_TO_RAS[space], 1.0]) @ affine


def _is_default(scan: Any, affine: np.ndarray) -> bool:
    """Whether the affine is the identity of a MetaTensor without a place, or what transforms have made of it.

    A reader of files notes `original_affine`. Flips, turns and crops keep steps of 1 mm, and resampling notes
    `src_affine`, where it started from.
    """
    if "original_affine" in scan.meta:
        return False
    notes = [one.get("extra_info", {}) for one in scan.applied_operations if isinstance(one, dict)]
    places = [affine, *(_numbers(note.get("src_affine")) for note in notes)] if notes else []
    steps = [np.sort(np.abs(one[:3, :3]), axis=0) for one in places if one.shape == (4, 4)]
    return np.array_equal(affine, np.eye(4)) or any(np.allclose(one, [[0], [0], [1]], atol=1e-6) for one in steps)


def _numbers(values: Any) -> np.ndarray:
    """The numbers of a tensor, an array or a list; without them an empty array."""
    try:
        return np.array(values.tolist() if hasattr(values, "tolist") else values, dtype=float, ndmin=1)
    except (TypeError, ValueError):
        return np.empty(0)


def is_of_analyze(scan: Any) -> bool:
    """Whether MONAI has read the scan from an Analyze file. Its header has the size of NIfTI's, but no forms."""
    return "sizeof_hdr" in scan.meta and "sform_code" not in scan.meta


def header_of(scan: Any) -> "Nifti1Header | None":
    """The fields of the NIfTI header that MONAI has read with the scan; None if it has not read one."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    try:
        header = Nifti1Header() if int(scan.meta["sizeof_hdr"]) == Nifti1Header.sizeof_hdr else Nifti2Header()
        for field in _HEADER:
            values = _numbers(scan.meta[field])
            header[field] = values if header[field].ndim else values.item()
    except (KeyError, TypeError, ValueError):
        return None
    return header


def record_of(scan: Any) -> MonaiRecord | None:
    """A copy of what a MetaTensor knows beside its voxels; None for another scan."""
    if not is_metatensor(scan):
        return None
    one = single(scan)
    return MonaiRecord(deepcopy(dict(one.meta)), deepcopy(list(one.applied_operations)))
