"""A mask comes back on the exact grid of its scan, in each orientation."""

import itertools

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from textdiffseg.imaging.sources.files import read_labels, read_volume
from textdiffseg.imaging.volume import to_canonical
from textdiffseg.imaging.writers.files import write_labels

SHAPE, SPACING, ORIGIN = (5, 6, 7), np.array([2.5, 0.75, 0.5]), (-31.25, 12.5, -70.125)
TURNS = [  # columns: the directions of the axes (D, H, W) in space
    np.eye(3)[:, list(order)] * signs
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]
OBLIQUE = [Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ turn
           for angles in ((7, 0, 0), (20, -15, 40), (44, 44, 44)) for turn in TURNS[::7]]  # fmt: skip
LABELS = np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(np.int16)


def affine_of(turn):
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * SPACING, ORIGIN
    return affine


def write_nifti(path, turn):
    ras = np.diag([-1, -1, 1, 1]) @ affine_of(turn)[:, [2, 1, 0, 3]]
    image = nib.Nifti1Image(LABELS.transpose(2, 1, 0), ras)
    image.set_qform(ras, 1)
    nib.save(image, path)


def write_nrrd(path, turn):
    image = sitk.GetImageFromArray(LABELS)
    image.SetSpacing(SPACING[::-1].tolist())
    image.SetDirection(turn[:, ::-1].ravel().tolist())
    image.SetOrigin(ORIGIN)
    sitk.WriteImage(image, str(path))


def came_back(scan, mask_path):
    """The mask of a scan: made in canonical orientation, as prediction does, written, and read again."""
    canonical, orientation = to_canonical(scan)
    toward = canonical.geometry.affine[:3, :3] / canonical.geometry.spacing
    assert np.diag(toward[::-1]).min() > 0.5  # superior, posterior, left
    mask = orientation.undo(canonical.array)[0].astype(np.int16)
    write_labels(mask_path, mask, scan.geometry)
    return read_labels(mask_path)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd"])
def test_files_of_all_48_orientations_and_oblique_ones(tmp_path, ending):
    for number, turn in enumerate((*TURNS, *OBLIQUE)):
        path = tmp_path / f"{number}{ending}"
        (write_nifti if ending == ".nii.gz" else write_nrrd)(path, turn)
        scan = read_volume((path,))
        np.testing.assert_allclose(scan.geometry.affine, affine_of(turn), atol=1e-5)
        mask = came_back(scan, tmp_path / f"mask{number}.nii.gz")
        np.testing.assert_allclose(mask.geometry.affine, affine_of(turn), atol=1e-5)
        assert np.array_equal(mask.array[0], LABELS), turn


def test_dicom_of_all_orientations_and_oblique_ones(tmp_path, write_series):
    """Slices run along the normal of their plane. So a left-handed array comes back with its slices reversed."""
    for number, turn in enumerate((*TURNS, *OBLIQUE)):
        affine, folder = affine_of(turn), tmp_path / str(number)
        places = [(affine @ [one, 0, 0, 1])[:3] for one in range(SHAPE[0])]
        orientation = (*turn[:, 2].tolist(), *turn[:, 1].tolist())
        write_series(folder, LABELS, places, orientation=orientation, spacing=(SPACING[1], SPACING[2]))
        scan = read_volume((folder,))
        if np.linalg.det(turn[:, ::-1]) < 0:
            affine[:3, 3] = places[-1]
            affine[:3, 0] *= -1
        np.testing.assert_allclose(scan.geometry.affine, affine, atol=1e-5)
        mask = came_back(scan, tmp_path / f"mask{number}.nii.gz")
        np.testing.assert_allclose(mask.geometry.affine, affine, atol=1e-5)
        for label in (0, 17, 100, 209):
            world = mask.geometry.affine @ [*np.argwhere(mask.array[0] == label)[0], 1]
            np.testing.assert_allclose(world, affine_of(turn) @ [*np.argwhere(label == LABELS)[0], 1], atol=1e-4)
