"""Which grids a scan may have: axes at right angles, and spacings that can be millimetres."""

import numpy as np

from plans.errors import UserError

ROUNDED_SHEAR = 1e-4  # cosine between two axes; numbers of single precision leave as much
# Cosine between two axes, 0.6 degrees. A scan of 500 mm that is straightened around its middle moves by 2 mm at most.
# That is about a slice. Rounding and registration leave a tenth of it. A tilted gantry has ten times as much.
MAX_SHEAR = 0.01
MIN_SPACING_MM, MAX_SPACING_MM = 0.01, 100.0
STRAIGHTENED = "Its axes are not quite at right angles. It was read with the nearest right angles."


def straighten(affine: np.ndarray, shape: tuple[int, ...], source: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """`affine` (4, 4) with its axes at right angles, and notes for the user.

    The nearest rotation (polar decomposition) replaces a slight shear. Spacings and the middle of the grid stay.
    `source` names the scan. Raises `UserError` for a larger shear, and for spacings that cannot be in mm.
    """
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or lengths.min() <= 0:
        raise UserError(f"{source}: its axes do not place it: one has no length, or is not a number. Write them anew.")
    refuse_spacing(lengths, source)
    axes = affine[:3, :3] / lengths
    shear = float(np.abs(axes.T @ axes - np.eye(3)).max())
    if shear <= ROUNDED_SHEAR:
        return affine, ()
    if shear > MAX_SHEAR:
        raise UserError(
            f"{source}: its axes are {shear:.1%} off right angles, expected at most {MAX_SHEAR:.0%}. Resample it to "
            "a grid with right angles, for instance with nibabel.processing.resample_to_output."
        )
    left, _, right = np.linalg.svd(axes)
    straight, middle = affine.copy(), (np.array(shape) - 1) / 2
    straight[:3, :3] = left @ right * lengths
    straight[:3, 3] = affine[:3, 3] + (affine[:3, :3] - straight[:3, :3]) @ middle
    return straight, (STRAIGHTENED,)


def refuse_spacing(spacing: np.ndarray, source: str) -> None:
    """Raise `UserError` where a spacing cannot be in mm; `source` names the scan."""
    if np.min(spacing) >= MIN_SPACING_MM and np.max(spacing) <= MAX_SPACING_MM:
        return
    raise UserError(
        f"{source}: its spacing is {'/'.join(f'{step:.4g}' for step in spacing)} mm, expected {MIN_SPACING_MM:g} to "
        f"{MAX_SPACING_MM:g} mm. Convert another unit, such as metres: write the spacing in mm."
    )
