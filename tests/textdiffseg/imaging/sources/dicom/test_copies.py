"""Slices that lie twice in a folder or a zip."""

import os
import shutil
import tracemalloc
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from plans.errors import UserError
from textdiffseg.imaging.sources.dicom import source_slices
from textdiffseg.imaging.sources.dicom.copies import copies_among
from textdiffseg.imaging.sources.dicom.elements import UNDEFINED
from textdiffseg.imaging.sources.dicom.files import DicomFile
from textdiffseg.imaging.sources.dicom.instances import read_instance
from textdiffseg.imaging.sources.files import read_volume

NOTE = ("Copies of slices were left out: 5.",)


@pytest.fixture
def folder(tmp_path, write_series, voxels):
    return write_series(tmp_path / "in", voxels)


def test_a_folder_that_was_copied_into_itself_is_one_scan(folder, voxels):
    for path in sorted(folder.iterdir()):
        shutil.copy(path, folder / f"{path.stem} (1).dcm")
    scan = read_volume((folder,))
    assert np.array_equal(scan.array[0], voxels)
    assert scan.notes == NOTE
    assert len(source_slices(folder)) == 5


def test_slices_that_were_exported_twice_are_one_scan(tmp_path, write_series, voxels):
    for name, first in (("a{}", 1), ("b{}", 101)):
        each = [{"instance": f"1.2.3.{first + number}"} for number in range(5)]
        write_series(tmp_path / "in", voxels, name=name, each=each, undefined=name == "b{}")
    scan = read_volume((tmp_path / "in",))
    assert np.array_equal(scan.array[0], voxels)
    assert scan.notes == NOTE


def test_copies_in_a_zip_are_left_out(folder, tmp_path, voxels):
    with zipfile.ZipFile(tmp_path / "z.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in folder.iterdir():
            for place in ("a", "b"):
                archive.write(path, f"{place}/{path.name}")
    scan = read_volume((tmp_path / "z.zip",))
    assert np.array_equal(scan.array[0], voxels)
    assert scan.notes == NOTE


def test_copies_do_not_make_a_series_the_largest(tmp_path, write_series, voxels):
    small = write_series(tmp_path / "in", voxels[:3], series="1.1", name="small{}")
    for path in sorted(small.iterdir()):
        shutil.copy(path, small / f"copy of {path.name}")
    write_series(tmp_path / "in", voxels, series="1.2", name="large{}")
    assert np.array_equal(read_volume((small,)).array[0], voxels)


def test_two_phases_are_not_copies(tmp_path, write_series, voxels):
    write_series(tmp_path / "in", voxels, name="a{}")
    write_series(tmp_path / "in", voxels + 1, name="b{}", each=[{"instance": f"1.2.9.{n}"} for n in range(5)])
    with pytest.raises(UserError, match="5 of its 10 slices have the position of another one"):
        read_volume((tmp_path / "in",))


@pytest.mark.parametrize("fields", [{}, {"slope": 2}, {"position": (1, 2, 99)}])
def test_two_contents_of_one_uid_are_refused_by_name(folder, write_dicom, voxels, fields):
    """The second slice again: with another value, another slope, or elsewhere in space."""
    own = {"position": (1, 2, 2.0), "instance": "1.2.3.2"} | fields
    write_dicom(folder / "other.dcm", voxels[1] + (not fields), **own)
    with pytest.raises(UserError) as caught:
        read_volume((folder,))
    (line,) = caught.value.lines
    assert line.startswith(
        f"{folder}: other.dcm and slice4.dcm have the same SOPInstanceUID, but their contents differ"
    )


@pytest.mark.parametrize("uid", [None, "1.2.3"])
def test_slices_without_uids_of_their_own_are_read(tmp_path, write_series, voxels, uid):
    assert np.array_equal(read_volume((write_series(tmp_path / "in", voxels, instance=uid),)).array[0], voxels)


def test_a_slice_of_zeros_is_not_left_out_silently(folder):
    path = folder / "slice1.dcm"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(UserError, match=r"slice1\.dcm is truncated or damaged \(it begins with zeros\)"):
        read_volume((folder,))


@pytest.mark.parametrize("length", [2 * 42, UNDEFINED])
def test_bytes_behind_the_header_are_hashed_in_parts(folder, write_dicom, voxels, length):
    """A sparse file declares any size. Plain pixels end where they are declared to end."""
    for name in ("a", "b"):
        write_dicom(folder / name, voxels[0], position=(1, 2, 50.0), instance=f"1.2.9.{name}")
        os.truncate(folder / name, 1 << 26)
    found = [read_instance(DicomFile(folder / name)) for name in ("a", "b")]
    instances = [replace(one, header=replace(one.header, length=length)) for one in found]
    tracemalloc.start()
    assert copies_among(instances) == [1]
    assert tracemalloc.get_traced_memory()[1] < 1 << 23
    tracemalloc.stop()
