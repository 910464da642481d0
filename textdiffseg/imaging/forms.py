"""The sform and the qform of a NIfTI header, and the rule that chooses one of them.

The rule is nibabel's: the sform if its code is not 0, else the qform, else the spacing alone. The spacing does not
define left and right, so a note reports it.
"""

from typing import TYPE_CHECKING

import numpy as np

from plans.errors import UserError
from plans.records import Record
from textdiffseg.imaging.grids import straighten

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header

DISAGREE = "Its sform and qform place it differently. The sform was used."
NO_SFORM = "Its sform cannot be used. The qform was used."
NO_QFORM = "Its qform cannot be used. The sform was used."
OTHER_SPACING = "Its pixdim and its sform give different spacings. The sform was used."
GUESSED = (
    "Its header has neither sform nor qform. The orientation of old Analyze files was assumed, so left and right may "
    "be exchanged."
)
ANALYZE = (
    "{source} is an Analyze image, in which left and right are not defined. Convert it to NIfTI with a program that "
    "knows its orientation."
)
_MAX_DISTANCE_VOXELS = 0.5  # between sform and qform; below it both have the same nearest voxels
_MAX_ROUNDING = 1e-5  # relative, of the lengths of an sform's columns; pixdim is exact
_CODES = range(1, 6)  # NIfTI defines these; nibabel does not use a form with another code
_MAX_SPACING_ERROR = 0.01  # relative, between pixdim and the sform's columns; both may be rounded
_UNITS = {1: 1000.0, 2: 1.0, 3: 0.001}  # NIfTI's code -> mm
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # between the axes of NIfTI and ours; also from LPS to RAS

Four = tuple[float, float, float, float]


class NiftiForms(Record):
    """The unchanged fields of a NIfTI header that place a scan. A form that cannot be used has code 0."""

    sform_code: int
    sform: tuple[Four, Four, Four]  # rows srow_x, srow_y, srow_z
    qform_code: int
    quaternion: tuple[float, float, float]  # b, c, d
    offset: tuple[float, float, float]
    pixdim: Four  # qfac and the spacing along i, j, k
    units: int = 2  # NIfTI's code of the unit of length; 2: mm

    @classmethod
    def of(cls, affine: np.ndarray) -> "NiftiForms":
        """Both forms of a grid. affine (4, 4): an index (i, j, k, 1) to world LPS in mm."""
        from nibabel.nifti1 import Nifti1Header

        header, ras = Nifti1Header(), RAS_TO_LPS @ affine
        header.set_qform(ras, code=1)
        header.set_sform(ras, code=1)
        return _forms(header, sform=True, qform=True, chosen=ras)

    @property
    def is_placed(self) -> bool:
        """Whether a form places the scan. Otherwise its orientation was assumed."""
        return self.sform_code > 0 or self.qform_code > 0

    @property
    def affine(self) -> np.ndarray:
        """(4, 4): an index (i, j, k, 1) to world LPS in mm, as written in the file. Without a form: its origin is 0."""
        from nibabel.nifti1 import Nifti1Header

        header = Nifti1Header()
        header["dim"][:4] = 3, 1, 1, 1
        self.write_into(header)
        chosen = next((form for form in (_sform(header), _qform(header)) if form is not None), None)
        affine = RAS_TO_LPS @ (header.get_base_affine() if chosen is None else chosen)
        affine[:3] *= _UNITS.get(self.units, 1.0)
        return affine

    def write_into(self, header: "Nifti1Header") -> None:
        """Set these fields in a header."""
        header["sform_code"], header["qform_code"] = self.sform_code, self.qform_code
        for row, values in zip(("srow_x", "srow_y", "srow_z"), self.sform, strict=True):
            header[row] = values
        for letter, value in zip("bcd", self.quaternion, strict=True):
            header[f"quatern_{letter}"] = value
        for letter, value in zip("xyz", self.offset, strict=True):
            header[f"qoffset_{letter}"] = value
        header["pixdim"][:4] = self.pixdim
        header["xyzt_units"] = self.units


def affine_of_header(
    header: "Nifti1Header", shape: tuple[int, int, int], source: str
) -> tuple[np.ndarray, NiftiForms, tuple[str, ...]]:
    """The affine of a header, its forms, and notes for the user.

    The affine (4, 4) maps an index (i, j, k, 1) to world LPS in mm.

    Args:
        header: of a NIfTI file.
        shape: in voxels along (i, j, k).
        source: the scan's name in messages.

    Raises:
        UserError: the header does not place the scan.
    """
    sform, qform = _sform(header), _qform(header)
    pixdim = np.array(header["pixdim"][1:4], dtype=float)
    codes = (int(header["sform_code"]), int(header["qform_code"]))
    notes = []
    if sform is not None:
        chosen = sform
        if qform is not None and _apart(sform, qform, shape) > _MAX_DISTANCE_VOXELS:
            notes.append(DISAGREE)
        elif qform is None and codes[1]:
            notes.append(NO_QFORM)
        if qform is None and _is_other_spacing(sform, pixdim):
            notes.append(OTHER_SPACING)
    elif qform is not None:
        chosen = qform
        if codes[0]:
            notes.append(NO_SFORM)
    elif not any(code in _CODES for code in codes):
        if not np.isfinite(pixdim).all() or pixdim.min() <= 0:
            raise UserError(
                f"{source}: its header has no spacing (pixdim {'/'.join(f'{step:g}' for step in pixdim)}) and neither "
                "sform nor qform. Write the spacing and the orientation into it."
            )
        chosen = np.array(header.get_base_affine(), dtype=float)
        notes.append(GUESSED)
    else:
        raise UserError(
            f"{source}: neither the sform nor the qform of its header can be used: their numbers do not give three "
            "axes. Write one of them anew."
        )
    affine = _exact(chosen, pixdim)
    affine[:3] *= _UNITS.get(int(header["xyzt_units"]) & 7, 1.0)
    affine, straightened = straighten(RAS_TO_LPS @ affine, shape, source)
    return affine, _forms(header, sform is not None, qform is not None, chosen), (*notes, *straightened)


def _sform(header: "Nifti1Header") -> np.ndarray | None:
    affine = np.array(header.get_sform(), dtype=float)
    return affine if int(header["sform_code"]) in _CODES and _usable(affine) else None


def _qform(header: "Nifti1Header") -> np.ndarray | None:
    if int(header["qform_code"]) not in _CODES:
        return None
    header = header.copy()
    if header["pixdim"][0] == 0:  # the standard: taken as 1
        header["pixdim"][0] = 1
    try:
        affine = np.array(header.get_qform(), dtype=float)
    except (ValueError, ArithmeticError, _header_error()):
        return None
    return affine if _usable(affine) else None


def _header_error() -> type[Exception]:
    from nibabel.spatialimages import HeaderDataError

    return HeaderDataError


def _usable(affine: np.ndarray) -> bool:
    if not np.isfinite(affine).all():
        return False
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    return bool(lengths.min() > 0 and abs(np.linalg.det(affine[:3, :3] / lengths)) > 1e-3)


def _is_other_spacing(affine: np.ndarray, pixdim: np.ndarray) -> bool:
    """Whether pixdim holds spacings that are not those of the affine's columns."""
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    return bool(
        np.isfinite(pixdim).all()
        and pixdim.min() > 0
        and (np.abs(pixdim - lengths) > _MAX_SPACING_ERROR * lengths).any()
    )


def _apart(first: np.ndarray, second: np.ndarray, shape: tuple[int, int, int]) -> float:
    """The largest distance between the corners of two grids, in voxels of the first."""
    corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)], dtype=float)
    corners[:, :3] *= np.array(shape) - 1
    return float(np.abs(np.linalg.solve(first, (second - first) @ corners.T)[:3]).max())


def _exact(affine: np.ndarray, pixdim: np.ndarray) -> np.ndarray:
    """The affine with the exact spacings of `pixdim`, if they are equal up to rounding."""
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    same = np.abs(pixdim - lengths) <= _MAX_ROUNDING * lengths
    exact = affine.copy()
    exact[:3, :3] *= np.where(same, pixdim / lengths, 1.0)
    return exact


def _forms(header: "Nifti1Header", sform: bool, qform: bool, chosen: np.ndarray) -> NiftiForms:
    """The forms of a header. Numbers that are not finite belong to an unused form and become 0."""

    def numbers(*fields: str) -> tuple[float, ...]:
        values = np.array([header[field] for field in fields], dtype=float).ravel()
        return tuple(np.where(np.isfinite(values), values, 0.0).tolist())

    pixdim = np.array(header["pixdim"][:4], dtype=float)
    if not np.isfinite(pixdim).all() or pixdim[1:].min() <= 0:
        pixdim = np.array([1.0, *np.linalg.norm(chosen[:3, :3], axis=0)])
    return NiftiForms(
        sform_code=int(header["sform_code"]) if sform else 0,
        sform=tuple(numbers(row) for row in ("srow_x", "srow_y", "srow_z")),
        qform_code=int(header["qform_code"]) if qform else 0,
        quaternion=numbers("quatern_b", "quatern_c", "quatern_d"),
        offset=numbers("qoffset_x", "qoffset_y", "qoffset_z"),
        pixdim=tuple(pixdim.tolist()),
        units=int(header["xyzt_units"]) & 7 or 2,
    )
