"""Generated scans that only a text can explain: two equal nodules, of which the text names the metastasis.

The nodules have one radius and one intensity. They lie above each other or side by side. A fair coin decides which one
is the metastasis, so nothing in the image shows it. The other nodule is background.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from phantom_scans import write_case, write_header
from scipy.ndimage import gaussian_filter

from plans.layout import RawFolder
from textdiffseg.files import write_atomically
from textdiffseg.imaging.volume import Geometry

NAME = "Dataset920_Sentences"
LABEL = "metastasis"
SHAPE, SPACING = (36, 40, 40), 2.2  # voxels (D, H, W), mm
SIDES = {0: ("upper", "lower"), 2: ("left", "right")}  # by axis: towards its end (superior, left), towards its start
WORDINGS = (
    "The {} nodule is the metastasis.",
    "Metastasis: {} nodule.",
    "Only the {} nodule is a metastasis.",
    "Of the two nodules, the {} one is the metastasis.",
    "The metastasis is the {} one of two nodules.",
)
INTENSITY = {"body": 100.0, "nodules": 180.0}


@dataclass(frozen=True)
class NodulePhantom:
    """A scan with its label map (D, H, W) and its text."""

    case: str
    image: np.ndarray  # float32
    labels: np.ndarray  # uint8, 1 metastasis
    text: str
    axis: int  # along which the nodules lie

    @property
    def geometry(self) -> Geometry:
        """The geometry of the grid. Its centre is the origin; z is superior, y posterior, x left."""
        affine = np.zeros((4, 4))
        affine[[2, 1, 0], [0, 1, 2]] = SPACING
        affine[:3, 3] = -affine[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
        affine[3, 3] = 1
        return Geometry(shape=SHAPE, affine=affine)


def draw_phantom(seed: int, index: int) -> NodulePhantom:
    """Phantom `index`, a function of (seed, index)."""
    rng = np.random.default_rng((seed, index))
    axis = int(rng.choice(list(SIDES)))
    offset = rng.uniform(-5, 5, 3)  # mm from the middle of both to the first nodule
    offset[axis] = rng.uniform(13, 17)
    middle, radius, named = rng.uniform(-5, 5, 3), rng.uniform(7, 9), int(rng.integers(2))
    axes = [(np.arange(n) - (n - 1) / 2) * SPACING for n in SHAPE]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"))  # (3, D, H, W) mm
    body = _distance(grid, np.zeros(3)) < 38
    nodules = [_distance(grid, middle + sign * offset) < radius for sign in (1, -1)]
    clean = np.where(body, INTENSITY["body"], 0.0)
    clean[nodules[0] | nodules[1]] = INTENSITY["nodules"]
    scan = gaussian_filter(clean, 0.5) + rng.normal(0, rng.uniform(6, 14), SHAPE)
    text = str(rng.choice(WORDINGS)).format(SIDES[axis][named])
    return NodulePhantom(f"nodules_{index:05d}", scan.astype(np.float32), nodules[named].astype(np.uint8), text, axis)


def _distance(grid: np.ndarray, centre: np.ndarray) -> np.ndarray:
    return np.sqrt(((grid - centre[:, None, None, None]) ** 2).sum(0))


def write_nodules(root: Path, cases: int, seed: int = 0) -> Path:
    """The raw folder of a data set of phantoms with their texts, written if it is missing."""
    folder = root / "raw" / NAME
    raw = RawFolder(folder)
    if not raw.header.is_file():
        for index in range(cases):
            phantom = draw_phantom(seed, index)
            write_case(folder, phantom.case, phantom.image, phantom.labels, phantom.geometry)
            write_atomically(raw.texts / f"{phantom.case}.txt", phantom.text + "\n")
        write_header(folder, {LABEL: 1}, cases)
    return folder
