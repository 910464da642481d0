"""Arrays and images in memory: what does not place them is one line."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from plans.errors import UserError
from textdiffseg.imaging.sources.objects import volume_of

ARRAY = np.zeros((4, 5, 6), np.float32)


@pytest.mark.parametrize("spacing", ["abc", [1, [2], 3], (1j, 1, 1), (None, 1, 1), 1.0, (-1, 1, 1)])
def test_a_spacing_that_is_not_three_numbers_is_refused(spacing):
    with pytest.raises(UserError, match="spacing: expected three numbers above 0"):
        volume_of(ARRAY, spacing)


@pytest.mark.parametrize("affine", ["x", [[1], [1, 2]], np.eye(4) * 1j, np.eye(3), None])
def test_an_affine_that_is_not_a_matrix_is_refused(affine):
    with pytest.raises(UserError, match=r"affine: expected a finite \(4, 4\) matrix|give either spacing"):
        volume_of(ARRAY, affine=affine)


def test_images_of_nibabel_without_affine_or_voxels_are_refused():
    with pytest.raises(UserError, match="affine: expected a finite"):
        volume_of(nib.Nifti1Image(ARRAY, None))
    with pytest.raises(UserError, match="A Nifti1Header cannot be segmented"):
        volume_of(nib.Nifti1Header())


@pytest.mark.parametrize("kind", [nib.AnalyzeImage, nib.Spm99AnalyzeImage, nib.Spm2AnalyzeImage])
def test_an_analyze_image_is_refused_as_its_file_is(kind):
    with pytest.raises(UserError, match="the nibabel image is an Analyze image, in which left and right are not def"):
        volume_of(kind(ARRAY, np.eye(4)))
    volume_of(nib.Nifti1Pair(ARRAY, np.eye(4)))
    volume_of(nib.MGHImage(ARRAY, np.eye(4)))


def test_axes_of_one_voxel_behind_the_third_do_not_count():
    assert volume_of(nib.Nifti1Image(ARRAY[..., None, None], np.eye(4))).array.shape == (1, 4, 5, 6)


def test_a_label_map_of_itk_is_refused():
    """ITK ends the process when its voxels are read."""
    image = sitk.Cast(sitk.Image(4, 5, 6, sitk.sitkUInt8), sitk.sitkLabelUInt8)
    with pytest.raises(UserError, match="label map of ITK"):
        volume_of(image)


def test_an_image_of_itk_with_the_grid_of_a_bare_array_has_a_note():
    image = sitk.GetImageFromArray(ARRAY)
    assert "SetSpacing" in volume_of(image).notes[-1]
    image.SetSpacing((0.8, 0.8, 1))
    assert not volume_of(image).notes


@pytest.mark.parametrize(
    ("scan", "arguments", "message"),
    [
        (np.zeros((4, 5, 6)), {"spacing": (1, 10**400, 1)}, "spacing"),
        ({"MRI": "a.nii.gz", "mri ": "b.nii.gz"}, {"channels": ["MRI"]}, "differ only in capitals"),
        ({"CT": "a.nii.gz"}, {"channels": ["MRI"]}, "'CT' is not a channel"),
        ({"mri": "a.nii.gz"}, {"channels": ["MRI", "MRI"]}, "several channels called mri. Give the files as a list"),
        ([ARRAY, ARRAY], {"spacing": (1, 1, 1)}, "channel 0: expected a path.*numpy.stack"),
        (np.ma.masked_equal(np.arange(120).reshape(4, 5, 6), 7), {"spacing": (1, 1, 1)}, "1 voxels are masked.*filled"),
        (np.ones((4, 5, 6), complex), {"spacing": (1, 1, 1)}, "found complex128. Take their magnitude"),
    ],
)
def test_more_mistakes_are_one_line(scan, arguments, message):
    with pytest.raises(UserError, match=message):
        volume_of(scan, **arguments)
