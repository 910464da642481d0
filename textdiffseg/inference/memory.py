"""An estimate of the host memory to predict a scan, which is reported before the prediction starts."""

from collections.abc import Iterable
from math import prod

from plans.geometry import Triple, millimetres, resampled_shape, triple
from plans.memory import GB, network_of, parameters, prediction_bytes, ram_bytes
from plans.plan import Plan
from textdiffseg.folds.sampling import Settings
from textdiffseg.imaging.volume import Geometry, orientation_of
from textdiffseg.inference.tiling import tile
from textdiffseg.preprocessing.case import MAX_VOXELS

LIBRARIES_BYTES = 0.15 * GB  # numpy, SimpleITK and others, without torch


def prediction_ram_gb(
    plan: Plan,
    settings: Settings,
    folds: int,
    shape: Triple,
    original_shape: Triple,
    slots: int | None = None,
    uncertainty: bool = False,
    on_cpu: bool = True,
) -> float:
    """The peak RAM in GB to predict a scan.

    It is the larger of two peaks: to read and resample the scan, and to predict and restore it.

    Args:
        plan: of the model.
        settings: of the sampling.
        folds: the number of folds.
        shape: of the scan on the plan's grid, in voxels (D, H, W).
        original_shape: of the scan on the file's grid, in voxels.
        slots: the number of answers and rivals; None: all labels.
        uncertainty: predict maps of uncertainty, too.
        on_cpu: the networks run on the CPU.
    """
    slots = len(plan.labels) if slots is None else slots
    channels, network = len(plan.channels), network_of(plan)
    tiling = tile(shape, plan.patch, plan.latent_stride, settings.overlap)
    classes, window = 1 + slots, 4.0 * prod(plan.patch)
    reading = 4.0 * channels * (3 * prod(original_shape) + 2 * prod(shape))
    noise = 4.0 * settings.samples * plan.latent.channels * prod(tiling.latent_shape)
    maps = (3 if uncertainty else 0) * 4.0 * (prod(tiling.padded) + prod(original_shape))
    samples = window * classes * (2 * settings.samples + folds)
    padding = 4.0 * channels * prod(tiling.padded)  # the padded image is a copy
    predicting = ram_bytes(channels, slots, tiling.padded, original_shape) + padding + noise + maps + samples
    models = 4.0 * parameters(network) * (folds - 1) + prediction_bytes(network, plan.patch, "cpu" if on_cpu else "gpu")
    return (max(reading, predicting) + models + LIBRARIES_BYTES) / GB


def shape_on_plan(geometry: Geometry, plan: Plan) -> Triple | None:
    """The shape of a scan on the plan's grid, by its header. None: the scan is too large to be predicted."""
    axes = orientation_of(geometry).permutation
    shape = triple(geometry.shape[axis] for axis in axes)
    spacing = millimetres(geometry.spacing[axis] for axis in axes)
    on_plan = resampled_shape(shape, spacing, plan.spacing)
    return on_plan if prod(on_plan) <= MAX_VOXELS else None


def largest_ram_gb(
    plan: Plan,
    settings: Settings,
    folds: int,
    geometries: Iterable[Geometry | None],
    slots: int | None = None,
    uncertainty: bool = False,
    on_cpu: bool = True,
) -> float:
    """The largest estimate in GB over scans, by their headers. Without any readable header: the plan's estimate."""
    estimates = []
    for geometry in geometries:
        if geometry is None:
            continue
        on_plan = shape_on_plan(geometry, plan)
        if on_plan is None:
            continue
        estimates.append(prediction_ram_gb(plan, settings, folds, on_plan, geometry.shape, slots, uncertainty, on_cpu))
    return max(estimates, default=plan.memory.ram_gb)
