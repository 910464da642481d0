"""The spacing of a plan: nnU-Net's, coarser on a CPU until the patch covers enough of a scan, or the user's.

A small patch of a large scan sees an organ too seldom: after 11 minutes on one core, patches of 5% of a head found one
of seven organs (docs/history.md).
"""

from collections.abc import Callable
from math import prod
from typing import Literal

from plans.errors import UserError
from plans.fingerprint import Fingerprint
from plans.geometry import Millimetres, Triple, millimetres
from plans.rules import numbers, target_spacing

STEP = 1.03  # nnU-Net: of its low-resolution plan
MIN_PATCH_SHARE = 0.25  # nnU-Net: a patch that covers less of the median case sees too little
MIN_TYPICAL_VOXELS = 3.0  # that a typical structure still spans after coarsening
MAX_LOSS = 0.25  # of the voxels that it spans, if it spans fewer than that from the start
MAX_CASE_VOXELS = 1e9  # of a median case, at a spacing that the user gives

WantedSpacing = Millimetres | Literal["full"] | None
"""The user's spacing in mm (D, H, W); `full`: nnU-Net's; None: nnU-Net's, or coarser on a CPU."""
Patch = Callable[[Millimetres], Triple]
"""The patch (D, H, W) that would be planned at a spacing."""


def choose_spacing(
    fingerprint: Fingerprint, wanted: WantedSpacing, patch_at: Patch, on_cpu: bool
) -> tuple[Millimetres, str]:
    """The spacing in mm (D, H, W), and the reason. `UserError` if the user's spacing does not fit the cases."""
    full, reason = target_spacing(fingerprint)
    if wanted == "full":
        return full, f"{reason}; full resolution as given with --spacing"
    if wanted is not None:
        _refuse_useless(fingerprint, wanted)
        return wanted, f"given with --spacing; the usual rule gives {numbers(full)} ({reason})"
    if not on_cpu:
        return full, reason
    return _coarsened(fingerprint, full, reason, patch_at)


def coarser(spacing: Millimetres) -> Millimetres:
    """The spacing, coarser by one step. Fine axes come first, until they are within a factor of two (nnU-Net)."""
    fine = [max(spacing) / step > 2 for step in spacing]
    grows = fine if any(fine) else [True] * 3
    return millimetres(step * STEP if grow else step for step, grow in zip(spacing, grows, strict=True))


def _coarsened(fingerprint: Fingerprint, full: Millimetres, reason: str, patch_at: Patch) -> tuple[Millimetres, str]:
    """nnU-Net's spacing, coarsened until the patch covers enough, and the reason."""
    thickness = sorted(fingerprint.thickness_mm(10).values())
    typical = thickness[(len(thickness) - 1) // 2] if thickness else float("inf")
    first = covered = _covered(fingerprint, full, patch_at)
    spacing, stop = full, f"covers {MIN_PATCH_SHARE:.0%}"
    while covered < MIN_PATCH_SHARE:
        candidate = coarser(spacing)
        if any(_loses(typical, old, new) for old, new in zip(full, candidate, strict=True) if new > old):
            voxels = min(typical / new for old, new in zip(full, candidate, strict=True) if new > old)
            stop = f"covers {covered:.1%}; at a coarser one a typical structure would span only {voxels:.2g} voxels"
            break
        spacing = candidate
        covered = _covered(fingerprint, spacing, patch_at)
    if spacing == full:
        return full, reason
    return spacing, (
        f"coarser than nnU-Net's {numbers(full)}, at which a patch for this CPU covers {first:.1%} of a median case: "
        f"here it {stop}. --spacing full keeps nnU-Net's"
    )


def _loses(typical: float, old: float, new: float) -> bool:
    """Whether a structure of `typical` mm spans too few voxels along an axis whose spacing grows from old to new."""
    return typical / new < min(MIN_TYPICAL_VOXELS, (1 - MAX_LOSS) * typical / old)


def _covered(fingerprint: Fingerprint, spacing: Millimetres, patch_at: Patch) -> float:
    """The share of a median case that a patch covers."""
    shape, patch = fingerprint.median_shape_at(spacing), patch_at(spacing)
    return prod(min(edge, size) for edge, size in zip(patch, shape, strict=True)) / prod(shape)


def _refuse_useless(fingerprint: Fingerprint, wanted: Millimetres) -> None:
    """Raise `UserError` if the median case would be a few voxels wide, or huge."""
    shape = fingerprint.median_shape_at(wanted)
    if min(shape) < 2 or prod(shape) > MAX_CASE_VOXELS:
        full, _ = target_spacing(fingerprint)
        raise UserError(
            f"--spacing {numbers(wanted)}: a median case would have {numbers(shape)} voxels. Give a spacing in mm, z y "
            f"x, nearer to that of the scans ({numbers(full)})."
        )
