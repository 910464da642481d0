"""An estimate of the host memory to predict a scan, which is reported before the prediction starts."""

from collections.abc import Iterable
from math import prod

import numpy as np

from plans.geometry import Triple, millimetres, resampled_shape, triple
from plans.memory import GB, network_of, parameters, prediction_bytes, ram_bytes
from plans.plan import Plan
from textdiffseg.folds.sampling import ALTERNATIVE_SAMPLES, Settings
from textdiffseg.imaging.volume import Geometry, orientation_of
from textdiffseg.inference.alternatives import class_type, samples_at_once
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
    alternatives: bool = False,
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
        alternatives: the masks of the samples are kept for alternatives.
    """
    slots = len(plan.labels) if slots is None else slots
    channels, network = len(plan.channels), network_of(plan)
    tiling = tile(shape, plan.patch, plan.latent_stride, settings.overlap)
    classes, window = 1 + slots, 4.0 * prod(plan.patch)
    reading = 4.0 * channels * (3 * prod(original_shape) + 2 * prod(shape))
    noise = 4.0 * settings.samples * plan.latent.channels * prod(tiling.latent_shape)
    maps = (3 if uncertainty else 0) * 4.0 * (prod(tiling.padded) + prod(original_shape))
    samples = window * classes * (2 * settings.samples + folds)
    kept = _kept_bytes(1 + slots, prod(tiling.padded), prod(original_shape)) if alternatives else 0.0
    padding = 4.0 * channels * prod(tiling.padded)  # the padded image is a copy
    predicting = ram_bytes(channels, slots, tiling.padded, original_shape) + padding + noise + maps + samples + kept
    models = 4.0 * parameters(network) * (folds - 1) + prediction_bytes(network, plan.patch, "cpu" if on_cpu else "gpu")
    return (max(reading, predicting) + models + LIBRARIES_BYTES) / GB


def _kept_bytes(classes: int, voxels: int, original_voxels: int) -> float:
    """The bytes of the masks of all samples, and of the probabilities of those that are drawn at once."""
    sums = 4.0 * classes * voxels * (samples_at_once(classes, voxels) - 1)
    return sums + ALTERNATIVE_SAMPLES * np.dtype(class_type(classes)).itemsize * original_voxels


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
    alternatives: bool = False,
) -> float:
    """The largest estimate in GB over scans, by their headers. Without any readable header: the plan's estimate."""
    estimates = []
    for geometry in geometries:
        if geometry is None:
            continue
        on_plan = shape_on_plan(geometry, plan)
        if on_plan is None:
            continue
        shapes = (on_plan, geometry.shape)
        estimates.append(
            prediction_ram_gb(plan, settings, folds, *shapes, slots, uncertainty, on_cpu, alternatives=alternatives)
        )
    return max(estimates, default=plan.memory.ram_gb)
