"""The scans in a folder. Every file that may be a scan is read or reported."""

import os
from pathlib import Path

import pytest

from plans.errors import UserError
from textdiffseg.imaging.sources.files import read_volume
from textdiffseg.imaging.sources.scans import list_scans, unsearched_folders
from textdiffseg.imaging.sources.unread import unread_images
from textdiffseg.tasks.manifest import hash_inputs


def touch(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()


def test_endings_may_be_mixed_and_in_either_case(tmp_path):
    touch(
        tmp_path, "a.nii.gz", "b.NII.GZ", "c.nii", "d.nhdr", "d.raw", "e.hdr", "e.img", "f.MHD", "f.zraw", "notes.txt"
    )
    touch(tmp_path, "g_0000.nii.gz", "g_0001.nrrd")
    found = {case: [path.name for path in paths] for case, paths in list_scans(tmp_path).items()}
    assert found == {
        "a": ["a.nii.gz"],
        "b": ["b.NII.GZ"],
        "c": ["c.nii"],
        "d": ["d.nhdr"],
        "e": ["e.hdr"],
        "f": ["f.MHD"],
        "g": ["g_0000.nii.gz", "g_0001.nrrd"],
    }
    assert unread_images(list(tmp_path.iterdir())) == []
    assert list_scans(tmp_path / "e.img") == {"e": (tmp_path / "e.img",)}


def test_packed_voxels_beside_a_header_are_no_scan_of_their_own(tmp_path):
    touch(tmp_path, "A.hdr", "A.IMG.GZ")
    assert list_scans(tmp_path) == {"A": (tmp_path / "A.hdr",)}


def test_a_folder_that_cannot_be_read_does_not_stop_the_others(tmp_path, monkeypatch):
    (tmp_path / "lost+found").mkdir()
    touch(tmp_path, "a.nii.gz")
    iterdir = Path.iterdir

    def refuse(path):
        if path.name == "lost+found":
            raise PermissionError(13, "Permission denied", str(path))
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    monkeypatch.setattr("textdiffseg.imaging.sources.dicom.listing.has_series", lambda folder: folder.name[0] == "l")
    assert {*list_scans(tmp_path)} == {"a", "lost+found"}, "the folder is reported when it is read"
    assert unsearched_folders(tmp_path, set()) == []
    with pytest.raises(UserError, match=r"lost\+found cannot be read \(Permission denied\)"):
        hash_inputs((tmp_path / "lost+found",))


def test_images_that_are_not_read_are_named_one_by_one(tmp_path):
    touch(tmp_path, "a.nii.gz", "b.mgz", "c.img", "d.nii.bz2", "e.img.gz")
    scans = list_scans(tmp_path)
    assert [*scans] == ["a", "b", "c", "d", "e"]
    for case, words in (("b", "format is not read"), ("c", r"header c\.hdr is missing"), ("d", "format is not read")):
        with pytest.raises(UserError, match=words):
            read_volume(scans[case])


@pytest.mark.parametrize(
    ("one", "other"), [("a.nii.gz", "a.nrrd"), ("a.nii.gz", "a.NII.GZ"), ("a.hdr", "a.nii"), ("a.MHA", "a.mhd")]
)
def test_two_files_of_one_case_are_both_named(tmp_path, one, other):
    touch(tmp_path, one, other)
    with pytest.raises(UserError, match=rf"({one} and .*{other}|{other} and .*{one}) would be one case"):
        list_scans(tmp_path)


@pytest.mark.parametrize("file", ["A.nii.gz", "A_0000.nii.gz"])
def test_a_dicom_folder_and_a_file_of_one_case_are_both_named(tmp_path, file, monkeypatch):
    touch(tmp_path, file)
    (tmp_path / "A").mkdir()
    monkeypatch.setattr("textdiffseg.imaging.sources.dicom.listing.has_series", lambda folder: folder.name == "A")
    with pytest.raises(UserError, match=rf"{file} and .*A would be one case"):
        list_scans(tmp_path)


def test_names_that_are_not_utf_8_are_listed(tmp_path):
    name = os.fsdecode(b"\xff")
    touch(tmp_path, f"{name}.nii.gz", "a.nii.gz")
    (tmp_path / f"{name}_folder").mkdir()
    assert [*list_scans(tmp_path)] == ["a", name]


def test_links_that_lead_nowhere_are_named(tmp_path):
    touch(tmp_path, "a.nii.gz")
    (tmp_path / "b.nii.gz").symlink_to(tmp_path / "gone.nii.gz")
    scans = list_scans(tmp_path)
    assert [*scans] == ["a", "b"]
    with pytest.raises(UserError, match=r"b\.nii\.gz does not exist"):
        read_volume(scans["b"])


def test_a_dicom_folder_whose_name_is_not_utf_8_is_listed_and_refused(tmp_path):
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    (folder / "slice").write_bytes(bytes(128) + b"DICM")
    (tmp_path / os.fsdecode(b"\xfe")).mkdir()
    ((scan,),) = list_scans(tmp_path).values()
    assert scan == folder
    with pytest.raises(UserError, match="its name is not in UTF-8"):
        read_volume((scan,))


def test_what_has_a_scan_s_name_but_is_not_a_file_is_named(tmp_path):
    touch(tmp_path, "a.nii.gz")
    os.mkfifo(tmp_path / "pipe.nii.gz")
    (tmp_path / "folder.nii").mkdir()
    scans = list_scans(tmp_path)
    assert [*scans] == ["a", "folder", "pipe"]
    for read in (read_volume, hash_inputs):
        with pytest.raises(UserError, match=r"pipe\.nii\.gz is not a plain file"):
            read(scans["pipe"])
    with pytest.raises(UserError, match=r"folder\.nii holds no DICOM slices"):
        read_volume(scans["folder"])
    assert list_scans(tmp_path / "pipe.nii.gz") == {"pipe": (tmp_path / "pipe.nii.gz",)}


def test_folders_with_scans_of_their_own_are_found(tmp_path):
    touch(tmp_path, "a.nii.gz")
    touch(tmp_path / "patient", "ct.nii.gz")
    touch(tmp_path / "notes", "a.txt")
    touch(tmp_path / "out", "a.nii.gz")
    assert unsearched_folders(tmp_path, {tmp_path / "out"}) == [tmp_path / "patient"]
    assert unsearched_folders(tmp_path, set(), lambda path: path.parent.name == "out") == [tmp_path / "patient"]


def test_a_folder_without_scans_leads_to_those_below(tmp_path):
    touch(tmp_path, "notes.txt")
    (tmp_path / "patient" / "study").mkdir(parents=True)
    touch(tmp_path / "patient" / "study", "ct.nii.gz")
    with pytest.raises(UserError, match=r"Scans lie in .*patient/study: give that folder"):
        list_scans(tmp_path)


def test_a_file_of_voxels_in_capitals_is_the_scan_of_its_header(tmp_path):
    for name in ("A.HDR", "A.IMG", "b.hdr", "b.Img"):
        (tmp_path / name).touch()
    assert list_scans(tmp_path / "A.IMG") == {"A": (tmp_path / "A.IMG",)}
    assert list_scans(tmp_path / "b.Img") == {"b": (tmp_path / "b.Img",)}


@pytest.mark.parametrize(
    "name",
    ["b.mif", "b.mif.gz", "b.HEAD", "b.BRIK", "b.npy", "b.npz", "b.dcm.gz", "b.nii.Z", "b.nrrd.bz2", "b.PAR", "b.vti"],
)
def test_an_image_of_a_format_that_is_not_read_is_not_dropped(tmp_path, name):
    for file in ("a.nii.gz", name):
        (tmp_path / file).touch()
    assert list_scans(tmp_path) == {"a": (tmp_path / "a.nii.gz",), "b": (tmp_path / name,)}
    with pytest.raises(UserError):
        read_volume((tmp_path / name,))
