"""A generated data set: 3D phantoms of an abdomen with organs, a lesion and two look-alike glands.

Each phantom is defined in mm in the patient's frame (z superior, y posterior, x left, origin in the middle). A smooth
random displacement deforms it. It is sampled on a grid of its own size and spacing.

The two glands have the same intensity, shape and size. They differ only in the neighbouring organ, which is in their
name; this also holds in a mirrored scan. The vessel has the glands' intensity, and some lesions have the intensity of
the surrounding tissue. No label can therefore be found by intensity alone.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from plans.file_names import NIFTI, channel_file
from plans.geometry import Millimetres, Triple, millimetres, triple
from plans.layout import RawFolder, tree
from textdiffseg.arguments import path_of, whole
from textdiffseg.files import write_atomically

if TYPE_CHECKING:
    from textdiffseg.imaging.volume import Geometry

NAME = "Dataset900_Phantoms"
LABELS = ("liver", "spleen", "vessel", "gland beside the liver", "gland beside the spleen", "liver lesion")
LOOK_ALIKES = LABELS[3:5]
INTENSITY = {"body": 100.0, "liver": 170.0, "spleen": 135.0, "bright": 215.0}  # bright: vessel and both glands
FIELD = (116.0, 116.0, 136.0)  # mm covered by a scan (z, y, x)


@dataclass(frozen=True)
class Ellipsoid:
    """A structure before the deformation: centre and half axes, mm (z, y, x)."""

    centre: Millimetres
    radii: Millimetres


@dataclass(frozen=True)
class Anatomy:
    """The random parameters of one phantom, drawn before it is rendered."""

    shape: Triple
    spacing: Millimetres
    body: Ellipsoid
    organs: dict[str, Ellipsoid]  # liver, spleen, both glands and, in most phantoms, the lesion
    vessel: tuple[float, float, float]  # y and x of its axis at z = 0, radius, mm
    waves: np.ndarray  # (K, 3 directions, 5): frequency vector in 1/mm (3), phase, amplitude in mm
    lesion_contrast: float  # below the liver
    gain: float
    noise: float  # standard deviation at gain 1
    bias: np.ndarray  # (3,) relative change of gain along half the field


def write_phantoms(root: str | Path, training: int = 24, test: int = 8, seed: int = 0, lacking: float = 0.0) -> Path:
    """Write the phantoms as an nnU-Net raw data set under `root`/raw. Returns its folder.

    Phantom i is a function of (seed, i). `dataset.json` is written last, so a folder with that file is complete.

    Args:
        root: folder of all data sets.
        training: number of training phantoms.
        test: number of test phantoms.
        seed: of all random choices.
        lacking: share of the training phantoms that lack one random organ.
    """
    training, test, seed = whole("training", training), whole("test", test), whole("seed", seed)
    folder = tree(path_of(root), "raw") / NAME
    for index in range(training + test):
        part: Literal["Tr", "Ts"] = "Tr" if index < training else "Ts"
        number = index if part == "Tr" else index - training
        anatomy = draw_anatomy(seed, index)
        rng = np.random.default_rng((seed, index, 2))
        if part == "Tr" and rng.uniform() < lacking:
            anatomy = without(anatomy, LABELS[rng.integers(len(LABELS))])
        _write_case(folder, part, f"phantom{part}_{number:03d}", anatomy, (seed, index, 1))
    header = {
        "name": "Phantoms",
        "description": f"Generated phantoms of an abdomen, seed {seed}",
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, **{name: value for value, name in enumerate(LABELS, start=1)}},
        "numTraining": training,
        "file_ending": NIFTI,
    }
    write_atomically(RawFolder(folder).header, json.dumps(header, indent=1) + "\n")
    return folder


def draw_anatomy(seed: int, index: int) -> Anatomy:
    """The random parameters of phantom `index`."""
    rng = np.random.default_rng((seed, index))

    def near(value: float, spread: float) -> float:
        return float(value + spread * rng.uniform(-1, 1))

    def ellipsoid(centre: Millimetres, radii: Millimetres, shift: float = 4.0, scale: float = 0.12) -> Ellipsoid:
        return Ellipsoid(millimetres(near(c, shift) for c in centre), millimetres(r * near(1, scale) for r in radii))

    shape, spacing = _draw_grid(rng)
    gland = millimetres(radius * near(1, 0.1) for radius in (11.0, 10.0, 12.0))  # one shape for both
    organs = {
        "liver": ellipsoid((12, -4, -27), (27, 27, 24)),
        "spleen": ellipsoid((12, 6, 36), (21, 17, 15)),
        LOOK_ALIKES[0]: Ellipsoid((near(-28, 4), near(0, 5), near(-28, 5)), gland),
        LOOK_ALIKES[1]: Ellipsoid((near(-24, 4), near(4, 5), near(34, 5)), gland),
    }
    if rng.uniform() < 0.9:
        organs[LABELS[5]] = _draw_lesion(rng, organs["liver"])
    waves = np.concatenate(
        [
            rng.normal(0, 1 / 90, (4, 3, 3)),
            rng.uniform(0, 2 * np.pi, (4, 3, 1)),
            rng.uniform(0, 3.0, (4, 3, 1)),
        ],
        axis=2,
    )
    return Anatomy(
        shape=shape,
        spacing=spacing,
        body=ellipsoid((0, 0, 0), (80, 50, 60), shift=2.0, scale=0.05),
        organs=organs,
        vessel=(near(24, 3), near(3, 4), near(7.0, 0.8)),
        waves=waves,
        lesion_contrast=near(65, 15),
        gain=near(1.0, 0.3),
        noise=near(11, 5),
        bias=rng.uniform(-0.08, 0.08, 3),
    )


def without(anatomy: Anatomy, label: str) -> Anatomy:
    """The same phantom without one of `LABELS`. Without the liver it has no lesion either."""
    if label == "vessel":
        return replace(anatomy, vessel=(*anatomy.vessel[:2], 0.0))
    removed = {label, LABELS[5]} if label == "liver" else {label}
    return replace(anatomy, organs={name: organ for name, organ in anatomy.organs.items() if name not in removed})


def _draw_grid(rng: np.random.Generator) -> tuple[Triple, Millimetres]:
    """A random shape and spacing: 48 to 64 voxels per axis. One scan in four has fewer, thick slices."""
    in_plane = float(rng.uniform(2.15, 2.4))
    slices = float(rng.uniform(4.0, 5.0)) if rng.uniform() < 0.25 else float(rng.uniform(2.1, 2.4))
    spacing = millimetres(round(value, 2) for value in (slices, in_plane, in_plane))
    return triple(round(size / value) for size, value in zip(FIELD, spacing, strict=True)), spacing


def _draw_lesion(rng: np.random.Generator, liver: Ellipsoid) -> Ellipsoid:
    """An ellipsoid inside the liver with half axes of about 7 to 13 mm."""
    radius = rng.uniform(7, 13)
    direction = rng.normal(size=3)
    direction *= rng.uniform(0.1, 0.9) / np.linalg.norm(direction)
    room = np.maximum(np.array(liver.radii) - radius - 2, 0)
    centre = np.array(liver.centre) + direction * room
    return Ellipsoid(millimetres(centre.tolist()), millimetres((radius * rng.uniform(0.85, 1.15, 3)).tolist()))


def paint(anatomy: Anatomy, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The scan (D, H, W) float32 and its label map (D, H, W) uint8. Values 1, 2, ... follow the order of `LABELS`."""
    from scipy.ndimage import gaussian_filter

    axes = [(np.arange(n) - (n - 1) / 2) * step for n, step in zip(anatomy.shape, anatomy.spacing, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"))  # (3, D, H, W) mm
    deformed = grid + _displacement(grid, anatomy.waves)
    labels = np.zeros(anatomy.shape, np.uint8)
    y, x, radius = anatomy.vessel
    labels[(deformed[1] - y) ** 2 + (deformed[2] - x) ** 2 < radius**2] = 1 + LABELS.index("vessel")
    for name, organ in anatomy.organs.items():  # the lesion comes last and overwrites the liver
        labels[_inside(deformed, organ)] = 1 + LABELS.index(name)
    bright, liver = INTENSITY["bright"], INTENSITY["liver"]
    values = np.array([0, liver, INTENSITY["spleen"], bright, bright, bright, liver - anatomy.lesion_contrast])
    clean = np.where(_inside(deformed, anatomy.body), INTENSITY["body"], 0.0)
    labels[clean == 0] = 0
    clean = np.where(labels > 0, values[labels], clean)
    clean = gaussian_filter(clean, 0.5)  # partial volume effect, sigma half a voxel
    field = 1 + np.tensordot(anatomy.bias, grid / (np.array(FIELD) / 2)[:, None, None, None], axes=1)
    noise = rng.normal(0, anatomy.noise, (2, *anatomy.shape))
    scan = anatomy.gain * np.hypot(clean * field + noise[0], noise[1])  # Rician, as magnitude images are
    return scan.astype(np.float32), labels


def _displacement(grid: np.ndarray, waves: np.ndarray) -> np.ndarray:
    """The displacement (3, D, H, W) in mm: u(p) = sum_k a_k sin(2 pi f_k . p + phase_k) for each direction."""
    arguments = 2 * np.pi * np.einsum("kcf,fdhw->kcdhw", waves[..., :3], grid) + waves[..., 3, None, None, None]
    return np.sum(waves[..., 4, None, None, None] * np.sin(arguments), axis=0)


def _inside(points: np.ndarray, ellipsoid: Ellipsoid) -> np.ndarray:
    centre, radii = (np.array(lengths)[:, None, None, None] for lengths in (ellipsoid.centre, ellipsoid.radii))
    return np.sum(((points - centre) / radii) ** 2, axis=0) < 1


def geometry_of(anatomy: Anatomy) -> "Geometry":
    """The geometry of a phantom's grid. The grid's centre is the origin."""
    from textdiffseg.imaging.volume import Geometry

    affine = np.zeros((4, 4))  # index (d, h, w) -> world (x, y, z)
    affine[[2, 1, 0], [0, 1, 2]] = anatomy.spacing
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(anatomy.shape) - 1) / 2)
    affine[3, 3] = 1
    return Geometry(shape=anatomy.shape, affine=affine)


def _write_case(folder: Path, part: Literal["Tr", "Ts"], case: str, anatomy: Anatomy, seed: tuple[int, ...]) -> None:
    from textdiffseg.imaging.writers.files import write_labels, write_volume

    scan, labels = paint(anatomy, np.random.default_rng(seed))
    geometry = geometry_of(anatomy)
    raw = RawFolder(folder)
    write_volume(raw.images(part) / channel_file(case, 0, NIFTI), scan, geometry)
    write_labels(raw.labels(part) / f"{case}{NIFTI}", labels, geometry)
