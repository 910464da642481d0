"""Generated scans of a chain of equal beads, whose names only the whole chain decides.

The beads alternate between two labels. A fair coin decides which of both comes first, so nothing in the image shows the
name of a bead. The names of its neighbours decide it. The chain is `PATCHES` patches long.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from phantom_scans import write_case, write_header
from scipy.ndimage import gaussian_filter

from plans.geometry import Triple, triple
from plans.layout import RawFolder
from textdiffseg.imaging.volume import Geometry

NAME = "Dataset930_Beads"
LABELS = ("amber bead", "cobalt stone")
PATCH: Triple = (32, 16, 16)  # of the model, in voxels (D, H, W)
PATCHES = 3
SHAPE: Triple = (PATCHES * PATCH[0], *PATCH[1:])
STEP, RADIUS = 8, 3.0  # voxels from bead to bead, and of a bead
INTENSITY = {"tissue": 100.0, "bead": 180.0}


@dataclass(frozen=True)
class BeadPhantom:
    """A scan with its label map and its beads, each (D, H, W)."""

    case: str
    image: np.ndarray  # float32
    labels: np.ndarray  # uint8: the label number of each voxel
    beads: np.ndarray  # uint8: the number of each bead along the chain, from 1 on

    @property
    def geometry(self) -> Geometry:
        """The geometry of the grid, with voxels of 1 mm."""
        return Geometry(shape=triple(self.image.shape), affine=np.eye(4)[[2, 1, 0, 3]])

    def first(self, length: int) -> "BeadPhantom":
        """The first `length` voxels along the chain."""
        return replace(self, image=self.image[:length], labels=self.labels[:length], beads=self.beads[:length])


def draw_phantom(seed: int, index: int) -> BeadPhantom:
    """Phantom `index`, a function of (seed, index)."""
    rng = np.random.default_rng((seed, index))
    first, coin = rng.uniform(RADIUS, STEP), int(rng.integers(2))
    beads = np.zeros(SHAPE, np.uint8)
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"))  # (3, D, H, W)
    along = np.arange(first, SHAPE[0] - RADIUS, STEP)
    for number, depth in enumerate(along, start=1):
        centre = np.array([depth, *((size - 1) / 2 + rng.uniform(-2, 2) for size in SHAPE[1:])])
        distance = np.sqrt(((grid - centre[:, None, None, None]) ** 2).sum(0))
        beads[distance < RADIUS] = number
    clean = np.where(beads > 0, INTENSITY["bead"], INTENSITY["tissue"])
    scan = gaussian_filter(clean, 0.5) + rng.normal(0, rng.uniform(6, 14), SHAPE)
    return BeadPhantom(f"beads_{index:05d}", scan.astype(np.float32), alternating(beads, coin), beads)


def alternating(beads: np.ndarray, coin: int) -> np.ndarray:
    """The label map (D, H, W) uint8 of numbered beads in one of the two orders."""
    return np.where(beads > 0, 1 + (beads + coin) % 2, 0).astype(np.uint8)


def write_beads(root: Path, cases: int, seed: int = 0) -> Path:
    """The raw folder of a data set of phantoms, written if it is missing."""
    folder = root / "raw" / NAME
    if not RawFolder(folder).header.is_file():
        for index in range(cases):
            phantom = draw_phantom(seed, index)
            write_case(folder, phantom.case, phantom.image, phantom.labels, phantom.geometry)
        write_header(folder, {name: value for value, name in enumerate(LABELS, start=1)}, cases)
    return folder
