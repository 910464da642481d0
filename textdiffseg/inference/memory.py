"""An estimate of the host memory to predict a scan. A scan that does not fit is refused.

Before a scan is read, its crop is not known. What a crop leaves at least must then fit (`MIN_CROPPED`). After it is
read, the crop is known, and the estimate is checked again before the scan is resampled.
"""

from dataclasses import dataclass
from math import prod

import numpy as np
import torch

from plans.errors import UserError
from plans.geometry import Triple, millimetres, resampled_shape, triple
from plans.plan import Crop, Plan
from plans.planning.memory import GB, Device, network_of, parameters, prediction_bytes
from plans.planning.scan_memory import LIBRARIES_BYTES, ram_bytes, reading_bytes, sums_bytes
from textdiffseg.folds.sampling import ALTERNATIVE_SAMPLES, PredictionSettings
from textdiffseg.imaging.volume import Geometry, orientation_of
from textdiffseg.inference.alternatives import class_type, samples_at_once
from textdiffseg.inference.predictor import Predictor
from textdiffseg.inference.room import windows_at_once
from textdiffseg.inference.segmenting import PreparedModel
from textdiffseg.inference.tiling import Tiling, tile
from textdiffseg.preprocessing.case import MAX_VOXELS
from textdiffseg.resources import free_memory, own_memory

# The share of each axis that a crop leaves at least: the body fills 43% of a CT's volume or more, .75^3. A crop to
# nonzero voxels may leave less, as in images of a head without its skull.
MIN_CROPPED: dict[Crop, float] = {"none": 1.0, "body": 0.75, "nonzero": 0.5}
MIN_VALUE_BYTES = 2  # of most scans in files. Others are read as float32, which is not known before
UNCERTAINTY_MAPS = 3
# The bytes of a restored map for a voxel inside the crop, and for one of the file's grid: float32, turned copies, file.
OF_MAP, MAP_COPIES = 4.0, 12.0
OF_SAMPLE = 3  # tensors of all classes of a window, more than for its mask, while a sample is drawn
CPU_LIBRARIES_BYTES = 0.06 * GB  # of a prediction on the CPU, without torch; `LIBRARIES_BYTES` where there is a GPU
SCANS_AHEAD = 2  # on a GPU, beside the one that is segmented: one waits, one is written (`textdiffseg.ahead`)


@dataclass(frozen=True)
class Kept:
    """What a caller keeps in memory while a scan is segmented."""

    scan: bool = False  # the scan as it was read, for a picture
    maps: bool = False  # maps of probabilities and uncertainty, if they are requested; False: they are in files


NOTHING_KEPT = Kept()


def no_memory(device: str) -> str:
    """The error of a scan for which the memory ran out, on "cpu" or "cuda"."""
    full, last = ("the machine", "take a larger machine")
    if device != "cpu":
        full, last = "the machine or of its GPU", "predict with --device cpu"
    return (
        f"the memory of {full} is full. Close other programs, query fewer labels (--prompt), use fewer --samples or "
        f"--folds, or {last}."
    )


def prediction_ram_gb(
    plan: Plan,
    settings: PredictionSettings,
    folds: int,
    shape: Triple,
    original_shape: Triple,
    slots: int | None = None,
    uncertainty: bool = False,
    on_cpu: bool = True,
    alternatives: bool = False,
    kept_bytes: float = 0.0,
    cropped_shape: Triple | None = None,
    value_bytes: int = 4,
    written_maps: bool = False,
) -> float:
    """The peak RAM in GB to predict a scan.

    It is the larger of two peaks: to read and resample the scan, and to predict and restore it slab by slab. Maps are
    in files; one at a time is restored when they are written.

    Args:
        plan: of the model.
        settings: of the sampling.
        folds: the number of folds.
        shape: of the scan on the plan's grid, in voxels (D, H, W).
        original_shape: of the scan on the file's grid, in voxels, with the same axes.
        slots: the number of answers and rivals; None: all labels.
        uncertainty, alternatives: predict maps of uncertainty, too; keep the masks of the samples for alternatives.
        on_cpu: the networks run on the CPU.
        kept_bytes: what the caller keeps while the scan is segmented.
        cropped_shape: what the crop leaves of `original_shape`; None: all.
        value_bytes: of a value of the scan as it was read.
        written_maps: maps of probabilities or uncertainty are written.
    """
    slots = len(plan.labels) if slots is None else slots
    channels, classes = len(plan.channels), 1 + slots
    tiling = tile(shape, plan.patch, plan.latent_stride, settings.overlap)
    further = settings.samples - 1 + (folds if folds > 1 else 0)  # predictions of a window beyond the first one
    further += OF_SAMPLE if settings.steps and on_cpu else 0
    weights, windows = _network_bytes(plan, classes * further, on_cpu)
    padding = 4.0 * channels * prod(tiling.padded) if tiling.padded != shape else 0.0  # the padded image is a copy
    restored = _restored_bytes(prod(original_shape), prod(cropped_shape or original_shape), written_maps)
    predicting = ram_bytes(channels, slots, plan.patch, tiling.padded, original_shape, windows, *restored)
    predicting += padding + kept_bytes + _sampled_bytes(plan, settings, tiling, classes, uncertainty, alternatives)
    predicting += _mask_bytes(classes, tiling.slab_voxels, prod(original_shape)) if alternatives else 0.0
    models = 4.0 * parameters(network_of(plan)) * (folds - 1) + weights
    ahead = 0.0 if on_cpu else 4.0 * channels * prod(shape)  # the next scan, which waits (`textdiffseg.ahead`)
    reading = reading_bytes(channels, shape, original_shape, cropped_shape, value_bytes, _is_masked(plan))
    peak = max(reading, predicting) if on_cpu else reading + predicting
    return (peak + ahead + models + (CPU_LIBRARIES_BYTES if on_cpu else LIBRARIES_BYTES)) / GB


def _is_masked(plan: Plan) -> bool:
    """Whether the nonzero voxels of a scan are searched."""
    return plan.crop == "nonzero" or any(channel.foreground_only for channel in plan.channels)


def _sampled_bytes(
    plan: Plan, settings: PredictionSettings, tiling: Tiling, classes: int, uncertainty: bool, alternatives: bool
) -> float:
    """The bytes of the noise of all samples, and of the sums of uncertainty."""
    voxels = tiling.slab_voxels
    latents = 2 * samples_at_once(classes, voxels) if alternatives else settings.samples  # alternatives also keep r
    noise = 4.0 * latents * plan.latent.channels * prod(tiling.latent_shape) if settings.steps else 0.0
    return noise + (2 * 4.0 * voxels if uncertainty else 0.0)


def _restored_bytes(original: int, cropped: int, written_maps: bool) -> tuple[float, float]:
    """The bytes of the classes inside the crop, and of all that lies on the file's grid after the last slab.

    The latter are the classes inside the crop, those of the whole grid, and a turned copy; or one map.
    """
    classes = 2.0 * cropped
    return classes, OF_MAP * cropped + MAP_COPIES * original if written_maps else classes + 4.0 * original


def _network_bytes(plan: Plan, probabilities: int, on_cpu: bool) -> tuple[float, float]:
    """The host memory of a network, and of the windows that it computes at once; those of a GPU are on the GPU.

    `probabilities`: further ones of each voxel of a window, which are always on the host.
    """
    network, at_once = network_of(plan), windows_at_once(plan, torch.device("cpu"))
    device: Device = "cpu" if on_cpu else "gpu"
    weights = prediction_bytes(network, plan.patch, device, windows=0)
    activations = prediction_bytes(network, plan.patch, device, windows=at_once) - weights if on_cpu else 0.0
    return weights, activations + 4.0 * at_once * prod(plan.patch) * probabilities


def _mask_bytes(classes: int, voxels: int, original_voxels: int) -> float:
    """The bytes of the masks of all samples, and of the sums of those that are drawn at once."""
    sums = sums_bytes(classes, voxels) * (samples_at_once(classes, voxels) - 1)
    return sums + ALTERNATIVE_SAMPLES * np.dtype(class_type(classes)).itemsize * original_voxels


def scan_ram_gb(
    prepared: PreparedModel,
    geometry: Geometry,
    shape: Triple | None = None,
    kept: Kept = NOTHING_KEPT,
    value_bytes: int = 4,
) -> float | None:
    """The estimate in GB for a scan with this header. None: the scan is too large to be predicted.

    `shape`: of the cropped scan on the plan's grid; None: nothing is cropped. `kept`: what the caller keeps.
    `value_bytes`: of a value of the scan as it is read.
    """
    plan, uncropped = prepared.plan, shape_on_plan(geometry, prepared.plan)
    if uncropped is None:
        return None
    shape, original = shape or uncropped, _canonical_shape(geometry)
    shares = [inside / whole for inside, whole in zip(shape, uncropped, strict=True)]
    cropped = triple(max(1, min(size, round(share * size))) for share, size in zip(shares, original, strict=True))
    guide = 0.0  # its networks; its windows are far fewer
    if prepared.guide is not None:
        networks = prepared.guide.mask_predictor.predictor.networks
        guide = 4.0 * parameters(network_of(prepared.guide.plan)) * len(networks)

    def estimate(predictor: Predictor, uncertainty: bool = False, alternatives: bool = False) -> float:
        return prediction_ram_gb(
            plan,
            predictor.settings,
            len(predictor.networks),
            shape,
            original,
            slots=prepared.selection.queries.labels.shape[1],  # rivals included
            uncertainty=uncertainty,
            on_cpu=predictor.device.type == "cpu",
            alternatives=alternatives,
            kept_bytes=_bytes_of(kept, prepared, geometry, shape),
            cropped_shape=cropped,
            value_bytes=value_bytes,
            written_maps=prepared.maps and not kept.maps,
        )

    estimates = [estimate(prepared.mask_predictor.predictor, uncertainty=prepared.mask_uncertainty)]
    if prepared.uncertainty_predictor is not None:
        estimates.append(estimate(prepared.uncertainty_predictor.predictor, uncertainty=True))
    if prepared.alternatives is not None:
        estimates.append(estimate(prepared.alternatives.predictor, alternatives=True))
    return guide / GB + max(estimates)


def _bytes_of(kept: Kept, prepared: PreparedModel, geometry: Geometry, shape: Triple) -> float:
    """The bytes of what the caller keeps: float32 scans on the file's grid, and maps on the plan's grid."""
    scans = 0 if not kept.scan else 1 if prepared.mask_predictor.predictor.device.type == "cpu" else 1 + SCANS_AHEAD
    maps = len(prepared.selection.names) if prepared.probabilities else 0
    maps += UNCERTAINTY_MAPS if prepared.uncertainty else 0
    of_maps = 4.0 * maps * prod(shape) if kept.maps else 0.0
    return 4.0 * scans * len(prepared.plan.channels) * prod(geometry.shape) + of_maps


def refuse_too_large(
    prepared: PreparedModel,
    geometry: Geometry | None,
    shape: Triple | None = None,
    kept: Kept = NOTHING_KEPT,
    value_bytes: int = MIN_VALUE_BYTES,
) -> None:
    """Raise `UserError` if a scan with this header needs more memory than there is. None: the header is not known.

    What this process holds already, e.g. the models, counts as free: the estimate includes it. Before a scan is read
    (`shape` is None), a crop is taken to leave `MIN_CROPPED`, so that a scan that fits is not refused.

    `value_bytes`: of a value of the scan as it was read.
    """
    uncropped = None if geometry is None else shape_on_plan(geometry, prepared.plan)
    if geometry is None or uncropped is None:
        return
    shape = shape or triple(max(1, int(MIN_CROPPED[prepared.plan.crop] * size)) for size in uncropped)
    need = scan_ram_gb(prepared, geometry, shape, kept, value_bytes)
    free = (free_memory() + own_memory()) / GB
    if need is None or need <= free:
        return
    masks = prepared.mask_predictor.predictor
    remedies = {
        "close other programs": True,
        "query fewer labels (--prompt)": len(prepared.selection.names) > 1,
        "use fewer --samples": masks.settings.samples > 1,
        "leave out --alternatives": prepared.alternatives is not None,
        "leave out --picture": kept.scan,
        "leave out the maps of probabilities and uncertainty": kept.maps and prepared.maps,
        "use fewer --folds": len(masks.networks) > 1,
    }
    advice = ", ".join(remedy for remedy, helps in remedies.items() if helps)
    raise UserError(
        f"its prediction needs about {need:.1f} GB of memory, and {free:.1f} GB are free. To make room, {advice}, or "
        "take a larger machine."
    )


def shape_on_plan(geometry: Geometry, plan: Plan) -> Triple | None:
    """The shape of a scan on the plan's grid, by its header. None: the scan is too large to be predicted."""
    spacing = millimetres(geometry.spacing[axis] for axis in orientation_of(geometry).permutation)
    on_plan = resampled_shape(_canonical_shape(geometry), spacing, plan.spacing)
    return on_plan if prod(on_plan) <= MAX_VOXELS else None


def _canonical_shape(geometry: Geometry) -> Triple:
    return triple(geometry.shape[axis] for axis in orientation_of(geometry).permutation)
