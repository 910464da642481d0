"""Tensors in memory: a MetaTensor has the voxels and the place of its file, or it is refused in one line."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import Compose, Flip, LoadImage, Orientation, Spacing, SpatialPad

from plans.errors import UserError
from textdiffseg.imaging.sources.files import read_volume
from textdiffseg.imaging.sources.objects import volume_of
from textdiffseg.imaging.volume import in_file_order

ARRAY = np.random.default_rng(0).normal(100, 20, (4, 5, 6)).astype(np.float32)
OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.3, 0.2, 0.5) @ np.diag([-0.7123456, 0.7123456, 3.0]), (12, -7, 40)
)
AFFINES = {
    "straight": np.diag([0.8, 0.8, 2.5, 1]),
    "flipped": np.diag([-0.8, 0.8, -2.5, 1]),
    "turned": np.array([[0, 0, 2.5, -3], [0.8, 0, 0, 5], [0, -0.8, 0, 9], [0, 0, 0, 1]]),
    "oblique": OBLIQUE,
    "sheared": OBLIQUE @ np.array([[1, 0.005, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
}
load = LoadImage(image_only=True, ensure_channel_first=True)


def saved(path, array, affine, code=1, unit="mm"):
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units(unit)
    image.set_sform(affine, code=code)
    image.set_qform(affine, code=code)
    nib.save(image, path)
    return path


def compare(found, path):
    """The volume of a MetaTensor equals the volume of its file, voxel for voxel and in its place."""
    expected = read_volume((path,))
    array, geometry = in_file_order(found.array[0], found.geometry)
    assert found.geometry.shape == expected.geometry.shape[::-1], "the axes of the tensor"
    assert np.array_equal(found.array.transpose(0, 3, 2, 1), expected.array)
    assert np.array_equal(array, expected.array[0])
    assert np.array_equal(geometry.affine, expected.geometry.affine)
    assert geometry.forms == expected.geometry.forms
    assert found.notes == expected.notes


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 5, 6, 2)])
def test_a_metatensor_equals_its_file(tmp_path, name, shape):
    array = np.random.default_rng(1).normal(100, 20, shape).astype(np.float32)
    path = saved(tmp_path / "a.nii.gz", array, AFFINES[name])
    compare(volume_of(load(path)), path)


@pytest.mark.parametrize(("code", "unit"), [(0, "mm"), (1, "meter"), (2, "micron")])
def test_unplaced_headers_and_other_units_are_read_as_in_a_file(tmp_path, code, unit):
    scale = {"mm": 1, "meter": 1e-3, "micron": 1e3}[unit]
    path = saved(tmp_path / "a.nii.gz", ARRAY, np.diag([0.8 * scale, 0.8 * scale, 2 * scale, 1]), code, unit)
    compare(volume_of(load(path)), path)


def test_real_files_are_read_alike(shared_data):
    for path in sorted((shared_data / "Dataset004_Hippocampus" / "imagesTr").iterdir())[:3]:
        compare(volume_of(load(path)), path)


def test_transforms_move_the_tensor_and_its_affine_together(tmp_path):
    """The header is then that of another grid, so only the affine counts."""
    path = saved(tmp_path / "a.nii.gz", ARRAY, AFFINES["flipped"])
    file = volume_of(nib.load(path))
    turned = volume_of(Orientation("RAS", labels=None)(load(path)))
    assert np.array_equal(turned.array, file.array[:, ::-1, :, ::-1])
    corner = file.geometry.affine @ [3, 0, 5, 1]
    np.testing.assert_allclose(turned.geometry.affine[:, 3], corner, atol=1e-5)
    flipped = volume_of(Flip(2)(load(path)))
    assert np.array_equal(flipped.array, file.array[..., ::-1])


def test_space_and_batches_of_one_are_understood():
    ras = volume_of(MetaTensor(ARRAY[None], affine=OBLIQUE))
    lps = volume_of(MetaTensor(ARRAY[None], affine=np.diag([-1, -1, 1, 1]) @ OBLIQUE, meta={"space": "LPS"}))
    np.testing.assert_allclose(ras.geometry.affine, lps.geometry.affine, atol=1e-9)
    np.testing.assert_allclose(np.diag([-1, -1, 1, 1]) @ ras.geometry.affine, OBLIQUE, atol=1e-3)
    for scan in (
        MetaTensor(ARRAY, affine=OBLIQUE),
        MetaTensor(ARRAY[None, None], affine=OBLIQUE),
        MetaTensor(torch.from_numpy(ARRAY)[None].bfloat16().requires_grad_(), affine=OBLIQUE),
    ):
        found = volume_of(scan)
        np.testing.assert_allclose(found.array, ARRAY[None], rtol=1e-2)
        assert np.array_equal(found.geometry.affine, ras.geometry.affine)


def test_monai_s_loader_gives_batches(tmp_path):
    paths = [saved(tmp_path / f"{name}.nii.gz", ARRAY, AFFINES[name]) for name in ("turned", "oblique")]
    for path, batch in zip(paths, DataLoader(Dataset(paths, Compose([load])), batch_size=1), strict=True):
        assert batch.shape == (1, 1, 4, 5, 6)
        compare(volume_of(batch), path)
    (both,) = DataLoader(Dataset(paths, LoadImage(image_only=True)), batch_size=2)
    assert both.shape == (2, 4, 5, 6), "two scans of one channel, not one of two"
    with pytest.raises(UserError, match=r"a batch of 2 scans, expected one. Segment them one by one: scan\[0\]"):
        volume_of(both)
    compare(volume_of(both[1]), paths[1])


def test_a_metatensor_without_a_place_is_refused(tmp_path):
    unplaced = MetaTensor(ARRAY[None])
    moved = Compose([Flip(1), Orientation("LAS", labels=None), SpatialPad((8, 8, 8))])(unplaced)
    for scan in (unplaced, moved, Spacing((2, 2, 1.5))(moved)):
        with pytest.raises(UserError, match=r"MONAI's default.*scan.as_tensor\(\) with affine=scan.affine"):
            volume_of(scan)
        advised = volume_of(scan.as_tensor(), affine=scan.affine)
        np.testing.assert_allclose(np.diag([-1, -1, 1, 1]) @ advised.geometry.affine, scan.affine)
    with pytest.raises(UserError, match=r"shape \(3, 3\), expected \(4, 4\)"):
        volume_of(MetaTensor(ARRAY[None], affine=np.eye(3)))
    with pytest.raises(UserError, match="expected a finite"):
        volume_of(MetaTensor(ARRAY[None], affine=np.full((4, 4), np.nan)))
    with pytest.raises(UserError, match="its space is 'scanner-xyz', expected RAS or LPS"):
        volume_of(MetaTensor(ARRAY[None], affine=OBLIQUE, meta={"space": "scanner-xyz"}))
    with pytest.raises(UserError, match="a batch of 2 scans, expected one"):
        volume_of(MetaTensor(np.stack([ARRAY, ARRAY])[:, None], affine=OBLIQUE))
    emptied = MetaTensor(ARRAY[None], affine=OBLIQUE)
    emptied.meta["affine"] = None
    with pytest.raises(UserError, match=r"expected \(4, 4\)"):
        volume_of(emptied)
    path = saved(tmp_path / "a.nii.gz", np.zeros((4, 5, 6, 2), np.float32), OBLIQUE)
    with pytest.raises(UserError, match=r"channels last.*ensure_channel_first=True"):
        volume_of(LoadImage(image_only=True)(path))
    with pytest.raises(UserError, match="spacing= and affine= are for arrays only"):
        volume_of(load(path), (1, 1, 1))


def test_a_metatensor_of_an_analyze_file_is_refused(tmp_path):
    nib.Spm2AnalyzeImage(ARRAY, np.diag([2.0, 2, 3, 1])).to_filename(tmp_path / "a.img")
    with pytest.raises(UserError, match="the MetaTensor is an Analyze image, in which left and right are not defined"):
        volume_of(LoadImage("NibabelReader", image_only=True, ensure_channel_first=True)(tmp_path / "a.img"))


def test_an_identity_in_a_file_is_taken_at_its_word(tmp_path):
    path = saved(tmp_path / "a.nii.gz", ARRAY, np.eye(4))
    compare(volume_of(load(path)), path)
    assert volume_of(Flip(0)(load(path))).geometry.shape == (4, 5, 6)


def test_a_tensor_is_an_array():
    tensor = torch.from_numpy(ARRAY)
    for arguments in ({"spacing": (1, 2, 3)}, {"affine": OBLIQUE}):
        found, expected = volume_of(tensor, **arguments), volume_of(ARRAY, **arguments)
        assert np.array_equal(found.array, expected.array)
        assert np.array_equal(found.geometry.affine, expected.geometry.affine)
    with pytest.raises(UserError, match="give either spacing"):
        volume_of(tensor)
    with pytest.raises(UserError, match=r"Give the scan in it: scan\['image'\]"):
        volume_of({"name": "a", "image": tensor, "label": tensor}, channels=("CT",))


@pytest.mark.parametrize(
    "convert",
    [
        torch.Tensor.to_sparse,
        lambda tensor: tensor.to("meta"),
        lambda tensor: torch.quantize_per_tensor(tensor, 1.0, 0, torch.qint8),
    ],
)
def test_a_tensor_without_a_value_for_each_voxel_is_refused(convert):
    with pytest.raises(UserError, match=r"the tensor: expected one with a value for each voxel.*to_dense\(\)"):
        volume_of(convert(torch.ones(4, 5, 6)), (1, 1, 1))
