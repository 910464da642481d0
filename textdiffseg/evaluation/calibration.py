"""Whether probabilities mean what they say, near the structures: far from them every model is rightly sure.

Over the n voxels v of a case within 5 mm of its foreground (any label; between voxel centres, in mm), with the
probabilities p_k(v) of K classes, background among them, the true class y(v), the winner c(v) = argmax_k p_k(v):

    ECE   = sum_b |b| / n * |mean_b p_c - share of b where c = y|    expected calibration error over 15 bins b of
                                                                      equally many voxels, ordered by p_c
    Brier = mean_v sum_k (p_k - [y = k])^2                            0 at best, 2 at worst
    NLL   = -mean_v ln p_y

Labels that overlap are a question each, there or not: K = 2 classes at each of Q n pairs of a label and a voxel.

Each is of one case. Over cases they are averaged, every case weighing the same, as Dice is.
"""

from math import ceil

import numpy as np
from scipy.ndimage import distance_transform_edt, find_objects

from plans.geometry import Millimetres
from textdiffseg.temperature import SampledVoxels

NEAR_MM = 5.0
BINS = 15
MAX_VOXELS = 20_000  # kept of a case; a temperature needs no more
MAX_NUMBERS = 400_000  # the same, times classes: hundreds of cases of a hundred labels fit into memory
MIN_PROBABILITY = 1e-7  # float32 softmax gives zeros, whose logarithm would decide everything


def near_foreground(labels: np.ndarray, spacing: Millimetres) -> np.ndarray:
    """Which voxels of `labels` (D, H, W) lie within `NEAR_MM` of a positive one; those to ignore (negative) do not.

    spacing: mm in the same axis order. Without foreground no voxel is near.
    """
    near, foreground = np.zeros(labels.shape, dtype=bool), labels > 0
    reach = [ceil(NEAR_MM / step) for step in spacing]
    for box in find_objects(foreground.astype(np.int8)):  # one box, or none
        grown = tuple(slice(max(0, part.start - r), part.stop + r) for part, r in zip(box, reach, strict=True))
        near[grown] = distance_transform_edt(~foreground[grown], sampling=spacing) <= NEAR_MM
    return near & (labels >= 0)


def sample_voxels(
    probabilities: np.ndarray, labels: np.ndarray, spacing: Millimetres, most: int = MAX_VOXELS
) -> SampledVoxels:
    """At most `most` voxels near the foreground, the same ones for the same labels.

    probabilities (K, D, H, W); labels (D, H, W) class numbers on the same grid, negative where to ignore.
    """
    places = np.flatnonzero(near_foreground(labels, spacing))
    most = min(most, MAX_NUMBERS // len(probabilities))
    if len(places) > most:
        places = np.sort(np.random.default_rng(0).choice(places, most, replace=False))
    p = np.stack([one.reshape(-1)[places] for one in probabilities])
    return SampledVoxels(p, labels.reshape(-1)[places].astype(np.int64))


def expected_calibration_error(p: np.ndarray, truth: np.ndarray, bins: int = BINS) -> float:
    """ECE of p (K, N) against truth (N,), see the module; voxels of one confidence may share a bin with others."""
    confidence, right = p.max(0), p.argmax(0) == truth
    order = np.argsort(confidence, kind="stable")
    gaps = (confidence[order].astype(np.float64) - right[order]).cumsum()
    ends = np.linspace(0, len(order), min(bins, len(order)) + 1).round().astype(int)[1:]
    return float(np.abs(np.diff(gaps[ends - 1], prepend=0.0)).sum() / len(order))


def brier_score(p: np.ndarray, truth: np.ndarray) -> float:
    """Brier score of p (K, N) against truth (N,), summed over classes: 0 to 2."""
    hit = np.take_along_axis(p, truth[None], 0)[0].astype(np.float64)
    return float(np.mean(np.square(p, dtype=np.float64).sum(0) - 2 * hit + 1))


def negative_log_likelihood(p: np.ndarray, truth: np.ndarray) -> float:
    """NLL in nats of p (K, N) against truth (N,)."""
    hit = np.take_along_axis(p, truth[None], 0)[0].astype(np.float64)
    return float(-np.mean(np.log(np.maximum(hit, MIN_PROBABILITY))))
