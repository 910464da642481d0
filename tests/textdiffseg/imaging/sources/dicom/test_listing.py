"""Which DICOM files are scans, under which id, and which series is read."""

import re
import struct
import zipfile
from itertools import pairwise

import numpy as np
import pytest

from plans.errors import UserError
from textdiffseg.imaging.sources.dicom import series_in
from textdiffseg.imaging.sources.files import read_volume
from textdiffseg.imaging.sources.objects import volume_of
from textdiffseg.imaging.sources.scans import list_scans
from textdiffseg.tasks.manifest import hash_inputs


@pytest.fixture
def hospital(tmp_path, write_series, write_dicom, voxels):
    """Two patients, with studies and series in folders of their own."""
    folder = tmp_path / "hospital"
    for number, place in enumerate(("P1/CT", "P1/MR/T1", "P2/study/series/slices")):
        write_series(folder / place, voxels + number, series=f"1.2.{number}", name="IM{}")
    write_dicom(folder / "DICOMDIR", voxels[0], pixels=None, rows=None, sop_class=None)
    return folder


def test_series_are_found_at_any_depth(hospital, voxels):
    scans = list_scans(hospital)
    places = {case: str(path.relative_to(hospital)) for case, (path,) in scans.items()}
    assert places == {"P1_CT": "P1/CT", "P1_MR_T1": "P1/MR/T1", "P2_study_series_slices": "P2/study/series/slices"}
    assert np.array_equal(read_volume(scans["P1_MR_T1"]).array[0], voxels + 1)


def test_a_link_to_a_folder_above_does_not_loop(hospital):
    (hospital / "P1" / "again").symlink_to(hospital)
    assert "P1_CT" in list_scans(hospital)


def test_long_paths_give_ids_that_can_be_file_names(tmp_path, write_series, voxels):
    for number in range(2):
        write_series(tmp_path / "in" / ("1." * 60 + "1") / ("2." * 60 + str(number)), voxels, series=str(number))
    cases = [*list_scans(tmp_path / "in")]
    assert len(cases) == 2
    assert max(map(len, cases)) <= 200


def test_listing_reads_no_pixels_and_few_headers(tmp_path, write_series, monkeypatch):
    for number in range(20):
        write_series(tmp_path / "in" / f"P{number}", np.zeros((30, 4, 4), np.int16), series=f"1.{number}")
    read = []
    from textdiffseg.imaging.sources.dicom import reading

    original = reading.read_instance
    monkeypatch.setattr(reading, "read_instance", lambda place: read.append(place.name) or original(place))
    assert len(list_scans(tmp_path / "in")) == 20
    assert len(read) == 20


def test_one_slice_stands_for_its_folder_and_a_multi_frame_file_for_itself(
    tmp_path, write_series, write_multi_frame, voxels
):
    folder = write_series(tmp_path / "patient", voxels)
    assert list_scans(folder / "slice2.dcm") == {"patient": (folder / "slice2.dcm",)}
    path = write_multi_frame(tmp_path / "many.dcm", voxels, [(1, 2, number) for number in range(5)])
    assert list_scans(path) == {"many": (path,)}


def test_zips_are_scans(tmp_path, write_series, voxels):
    folder = write_series(tmp_path / "x", voxels)
    (tmp_path / "in").mkdir()
    for name, files in (("A.zip", sorted(folder.iterdir())), ("other.zip", [])):
        with zipfile.ZipFile(tmp_path / "in" / name, "w") as archive:
            for number in range(300):  # a viewer
                archive.writestr(f"VIEWER/{number}.html", "x")
            for file in files:
                archive.write(file, file.stem)
    path = tmp_path / "in" / "A.zip"
    assert list_scans(tmp_path / "in") == {"A": (path,)} == list_scans(path)
    write_series(tmp_path / "in" / "A", voxels)
    with pytest.raises(UserError, match="would be one case"):
        list_scans(tmp_path / "in")


def test_slices_beside_other_scans_are_scans(tmp_path, write_series, voxels):
    folder = tmp_path / "in"
    write_series(folder, voxels, name="IM{}")
    (folder / "b.nii.gz").touch()
    (folder / "notes.txt").touch()
    scans = list_scans(folder)
    assert scans == {"b": (folder / "b.nii.gz",), "in": (folder / "IM1",)}
    assert np.array_equal(read_volume(scans["in"]).array[0], voxels)
    before = hash_inputs(scans["in"])
    (folder / "notes.txt").write_text("x")
    assert hash_inputs(scans["in"]) == before
    (folder / "IM3").write_bytes((folder / "IM3").read_bytes()[:-1] + b"x")
    assert hash_inputs(scans["in"]) != before
    write_series(folder, voxels, series="1.2.4", name="other{}")
    assert [*list_scans(folder)] == ["b", "in_series1", "in_series2"]


def test_multi_frame_files_of_several_studies_are_one_scan_each(tmp_path, write_multi_frame, voxels):
    places = [(1, 2, number) for number in range(5)]
    folder = tmp_path / "in"
    for number in range(2):
        write_multi_frame(folder / f"c{number}.dcm", voxels, places, study=f"1.{number}", series=f"1.{number}.1")
    assert [*list_scans(folder)] == ["c0", "c1"]
    assert [*list_scans(tmp_path)] == ["in_c0", "in_c1"]
    for number in range(2):  # series of one study
        write_multi_frame(folder / f"c{number}.dcm", voxels, places, study="1", series=f"1.{number}.1")
    assert list_scans(folder) == {"in": (folder,)}


def test_a_chosen_series_of_several_multi_frame_files_is_read_whole(tmp_path, write_series, write_multi_frame, voxels):
    """As without a choice. A multi-frame file stands for itself alone, so it cannot stand for such a series."""
    folder, places = tmp_path / "in", [(1, 2, 2.0 * number) for number in range(5)]
    for name, part in (("b", slice(0, 2)), ("a", slice(2, 5))):
        write_multi_frame(folder / f"{name}.dcm", voxels[part], places[part], series="1.5", instance=f"1.5.{name}")
    whole = read_volume((folder,)).array
    assert np.array_equal(whole[0], voxels)
    assert list_scans(folder, series="1.5") == {"in": (folder,)}
    assert np.array_equal(read_volume((folder / "a.dcm",), series="1.5").array, whole)
    assert len(read_volume((folder / "a.dcm",)).array[0]) == 3, "the file alone"
    write_series(folder, voxels[:2], series="1.6", name="small{}")
    paths = list_scans(folder, series="1.5")["in_1.5"]
    assert np.array_equal(read_volume(paths).array, whole)
    write_series(folder, np.zeros((9, 8, 8), np.int16), series="1.7", name="large{}")
    with pytest.raises(UserError, match=r"series 1\.5 has several multi-frame files, beside a larger series"):
        list_scans(folder, series="1.5")


def test_folders_may_be_channels(tmp_path, write_series, voxels):
    for number in range(2):
        write_series(tmp_path / "in" / f"A_{number:04d}", voxels + number, series=f"1.{number}")
    scans = list_scans(tmp_path / "in")
    assert [*scans] == ["A"]
    assert np.array_equal(read_volume(scans["A"]).array, np.stack([voxels, voxels + 1]))


@pytest.fixture
def study(tmp_path, write_series, voxels):
    """A folder with a scan, a smaller one, a localizer, and a picture of each slice of both."""
    folder = tmp_path / "study"
    write_series(folder, voxels, series="1.1", series_number=4, name="a{}")
    write_series(folder, voxels[:3] + 5, series="1.2", series_number=2, name="b{}", description="Secret finding")
    write_series(folder, voxels[:2], series="1.3", name="c{}", image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"))
    write_series(folder, np.zeros((8, 40, 40), np.int16), series="1.4", name="d{}", position=None, modality="OT")
    return folder


def test_the_largest_series_is_read_and_the_others_are_named(study, voxels):
    scan = read_volume((study,))
    assert np.array_equal(scan.array[0], voxels)
    first, second = scan.notes
    assert "largest series was read, 1.1 (CT, number 4, 5 slices of 7x6)" in first
    assert "Others: 1.2 (CT, number 2, 3 slices of 7x6), 1.4 (OT, 8 slices of 40x40). --series chooses by UID." in first
    assert second == "Localizers were left out: 2."
    assert "Secret" not in first


def test_of_two_series_of_one_size_the_lower_number_is_read(tmp_path, write_series, voxels):
    for number in (3, 2):
        write_series(tmp_path, voxels + number, series=f"1.{number}", series_number=number, name=f"{number}_{{}}")
    assert np.array_equal(read_volume((tmp_path,)).array[0], voxels + 2)


def test_localizers_inside_a_series_are_left_out(tmp_path, write_series, write_dicom, voxels):
    write_series(tmp_path, voxels)
    scout = {"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER"), "orientation": (0, 1, 0, 0, 0, -1)}
    write_dicom(tmp_path / "scout", np.zeros((99, 99)), position=(0, 0, 0), **scout)
    scan = read_volume((tmp_path,))
    assert np.array_equal(scan.array[0], voxels)
    assert scan.notes == ("Localizers were left out: 1.",)


def test_a_series_is_chosen_by_its_uid(study, voxels):
    assert np.array_equal(read_volume((study,), series="1.2").array[0], voxels[:3] + 5)
    scans = list_scans(study, series="1.2")
    ((case, (path,)),) = scans.items()
    assert case == "study_1.2", "another series of the folder has another id"
    assert np.array_equal(read_volume((path,)).array[0], voxels[:3] + 5)
    assert hash_inputs((path,)) != hash_inputs((study,))
    for choose in (lambda: read_volume((study,), series="1.9"), lambda: list_scans(study.parent, series="1.9")):
        with pytest.raises(UserError, match=r"no series '1\.9'.*1\.1 \(CT, number 4, 5 slices of 7x6\)"):
            choose()
    assert [*series_in(study)] == ["1.1", "1.2", "1.3", "1.4"]


def test_a_series_is_for_dicom_only(study, voxels, tmp_path):
    assert np.array_equal(volume_of(study, series="1.2").array[0], voxels[:3] + 5)
    with pytest.raises(UserError, match="series= is for DICOM files only"):
        volume_of(voxels, spacing=(1, 1, 1), series="1.2")
    (tmp_path / "a.nii.gz").touch()
    with pytest.raises(UserError, match="is not DICOM, so it has no series"):
        volume_of(tmp_path / "a.nii.gz", series="1.2")


def test_a_uid_for_other_scans_is_one_line_with_advice(tmp_path):
    (tmp_path / "a.nii.gz").touch()
    with pytest.raises(UserError, match=r"no series .1\.2.\. It holds no DICOM series, so leave the UID out\."):
        list_scans(tmp_path, series="1.2")


def test_a_series_in_a_folder_of_folders_is_chosen_by_its_uid(hospital):
    assert [*list_scans(hospital, series="1.2.1")] == ["P1_MR_T1"]


def test_ids_do_not_depend_on_other_scans(hospital, write_series, voxels):
    cases = [*list_scans(hospital)]
    write_series(hospital / "P0", voxels)
    assert {*cases} <= {*list_scans(hospital)}
    assert all(one < other for one, other in pairwise(list_scans(hospital)))


def test_folders_of_localizers_and_colour_pictures_are_not_scans_beside_others(hospital, write_series, voxels):
    before = list_scans(hospital)
    write_series(hospital / "P1" / "scout", voxels[:2], series="1.9", image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"))
    write_series(hospital / "P1" / "dose", voxels[:1], series="1.8", samples=3)
    assert list_scans(hospital) == before
    assert list(list_scans(hospital / "P1" / "scout")) == ["scout"], "it is reported when it is read"


@pytest.mark.parametrize("name", ["DICOMDIR", "dicomdir", "index.dcm"])
def test_the_index_of_a_medium_is_named_if_it_is_given_as_a_scan(hospital, name):
    """Viewers open the index. Here the folder beside it is the scan."""
    sop_class, syntax = b"1.2.840.10008.1.3.10", b"1.2.840.10008.1.2.1\0"
    meta = b"".join(
        struct.pack("<HH2sH", 2, tag, b"UI", len(value)) + value for tag, value in ((2, sop_class), (16, syntax))
    )
    (hospital / "DICOMDIR").unlink()
    path = hospital / name
    path.write_bytes(bytes(128) + b"DICM" + meta + struct.pack("<HH2sH", 4, 0x1130, b"CS", 4) + b"DISK")
    line = f"{re.escape(str(path))} is a DICOMDIR: .* holds no image. Give the folder .*{re.escape(str(hospital))},"
    for series in (None, "1.2.1"):
        with pytest.raises(UserError, match=line):
            read_volume((path,), series=series)
    if name != "index.dcm":
        with pytest.raises(UserError, match=line):
            list_scans(path)
    assert len(list_scans(hospital)) == 3


def test_the_index_of_a_medium_and_other_files_are_not_slices(tmp_path, write_series, write_dicom, voxels):
    folder = write_series(tmp_path / "in", voxels)
    before = hash_inputs((folder,))
    (folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (folder / "in.json").write_text("{}")
    assert np.array_equal(read_volume((folder,)).array[0], voxels)
    assert hash_inputs((folder,)) == before, "a mask in the folder of its slices does not make it incomplete"


def test_the_series_that_was_chosen_is_noted_if_there_are_others(tmp_path, write_series, voxels):
    write_series(tmp_path / "in", voxels, series="1.3", name="a{}")
    write_series(tmp_path / "in", voxels[:4], series="1.4", name="b{}")
    (note,) = read_volume((tmp_path / "in",), series="1.4").notes
    assert note.startswith("The series that was chosen was read, 1.4 (CT, 4 slices of 7x6). Others: 1.3 (CT, 5 slices")
