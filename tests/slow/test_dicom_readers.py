"""DICOM outputs, opened by other programs: dcmqi reads DICOM-SEG, plastimatch reads RTSTRUCT."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("highdicom")

from plans.layout import DICOM_SEG, RTSTRUCT
from textdiffseg.imaging.sources.files import read_volume
from textdiffseg.imaging.writers.dicom import write_dicom

pytestmark = pytest.mark.slow
_spec = importlib.util.spec_from_file_location("series", Path(__file__).parents[1] / "textdiffseg" / "conftest.py")
helpers = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(helpers)
DIRECTIONS = {
    "up": {},
    "down": {"step": -1},
    "oblique": {"row": (0.6, 0.8, 0), "column": (-0.8 * 0.96, 0.6 * 0.96, 0.28)},
    "sagittal": {"row": (0, 1, 0), "column": (0, 0, -1)},
}


def program(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    return found or pytest.skip(f"{name} is not installed: pip install dcmqi plastimatch")


def on_grid(path: Path, geometry) -> np.ndarray:
    """The voxels (D, H, W) of a mask that another program wrote."""
    image = sitk.ReadImage(str(path))
    index = np.argwhere(sitk.GetArrayFromImage(image) > 0)[:, ::-1]
    points = np.array([image.TransformContinuousIndexToPhysicalPoint([float(one) for one in place]) for place in index])
    voxels = np.linalg.solve(geometry.affine, np.c_[points, np.ones(len(points))].T)[:3]
    assert np.abs(voxels - np.rint(voxels)).max() < 1e-2
    found = np.zeros(geometry.shape, dtype=bool)
    found[tuple(np.rint(voxels).astype(int))] = True
    return found


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_other_programs_find_the_voxels_of_the_mask(tmp_path, direction):
    dcmqi, plastimatch = program("segimage2itkimage"), program("plastimatch")
    scan = helpers.write_series(tmp_path / "ct", np.zeros((6, 18, 15)), **DIRECTIONS[direction])
    geometry = read_volume((scan,)).geometry
    labels = np.zeros(geometry.shape, dtype=np.int64)
    labels[1:4, 3:10, 4:9], labels[0:2, 12:16, 2:4], labels[3, 12:16, 10:14] = 7, 3, 3
    labels[2, 5:7, 6] = labels[3, 13, 11] = labels[3, 14, 12] = 0  # holes
    labels[5, ::2, ::2] = 3  # single pixels
    names = {"left kidney": (7,), "Leber µ肝": (3,), "absent": (9,)}
    paths = {DICOM_SEG: tmp_path / "seg.dcm", RTSTRUCT: tmp_path / "rt.dcm"}
    write_dicom(paths, labels, geometry, names, scan, "0")
    (tmp_path / "seg").mkdir()
    run = (dcmqi, "--inputDICOM", paths[DICOM_SEG], "--outputDirectory", tmp_path / "seg", "-t", "nrrd")
    subprocess.run(run, check=True, capture_output=True)
    run = (plastimatch, "convert", "--input", paths[RTSTRUCT], "--referenced-ct", scan)
    subprocess.run(
        (*run, "--output-prefix", tmp_path / "rt", "--prefix-format", "nrrd"), check=True, capture_output=True
    )
    for number, (name, values) in enumerate(list(names.items())[:2], start=1):
        assert np.array_equal(on_grid(tmp_path / "seg" / f"{number}.nrrd", geometry), np.isin(labels, values)), name
        assert np.array_equal(on_grid(tmp_path / "rt" / f"{name}.nrrd", geometry), np.isin(labels, values)), name
