"""The spacing of a plan: nnU-Net's, coarser on a CPU until the patch covers enough of a scan, or the user's.

A small patch of a large scan sees an organ too seldom: after 11 minutes on one core, patches of 5% of a head found one
of seven organs.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from math import prod
from typing import Literal

from plans.errors import UserError
from plans.fingerprint import Fingerprint
from plans.geometry import AXIS_NAMES, MAX_STEP_MM, Millimetres, Triple, millimetres
from plans.plan import Plan
from plans.planning.rules import median_label, sizes_text, target_spacing

STEP = 1.03  # nnU-Net: of its low-resolution plan
MIN_PATCH_SHARE = 0.25  # nnU-Net: a patch that covers less of the median case sees too little
MIN_TYPICAL_VOXELS = 3.0  # that a typical structure still spans after coarsening
MAX_LOSS = 0.25  # of a thinner structure: it may lose this share of the voxels that it spans
MAX_CASE_VOXELS = 1e9  # of a median case, at a spacing that the user gives
MIN_STEP_MM = 1e-6  # of the user's spacing
SPACING_ROW = "spacing (mm)"  # of the table of reasons
GIVEN = "given with --spacing"  # in the reason there

WantedSpacing = Millimetres | Literal["full"] | None
"""The user's spacing in mm (D, H, W); `full`: nnU-Net's; None: nnU-Net's, or coarser on a CPU."""
Patch = Callable[[Millimetres], Triple]
"""The patch (D, H, W) that would be planned at a spacing."""


def checked_spacing(given: Iterable[float] | str | None) -> WantedSpacing:
    """A spacing as a user may give it: three lengths in mm (D, H, W), `full` or None. Anything else: `UserError`."""
    if given is None:
        return None
    if isinstance(given, str):
        if given == "full":
            return "full"
    else:
        with suppress(TypeError, ValueError):
            lengths = millimetres(float(length) for length in given)
            if all(MIN_STEP_MM <= length <= MAX_STEP_MM for length in lengths):
                return lengths
    raise UserError(
        f"spacing: expected three lengths in mm, z y x, from {MIN_STEP_MM:g} to {MAX_STEP_MM:g}, or the word full; "
        f"found {given!r}."
    )


def as_option(spacing: Millimetres) -> str:
    """The spacing as a value of --spacing, without rounding."""
    return " ".join(map(repr, spacing))


def choose_spacing(
    fingerprint: Fingerprint, wanted: WantedSpacing, patch_at: Patch, on_cpu: bool
) -> tuple[Millimetres, str]:
    """The spacing in mm (D, H, W), and the reason. `UserError` if the user's spacing does not fit the cases."""
    full, reason = target_spacing(fingerprint)
    if wanted == "full":
        return full, f"{reason}; nnU-Net's, as {GIVEN}"
    if wanted is not None:
        _refuse_useless(fingerprint, wanted, full)
        return wanted, f"{GIVEN}; nnU-Net's is {sizes_text(full)} ({reason})"
    if not on_cpu:
        return full, reason
    return _coarsened(fingerprint, full, reason, patch_at)


def given_spacing(plan: Plan) -> WantedSpacing:
    """The spacing that the user gave for a plan, by its reason; None: the user gave none."""
    reason = next((row.reason for row in plan.reasons if row.name == SPACING_ROW), "")
    return plan.spacing if reason.startswith(GIVEN) else "full" if GIVEN in reason else None


def coarser(spacing: Millimetres) -> Millimetres:
    """The spacing, coarser by one step. Fine axes come first, until they are within a factor of two (nnU-Net)."""
    fine = [max(spacing) / step > 2 for step in spacing]
    grows = fine if any(fine) else [True] * 3
    return millimetres(step * STEP if grow else step for step, grow in zip(spacing, grows, strict=True))


def _coarsened(fingerprint: Fingerprint, full: Millimetres, reason: str, patch_at: Patch) -> tuple[Millimetres, str]:
    """nnU-Net's spacing, coarsened until the patch covers enough, and the reason."""
    typical = _typical_mm(fingerprint)
    first = covered = _covered(fingerprint, full, patch_at)
    if first >= MIN_PATCH_SHARE:
        return full, reason
    spacing, limit = full, None
    while covered < MIN_PATCH_SHARE:
        candidate = coarser(spacing)
        limit = _limit(typical, full, candidate)
        if limit:
            break
        spacing, covered = candidate, _covered(fingerprint, candidate, patch_at)
    return spacing, (
        f"coarser than nnU-Net's {sizes_text(full)}, at which a patch of preset default covers {first:.1%} of a median "
        f"case; here it covers {covered:.1%}" + (f", but {limit}" if limit else f" (at least {MIN_PATCH_SHARE:.0%})")
    ) + ". --spacing full keeps nnU-Net's"


def _typical_mm(fingerprint: Fingerprint) -> float:
    """The median thickness over labels, in mm. Without labels: infinite."""
    thickness = fingerprint.thickness_mm()
    label = median_label(thickness)
    return float("inf") if label is None else thickness[label]


def _limit(typical: float, full: Millimetres, candidate: Millimetres) -> str | None:
    """Why a candidate spacing is too coarse for a structure of `typical` mm; None: it is not."""
    for name, old, new in zip(AXIS_NAMES, full, candidate, strict=True):
        needed = min(MIN_TYPICAL_VOXELS, (1 - MAX_LOSS) * typical / old)
        if new > old and typical / new < needed:
            return (
                f"at a coarser one a typical structure ({typical:.4g} mm) would span fewer than {needed:.3g} voxels "
                f"along axis {name}"
            )
    return None


def _covered(fingerprint: Fingerprint, spacing: Millimetres, patch_at: Patch) -> float:
    """The share of a median case that a patch covers."""
    shape, patch = fingerprint.median_shape_at(spacing), patch_at(spacing)
    return prod(min(edge, size) for edge, size in zip(patch, shape, strict=True)) / prod(shape)


def _refuse_useless(fingerprint: Fingerprint, wanted: Millimetres, full: Millimetres) -> None:
    """Raise `UserError` if a median case would be huge, or if it or a typical structure would vanish."""
    shape = fingerprint.median_shape_at(wanted)
    typical = _typical_mm(fingerprint)
    fault = None
    if min(shape) < 2 or prod(shape) > MAX_CASE_VOXELS:
        fault = f"a median case would have {sizes_text(shape)} voxels"
    elif any(new > max(old, typical) for old, new in zip(full, wanted, strict=True)):
        fault = f"a typical structure measures {typical:.3g} mm, less than one voxel"
    if fault:
        raise UserError(
            f"--spacing {sizes_text(wanted)}: {fault}. Give three lengths in mm (z y x) nearer to nnU-Net's "
            f"{sizes_text(full)}, or the word full."
        )
