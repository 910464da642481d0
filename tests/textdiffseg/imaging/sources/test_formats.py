"""Files with the ending of another format: the message names the format, so that the user can rename the file."""

import bz2
import gzip
import lzma
import shutil

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from plans.errors import UserError
from textdiffseg.imaging.sources.files import read_volume


@pytest.fixture
def folder(tmp_path):
    """A file of each format, named by it."""
    array = np.random.default_rng(1).integers(0, 90, (5, 6, 7)).astype(np.int16)
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "a.nii.gz")
    nib.save(nib.Nifti2Image(array, np.eye(4)), tmp_path / "b.nii")
    (tmp_path / "b.nii").rename(tmp_path / "NIfTI2")
    (tmp_path / "a.nii.gz").rename(tmp_path / "NIfTI")
    for ending, name in ((".nrrd", "NRRD"), (".mha", "MetaImage")):
        sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / f"a{ending}"), useCompression=True)
        (tmp_path / f"a{ending}").rename(tmp_path / name)
    return tmp_path


def line_of(folder, name, ending):
    path = folder / f"x{ending}"
    shutil.copy(folder / name, path)
    with pytest.raises(UserError) as caught:
        read_volume((path,))
    (line,) = caught.value.lines
    return line.removeprefix(str(path))


@pytest.mark.parametrize("ending", [".nrrd", ".nhdr", ".mha", ".mhd", ".dcm", ".zip", ".nii", ".nii.gz", ".hdr"])
@pytest.mark.parametrize("name", ["NIfTI", "NIfTI2", "NRRD", "MetaImage"])
def test_the_format_is_named(folder, name, ending):
    own = {"NIfTI": (".nii", ".nii.gz", ".hdr"), "NRRD": (".nrrd", ".nhdr"), "MetaImage": (".mha", ".mhd")}
    if ending in own[name.rstrip("2")]:
        return
    line = line_of(folder, name, ending)
    assert line.startswith(" is not a ")
    assert line.endswith(f" file but {name.rstrip('2')}. Rename it to the ending of its format.")


def test_dicom_under_the_name_of_another_format(tmp_path):
    (tmp_path / "one").write_bytes(bytes(128) + b"DICM" + bytes(400))
    for ending, expected in ((".nii.gz", "NIfTI"), (".nrrd", "NRRD"), (".mha", "MetaImage")):
        line = line_of(tmp_path, "one", ending)
        assert line == f" is not a {expected} file but DICOM. Rename it to the ending of its format."


def test_a_compressed_file_of_another_format_is_to_be_unpacked(folder):
    (folder / "packed").write_bytes(gzip.compress((folder / "NRRD").read_bytes()))
    for ending in (".nrrd", ".nii.gz"):
        line = line_of(folder, "packed", ending)
        assert line == " is a NRRD file in gzip. Unpack it with gunzip, and give it the ending of its format."


def test_a_damaged_file_of_the_right_format_is_damaged(folder):
    content = (folder / "NRRD").read_bytes()
    (folder / "cut").write_bytes(content[: len(content) // 2])
    assert " is truncated or damaged (" in line_of(folder, "cut", ".nrrd")


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha", ".dcm", ".zip"])
def test_what_downloads_leave_in_place_of_a_scan_is_named(tmp_path, ending):
    content = np.random.default_rng(1).bytes(2000)
    for held, expected in (
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 34\n", "Git LFS"),
        (b"\n<!DOCTYPE html><html>Sign in</html>" + b" " * 600, "a web page"),
        (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "a web page or XML"),
        (gzip.compress(gzip.compress(content)), "compressed twice"),
        (bz2.compress(content), "Unpack it with `bunzip2`"),
        (lzma.compress(content), "Unpack it with `unxz`"),
    ):
        (tmp_path / "held").write_bytes(held)
        line = line_of(tmp_path, "held", ending)
        assert expected in line, (held[:20], line)
