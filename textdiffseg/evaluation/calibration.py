"""Calibration of probabilities near the structures. Far from them every model is confident and right.

It is measured over the n voxels v of a case within 5 mm of its foreground (any label; between voxel centres). p_k(v)
are the probabilities of K classes including background, y(v) is the true class, c(v) = argmax_k p_k(v):

    ECE   = sum_b |b| / n * |mean_b p_c - share of b where c = y|    expected calibration error over 15 bins b of
                                                                      equally many voxels, ordered by p_c
    Brier = mean_v sum_k (p_k - [y = k])^2                            0 at best, 2 at worst
    NLL   = -mean_v ln p_y

Labels that overlap are binary: K = 2 classes at each of the Q n pairs of a label and a voxel.

Each measure is computed for one case. Means over cases weigh every case equally, as for Dice.
"""

from collections.abc import Sequence
from math import ceil

import numpy as np
from scipy.ndimage import distance_transform_edt

from plans.geometry import Millimetres
from textdiffseg.imaging.boxes import bounds
from textdiffseg.temperature import SampledVoxels

MAX_DISTANCE_MM = 5.0  # to the foreground
PLANES = 32  # whose distances are computed together
BINS = 15
MAX_VOXELS = 20_000  # per case; enough to fit a temperature
MAX_PROBABILITIES = 400_000  # voxels times classes per case; hundreds of cases of a hundred labels fit into memory
MIN_PROBABILITY = 1e-7  # a float32 softmax returns zeros, and one zero would make the NLL infinite


def near_foreground(labels: np.ndarray, spacing: Millimetres) -> np.ndarray:
    """Mask (D, H, W) of the voxels within `MAX_DISTANCE_MM` of the foreground; False everywhere without foreground.

    Args:
        labels: (D, H, W); positive is foreground. Negative voxels are ignored and never near.
        spacing: mm, (D, H, W).
    """
    near, foreground = np.zeros(labels.shape, dtype=bool), labels > 0
    margin = [ceil(MAX_DISTANCE_MM / step) for step in spacing]
    box = bounds(foreground)
    if box is None:
        return near
    d, *plane = (slice(max(0, axis.start - m), axis.stop + m) for axis, m in zip(box, margin, strict=True))
    for first in range(d.start, min(d.stop, len(labels)), PLANES):  # a transform takes 50 bytes per voxel
        last, start = min(first + PLANES, d.stop), max(0, first - margin[0])
        known = foreground[start : last + margin[0], *plane]
        if known.any():
            close = distance_transform_edt(~known, sampling=spacing) <= MAX_DISTANCE_MM
            near[first:last, *plane] = close[first - start : last - start]
    near &= labels >= 0
    return near


class SlabSample:
    """A random sample of voxels near the foreground, from slabs of probabilities. It depends on the labels only."""

    def __init__(self, labels: np.ndarray, spacing: Millimetres, classes: int, max_voxels: int = MAX_VOXELS):
        """`labels`: (D, H, W) class numbers; negative voxels are ignored. `classes`: K. `max_voxels`: of the sample."""
        indices = np.flatnonzero(near_foreground(labels, spacing))
        max_voxels = min(max_voxels, MAX_PROBABILITIES // classes)
        if len(indices) > max_voxels:
            indices = np.sort(np.random.default_rng(0).choice(indices, max_voxels, replace=False))
        self._indices, self._plane = indices, labels[0].size
        self._truth = labels.reshape(-1)[indices].astype(np.int64)
        self._p = np.zeros((classes, len(indices)), np.float32)

    def add(self, first: int, probabilities: np.ndarray, numbers: Sequence[int]) -> None:
        """Add planes of the probabilities of some classes. Classes that are never added get 0.

        Args:
            first: the place of the first plane along D.
            probabilities: (M, D, H, W) of M classes.
            numbers: of these classes.
        """
        start, stop = (self._plane * plane for plane in (first, first + probabilities.shape[1]))
        sampled = slice(*np.searchsorted(self._indices, (start, stop)))
        for number, p in zip(numbers, probabilities, strict=True):
            self._p[number, sampled] = p.reshape(-1)[self._indices[sampled] - start]

    def finish(self) -> SampledVoxels:
        """The voxels with K classes."""
        return SampledVoxels(self._p, self._truth)


def expected_calibration_error(p: np.ndarray, truth: np.ndarray) -> float:
    """ECE of p (K, N) against truth (N,), with `BINS` bins of equally many voxels (the module has the equation)."""
    confidence, right = p.max(0), p.argmax(0) == truth
    order = np.argsort(confidence, kind="stable")
    gaps = (confidence[order].astype(np.float64) - right[order]).cumsum()
    ends = np.linspace(0, len(order), min(BINS, len(order)) + 1).round().astype(int)[1:]
    return float(np.abs(np.diff(gaps[ends - 1], prepend=0.0)).sum() / len(order))


def brier_score(p: np.ndarray, truth: np.ndarray) -> float:
    """Brier score of p (K, N) against truth (N,), summed over classes. It lies between 0 and 2."""
    p_true = np.take_along_axis(p, truth[None], 0)[0].astype(np.float64)
    return float(np.mean(np.square(p, dtype=np.float64).sum(0) - 2 * p_true + 1))


def negative_log_likelihood(p: np.ndarray, truth: np.ndarray) -> float:
    """NLL in nats of p (K, N) against truth (N,)."""
    p_true = np.take_along_axis(p, truth[None], 0)[0].astype(np.float64)
    return float(-np.mean(np.log(np.maximum(p_true, MIN_PROBABILITY))))
