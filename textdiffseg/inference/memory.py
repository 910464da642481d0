"""An estimate of the host memory to predict a scan. A scan that cannot fit is refused before it is read."""

from math import prod

import numpy as np
import torch

from plans.errors import UserError
from plans.geometry import Triple, millimetres, resampled_shape, triple
from plans.plan import Plan
from plans.planning.memory import (
    GB,
    LIBRARIES_BYTES,
    Device,
    network_of,
    parameters,
    prediction_bytes,
    ram_bytes,
    reading_bytes,
    sums_bytes,
)
from textdiffseg.folds.sampling import ALTERNATIVE_SAMPLES, Settings
from textdiffseg.imaging.volume import Geometry, orientation_of
from textdiffseg.inference.alternatives import class_type, samples_at_once
from textdiffseg.inference.room import windows_at_once
from textdiffseg.inference.segmenting import Segmenting
from textdiffseg.inference.tiling import tile
from textdiffseg.preprocessing.case import MAX_VOXELS
from textdiffseg.resources import free_memory, own_memory

LEAST_CROPPED = 0.75  # of each axis: the body fills 43% of a CT's volume or more

NO_MEMORY = (
    "the memory of the machine or of its GPU is full. Close other programs, query fewer labels (--prompt), use fewer "
    "--samples or --folds, or predict with --device cpu."
)


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

    It is the larger of two peaks: to read and resample the scan, and to predict and restore it slab by slab. Maps are
    in files; one at a time is restored when they are written.

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
    classes, voxels, window = 1 + slots, tiling.slab_voxels, 4.0 * prod(plan.patch)
    drawn = 2 * samples_at_once(classes, voxels) if alternatives else settings.samples  # alternatives also keep r
    noise = 4.0 * drawn * plan.latent.channels * prod(tiling.latent_shape) if settings.steps else 0.0
    maps = 2 * 4.0 * voxels if uncertainty else 0.0
    several = settings.samples - 1 + (folds if folds > 1 else 0)  # beyond one sample of one fold
    together = windows_at_once(plan, torch.device("cpu"))
    samples = together * window * classes * several
    kept = _kept_bytes(classes, voxels, prod(original_shape)) if alternatives else 0.0
    padding = 4.0 * channels * prod(tiling.padded) if tiling.padded != shape else 0.0  # the padded image is a copy
    predicting = ram_bytes(channels, slots, plan.patch, tiling.padded, original_shape)
    predicting += padding + noise + maps + samples + kept
    device: Device = "cpu" if on_cpu else "gpu"
    at_once = together if on_cpu else 0  # windows of a GPU are not in host memory
    models = 4.0 * parameters(network) * (folds - 1) + prediction_bytes(network, plan.patch, device, at_once)
    # On a GPU, the next scan waits while another one is read (`textdiffseg.ahead`).
    ahead = 0.0 if on_cpu else 4.0 * channels * prod(shape)
    reading = reading_bytes(channels, shape, original_shape)
    peak = max(reading, predicting) if on_cpu else reading + predicting
    return (peak + ahead + models + LIBRARIES_BYTES) / GB


def _kept_bytes(classes: int, voxels: int, original_voxels: int) -> float:
    """The bytes of the masks of all samples, and of the sums of those that are drawn at once."""
    sums = sums_bytes(classes, voxels) * (samples_at_once(classes, voxels) - 1)
    return sums + ALTERNATIVE_SAMPLES * np.dtype(class_type(classes)).itemsize * original_voxels


def scan_ram_gb(segmenting: Segmenting, geometry: Geometry, shape: Triple | None = None) -> float | None:
    """The estimate in GB for a scan with this header. None: the scan is too large to be predicted.

    `shape`: of the cropped scan on the plan's grid; None: nothing is cropped.
    """
    plan = segmenting.plan
    shape = shape or shape_on_plan(geometry, plan)
    if shape is None:
        return None
    drawn = None if segmenting.choice is None else segmenting.choice.predictor
    samples = None if segmenting.samples is None else segmenting.samples.predictor
    guide = 0.0  # its networks; its windows are far fewer
    if segmenting.guide is not None:
        guide = 4.0 * parameters(network_of(segmenting.guide.plan)) * len(segmenting.guide.masks.predictor.networks)
    return guide / GB + max(
        prediction_ram_gb(
            plan,
            one.settings,
            len(one.networks),
            shape,
            geometry.shape,
            slots=segmenting.selection.queries.labels.shape[1],  # rivals included
            uncertainty=one is samples,
            on_cpu=one.device.type == "cpu",
            alternatives=one is drawn,
        )
        for one in (segmenting.masks.predictor, samples, drawn)
        if one is not None
    )


def refuse_too_large(segmenting: Segmenting, geometry: Geometry | None, shape: Triple | None = None) -> None:
    """Raise `UserError` if a scan with this header needs more memory than there is. None: the header is not known.

    What this process holds already, e.g. the models, counts as free: the estimate includes it. Before a scan is read
    (`shape` is None), the crop is assumed to leave `LEAST_CROPPED` of each axis.
    """
    whole = None if geometry is None else shape_on_plan(geometry, segmenting.plan)
    if geometry is None or whole is None:
        return
    if shape is None:
        share = 1.0 if segmenting.plan.crop == "none" else LEAST_CROPPED
        shape = triple(max(1, int(share * size)) for size in whole)
    need, free = scan_ram_gb(segmenting, geometry, shape), (free_memory() + own_memory()) / GB
    if need is None or need <= free:
        return
    masks = segmenting.masks.predictor
    ways = {
        "close other programs": True,
        "query fewer labels (--prompt)": len(segmenting.selection.names) > 1,
        "use fewer --samples": masks.settings.samples > 1,
        "leave out --alternatives": segmenting.choice is not None,
        "use fewer --folds": len(masks.networks) > 1,
    }
    advice = ", ".join(way for way, helps in ways.items() if helps)
    raise UserError(
        f"its prediction needs about {need:.1f} GB of memory, and {free:.1f} GB are free. To make room, {advice}, or "
        "take a larger machine."
    )


def shape_on_plan(geometry: Geometry, plan: Plan) -> Triple | None:
    """The shape of a scan on the plan's grid, by its header. None: the scan is too large to be predicted."""
    axes = orientation_of(geometry).permutation
    shape = triple(geometry.shape[axis] for axis in axes)
    spacing = millimetres(geometry.spacing[axis] for axis in axes)
    on_plan = resampled_shape(shape, spacing, plan.spacing)
    return on_plan if prod(on_plan) <= MAX_VOXELS else None
