"""MONAI's MetaTensor as a scan and as a mask: the same voxels in the same place as with files."""

import sys

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImage, SaveImage, Spacing

import textdiffseg as tds

load = LoadImage(image_only=True, ensure_channel_first=True)


@pytest.fixture
def model(root):
    return tds.load(root / "results" / "Dataset900_Tiny" / "default", folds=["0"], device="cpu")


@pytest.fixture
def scan(tmp_path, make_scan):
    """An oblique scan whose axes are neither canonical nor of equal length. Its header has a sform alone."""
    path = tmp_path / "case.nii.gz"
    make_scan(path)
    image = nib.load(path)
    turned = nib.Nifti1Image(np.asanyarray(image.dataobj).transpose(2, 0, 1), image.affine[:, [2, 0, 1, 3]])
    turned.header.set_xyzt_units("mm", "sec")
    turned.set_qform(None, code=0)
    nib.save(turned, path)
    return path


def test_a_scan_in_memory_is_written_like_its_file(tmp_path, model, scan):
    """nibabel and MONAI have the axes (x, y, z). The written mask has the axes and the header's forms of the file."""
    image = nib.load(scan)
    by_file = model.segment(scan)
    by_file.write(tmp_path, "file.nii.gz")
    assert len(np.unique(by_file.labels)) == 3
    for number, one in enumerate((load(scan), image, load(scan)[None])):
        found = model.segment(one)
        assert np.array_equal(found.labels, by_file.labels.transpose())
        found.write(tmp_path, f"{number}.nii.gz")
        assert (tmp_path / f"{number}.nii.gz").read_bytes() == (tmp_path / "file.nii.gz").read_bytes()
    array = np.asanyarray(image.dataobj)
    for one in (array, torch.from_numpy(array.astype(np.float32))):
        model.segment(one, affine=image.affine).write(tmp_path, "array.nii.gz")
        written = nib.load(tmp_path / "array.nii.gz")
        assert np.array_equal(written.get_fdata(), by_file.labels.transpose())
        np.testing.assert_allclose(written.affine, image.affine, atol=1e-5)


def test_monai_saves_what_the_result_writes(tmp_path, model, scan):
    save = SaveImage(tmp_path / "monai", separate_folder=False, output_dtype=np.uint8, print_log=False)
    (tmp_path / "monai").mkdir()
    loaded, several = load(scan), load(scan)
    several.meta["original_channel_dim"] = -1  # as of a file with several channels
    for given in (loaded, several, scan):
        result = model.segment(given)
        result.write(tmp_path, "result.nii.gz")
        mask = result.metatensor()
        assert isinstance(mask, MetaTensor)
        assert mask.shape == loaded.shape
        torch.testing.assert_close(mask.affine, loaded.affine, atol=1e-6, rtol=0)
        save(mask, filename=str(tmp_path / "monai" / "mask"))
        found, expected = nib.load(tmp_path / "monai" / "mask.nii.gz"), nib.load(tmp_path / "result.nii.gz")
        assert np.array_equal(found.get_fdata(), expected.get_fdata())
        np.testing.assert_allclose(found.affine, expected.affine, atol=1e-6)
    save(model.segment(loaded).metatensor())
    assert (tmp_path / "monai" / "case_trans.nii.gz").is_file(), "the mask knows the scan's name"
    (each,) = model.segment_each([loaded])
    assert each.metatensor().meta["filename_or_obj"] == str(scan)


def test_the_mask_of_a_resampled_scan_can_be_inverted_to_its_file(model, scan):
    chain = Compose([load, Spacing((1.5, 1.5, 1.5), mode="bilinear")])
    mask = model.segment(chain(scan)).metatensor()
    assert mask.shape != load(scan).shape
    inverted = chain.inverse(mask)
    assert inverted.shape == load(scan).shape
    torch.testing.assert_close(inverted.affine, load(scan).affine)


def test_an_lps_scan_has_an_lps_mask(model, scan):
    lps = load(scan)
    lps.affine = np.diag([-1.0, -1, 1, 1]) @ lps.affine.numpy()
    lps.meta["space"] = "LPS"
    expected, result = model.segment(load(scan)), model.segment(lps)
    assert np.array_equal(result.labels, expected.labels)
    np.testing.assert_allclose(result.geometry.affine, expected.geometry.affine, atol=1e-5)
    mask = result.metatensor()
    assert mask.meta["space"] == "LPS"
    assert torch.equal(mask.affine, lps.affine)
    mask.meta["note"] = "mine"
    assert "note" not in result.metatensor().meta, "each call gives a copy"


def test_masks_are_shown_on_the_scan_as_it_was_given(model, scan, tmp_path):
    """A cube has the same shape with other axes, so the grids are compared."""
    cube = nib.Nifti1Image(np.random.default_rng(0).normal(100, 20, (16, 16, 16)), np.diag([1.0, 1, 2, 1]))
    nib.save(cube, scan)
    result = model.segment(scan)
    result.picture(tmp_path / "p.png", scan)
    for show in (result.view, lambda other: result.picture(tmp_path / "q.png", other)):
        with pytest.raises(tds.UserError, match="other axes or another place than the masks"):
            show(load(scan))


def test_without_monai_the_mask_is_refused_in_one_line(model, scan, monkeypatch):
    result = model.segment(scan)
    monkeypatch.setitem(sys.modules, "monai", None)
    with pytest.raises(tds.UserError, match=r"A MetaTensor needs monai: pip install 'textdiffseg\[train\]'"):
        result.metatensor()
