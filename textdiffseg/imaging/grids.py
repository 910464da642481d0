"""The rules for a scan's grid: its axes are at right angles, and its spacings and origin are plausible in mm."""

import numpy as np

from plans.errors import UserError

MAX_ROUNDING_SHEAR = 1e-4  # cosine between two axes; single precision causes as much
# Cosine between two axes; 0.6 degrees. Straightening moves the voxels of a 500 mm scan by at most 2 mm, about a slice.
# Rounding and registration cause a tenth of this shear, a tilted gantry ten times as much.
MAX_SHEAR = 0.01
MIN_SPACING_MM, MAX_SPACING_MM = 0.005, 100.0  # micro-CT; metres without their unit are below 0.005
MAX_ORIGIN_MM = 1e5  # of each coordinate; NIfTI's single precision places a voxel there to 0.01 mm
ROUNDING = 1e-3  # of a spacing that a header stores in single precision
STRAIGHTENED = "Its axes are not exactly at right angles. It was read with the nearest right angles."


def straighten(affine: np.ndarray, shape: tuple[int, ...], source: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """The affine (4, 4) with its axes at right angles, and notes for the user.

    The nearest rotation (polar decomposition) replaces a slight shear. Spacings and the middle of the grid stay.
    `source` is the scan's name in messages. Raises `UserError` for a larger shear, and for an implausible spacing or
    origin.
    """
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine[:3, :3]).all() or lengths.min() <= 0:
        raise UserError(f"{source}: one of its axes has no length or is not a number. Write correct axes into it.")
    refuse_spacing(lengths, source)
    refuse_origin(affine[:3, 3], source)
    axes = affine[:3, :3] / lengths
    shear = float(np.abs(axes.T @ axes - np.eye(3)).max())
    if shear <= MAX_ROUNDING_SHEAR:
        return affine, ()
    if shear > MAX_SHEAR:
        raise UserError(
            f"{source}: its axes deviate from right angles by {shear:.1%}, expected at most {MAX_SHEAR:.0%}. Resample "
            "it to a grid with right angles, for instance with nibabel.processing.resample_to_output."
        )
    left, _, right = np.linalg.svd(axes)
    straight, middle = affine.copy(), (np.array(shape) - 1) / 2
    straight[:3, :3] = left @ right * lengths
    straight[:3, 3] = affine[:3, 3] + (affine[:3, :3] - straight[:3, :3]) @ middle
    return straight, (STRAIGHTENED,)


def refuse_spacing(spacing: np.ndarray, source: str) -> None:
    """Raise `UserError` for a spacing that is implausible in mm. `source` is the scan's name in messages."""
    if np.min(spacing) >= MIN_SPACING_MM * (1 - ROUNDING) and np.max(spacing) <= MAX_SPACING_MM * (1 + ROUNDING):
        return
    raise UserError(
        f"{source}: its spacing is {'/'.join(f'{step:.4g}' for step in spacing)} mm, expected {MIN_SPACING_MM:g} to "
        f"{MAX_SPACING_MM:g} mm. If it is in another unit, such as metres, write it in mm."
    )


def refuse_origin(origin: np.ndarray, source: str) -> None:
    """Raise `UserError` for an origin that is implausible in mm. `source` is the scan's name in messages."""
    if np.isfinite(origin).all() and np.abs(origin).max() <= MAX_ORIGIN_MM:
        return
    raise UserError(
        f"{source}: its origin is {'/'.join(f'{place:.4g}' for place in origin)} mm, expected numbers of at most "
        f"{MAX_ORIGIN_MM:.0f}. Write the place of its first voxel into it."
    )
