"""Generated scans with two nodules that look the same. What distinguishes them lies outside the window.

A scan is three patches wide. Two equal nodules lie in its middle, and a bright marker lies at one of its ends. The
nodule that is nearer the marker is the proximal one. No window that holds a nodule reaches the marker.
"""

from pathlib import Path

import numpy as np
from phantom_scans import write_case, write_header
from scipy.ndimage import gaussian_filter

from plans.layout import RawFolder
from textdiffseg.imaging.volume import Geometry

NAME = "Dataset930_LookAlikes"
LABELS = ("proximal nodule", "distal nodule")
PATCH, SPACING = (24, 32, 32), 2.0  # voxels (D, H, W), mm
SHAPE = (24, 32, 96)
INTENSITY = {"body": 100.0, "nodules": 180.0, "marker": 320.0}


def geometry() -> Geometry:
    """The grid of all scans."""
    affine = np.zeros((4, 4))
    affine[[2, 1, 0], [0, 1, 2]] = SPACING
    affine[3, 3] = 1
    return Geometry(shape=SHAPE, affine=affine)


def draw(seed: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Scan `index`: image float32 and labels uint8 (D, H, W). It is a function of (seed, index)."""
    rng = np.random.default_rng((seed, index))
    marker_first = bool(rng.integers(2))
    radius, middle = rng.uniform(4, 5), np.array([11.5, 15.5])
    nodules = [np.array([*(middle + rng.uniform(-3, 3, 2)), w]) for w in (rng.uniform(38, 40), rng.uniform(55, 57))]
    marker = np.array([*(middle + rng.uniform(-4, 4, 2)), rng.uniform(6, 8) if marker_first else rng.uniform(87, 89)])
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"))
    clean = np.full(SHAPE, INTENSITY["body"])
    labels = np.zeros(SHAPE, np.uint8)
    for value, centre in zip((1, 2) if marker_first else (2, 1), nodules, strict=True):
        inside = _distance(grid, centre) < radius
        clean[inside], labels[inside] = INTENSITY["nodules"], value
    clean[_distance(grid, marker) < 5] = INTENSITY["marker"]
    scan = gaussian_filter(clean, 0.5) + rng.normal(0, rng.uniform(6, 14), SHAPE)
    return scan.astype(np.float32), labels


def _distance(grid: np.ndarray, centre: np.ndarray) -> np.ndarray:
    return np.sqrt(((grid - centre[:, None, None, None]) ** 2).sum(0))


def write(root: Path, cases: int, seed: int = 0) -> Path:
    """The raw folder of a data set of scans, written if it is missing."""
    folder = root / "raw" / NAME
    if not RawFolder(folder).header.is_file():
        for index in range(cases):
            write_case(folder, f"scan_{index:05d}", *draw(seed, index), geometry())
        write_header(folder, {name: value for value, name in enumerate(LABELS, start=1)}, cases)
    return folder


def told_apart(predicted: np.ndarray, labels: np.ndarray) -> float:
    """The share of the two nodules whose most frequent predicted label is the right one. Background does not count."""
    right = 0
    for value in (1, 2):
        counts = np.bincount(predicted[labels == value], minlength=3)[1:3]
        right += bool(counts[value - 1] > counts[2 - value])
    return right / 2
