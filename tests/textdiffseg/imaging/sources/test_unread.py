"""Files that seem to be scans and are not read: each is named with the way out."""

import gzip
import zipfile

import nibabel as nib
import numpy as np
import pytest

from plans.errors import UserError
from textdiffseg.imaging.sources.files import read_volume
from textdiffseg.imaging.sources.scans import list_scans
from textdiffseg.imaging.sources.unread import unread_images


@pytest.fixture
def scan(tmp_path):
    """The bytes of a .nii.gz file."""
    nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.eye(4)).to_filename(tmp_path / "a.nii.gz")
    return (tmp_path / "a.nii.gz").read_bytes()


def zip_of(path, **members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("_", "."), content)


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("b.zip", "b.zip holds no DICOM slices, but other images. Unpack it."),
        ("b.rar", "b.rar: archives are not read. Unpack it."),
        ("b.7z", "b.7z: archives are not read. Unpack it."),
        ("b.TAR.gz", "b.TAR.gz: archives are not read. Unpack it."),
        ("b.tgz", "b.tgz: archives are not read. Unpack it."),
        ("b.nii.gz.gz", "b.nii.gz.gz: its format is not read. Unpack it."),
        ("b.nrrd.xz", "b.nrrd.xz: its format is not read. Unpack it."),
        ("b.mgz", "b.mgz: its format is not read. Convert it to one of .nii.gz, "),
        ("b", "b: it is NIfTI, but its name has no ending. Rename it to the ending of its format."),
    ],
)
def test_a_file_that_is_not_read_is_named(tmp_path, scan, name, line, alone):
    path = tmp_path / name
    path.write_bytes(scan)
    if name == "b.zip":
        zip_of(path, b_nii_gz=scan)
    if alone:
        (tmp_path / "a.nii.gz").unlink()
    scans = list_scans(tmp_path)
    assert scans == {"b": (path,)} | ({} if alone else {"a": (tmp_path / "a.nii.gz",)})
    for read in (lambda: read_volume(scans["b"]), lambda: read_volume(list_scans(path)["b"])):
        with pytest.raises(UserError) as error:
            read()
        assert error.value.lines[0].startswith(f"{tmp_path}/{line}")


def test_an_image_without_an_ending_may_be_unpacked_or_of_another_format(tmp_path, scan):
    (tmp_path / "b").write_bytes(gzip.decompress(scan))
    (tmp_path / "c").write_bytes(b"NRRD0004\n")
    assert [path.name for path in unread_images(sorted(tmp_path.iterdir()))] == ["b", "c"]


def test_other_files_are_not_named(tmp_path, scan):
    """Documents beside the scans, and DICOM, which is listed elsewhere."""
    (tmp_path / "README").write_text("the scans of a study")
    (tmp_path / "IM0001").write_bytes(bytes(128) + b"DICM" + bytes(400))
    (tmp_path / "notes.txt.gz").write_bytes(gzip.compress(b"notes"))
    (tmp_path / "study.1").write_bytes(scan)
    (tmp_path / "folder").mkdir()
    zip_of(tmp_path / "notes.zip", notes_txt=b"notes")
    assert unread_images(list(tmp_path.iterdir())) == []


def test_a_zip_of_slices_is_read(tmp_path):
    zip_of(tmp_path / "b.zip", a_nii_gz=b"", b_dcm=b"")
    assert unread_images([tmp_path / "b.zip"]) == []
