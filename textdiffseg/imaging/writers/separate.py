"""One binary mask per label, each in a file of its own."""

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from textdiffseg.imaging.volume import Geometry
from textdiffseg.imaging.writers.files import write_labels
from textdiffseg.masks import mask_of


def write_separate(masks: Mapping[Path, Collection[int]], labels: np.ndarray, geometry: Geometry) -> None:
    """Write a file with 1 where the label map has one of the given values, else 0.

    Args:
        masks: the values of each file. If labels overlap, a label has several.
        labels: the value of each voxel (D, H, W).
        geometry: of `labels`.
    """
    for path, values in masks.items():
        write_labels(path, mask_of(labels, values), geometry)
