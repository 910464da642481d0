"""A series whose slices lie in several folders is one scan, or it is named."""

import numpy as np
import pytest

from plans.errors import UserError
from plans.raw.case_list import CaseList
from textdiffseg.imaging.sources.dicom import parts
from textdiffseg.imaging.sources.dicom.parts import lines_on_split_series
from textdiffseg.imaging.sources.files import files_of, read_geometry, read_volume
from textdiffseg.imaging.sources.scans import list_scans
from textdiffseg.tasks.manifest import hash_inputs
from textdiffseg.tasks.predict import report_unsearched

HALVES = {"a": slice(0, 2), "b": slice(2, 5)}
PLACES = [2.0 * number for number in range(5)]


def uids(numbers):
    """The UID of each slice of the whole series."""
    return [{"instance": f"1.2.3.{number}"} for number in range(5)[numbers]]


@pytest.fixture
def halves(tmp_path, write_series, voxels):
    """A patient with a series in two folders, and with another series."""

    def write(**places):
        folder = tmp_path / "patient"
        for name, part in HALVES.items():
            write_series(folder / "CT" / name, voxels[part], places.get(name, PLACES[part]), each=uids(part))
        write_series(folder / "MR", voxels + 1, series="1.2.4")
        return folder

    return write


def paths_of(scans, folder):
    return {case: str(path.relative_to(folder)) for case, (path,) in scans.items()}


def test_folders_whose_slices_are_one_stack_are_one_scan(halves, voxels):
    """Its id is that of the folder above, as if all slices lay there."""
    folder = halves()
    scans = list_scans(folder)
    assert paths_of(scans, folder) == {"CT": "CT", "MR": "MR"}
    scan = read_volume(scans["CT"])
    assert np.array_equal(scan.array[0], voxels)
    assert scan.notes == ("Its slices were read from 2 folders: a, b.",)
    assert read_geometry(scans["CT"][0]).matches(scan.geometry)
    assert list_scans(folder / "CT") == {"CT": (folder / "CT",)}
    assert lines_on_split_series([path for (path,) in scans.values()]) == []
    before = hash_inputs(scans["CT"])
    (folder / "CT" / "b" / "slice1.dcm").write_bytes(b"x")
    assert hash_inputs(scans["CT"]) != before


def test_outputs_below_the_folder_of_the_halves_change_nothing(halves, voxels, write_dicom):
    folder = halves()
    segmentation = "1.2.840.10008.5.1.4.1.1.66.4"
    write_dicom(folder / "CT" / "out" / "dicom-seg" / "CT.dcm", voxels, sop_class=segmentation, frames=5)
    (folder / "CT" / "out" / "CT.nii.gz").touch()
    assert np.array_equal(read_volume(list_scans(folder)["CT"]).array[0], voxels)


def test_a_chosen_series_in_two_folders_is_read_whole(halves, voxels):
    scans = list_scans(halves(), series="1.2.3")
    assert [*scans] == ["CT"]
    assert np.array_equal(read_volume(scans["CT"], series="1.2.3").array[0], voxels)


def test_a_slice_that_lies_in_both_folders_is_used_once(tmp_path, write_series, voxels):
    for name, part in (("a", slice(0, 3)), ("b", slice(2, 5))):
        write_series(tmp_path / "CT" / name, voxels[part], PLACES[part], each=uids(part))
    ((path,),) = list_scans(tmp_path / "CT").values()
    assert np.array_equal(read_volume((path,)).array[0], voxels)


@pytest.mark.parametrize("second", [[0.0, 2.0, 4.0], [8.0, 10.0, 12.0]])
def test_folders_whose_slices_are_no_stack_stay_apart_and_are_named(halves, second):
    """Positions are double, or slices are missing between the folders."""
    folder = halves(b=second)
    scans = list_scans(folder)
    assert [*scans] == ["CT_a", "CT_b", "MR"]
    (line,) = lines_on_split_series([path for (path,) in scans.values()])
    chosen = list_scans(folder, series="1.2.3")
    assert [*chosen] == ["CT_a", "CT_b"]
    assert lines_on_split_series([path for (path,) in chosen.values()]) == [line]
    assert f"series 1.2.3 lie in several folders, and each folder is a scan of its own: {folder}/CT/a (2 files)" in line
    assert f"{folder}/CT/b (3 files). If they are one scan, put them into one folder." in line
    with pytest.raises(UserError, match=r"a/slice1\.dcm and b/slice3\.dcm|a/slice2\.dcm and b/slice3\.dcm"):
        read_volume((folder / "CT",))


def test_prediction_reports_a_series_in_several_scans(halves, tmp_path):
    folder, lines = halves(b=[8.0, 10.0, 12.0]), []
    report_unsearched(folder, list_scans(folder), tmp_path / "out", lines.append)
    (line,) = lines
    assert line.startswith("Note: Slices of series 1.2.3 lie in several folders")


def test_copies_and_phases_stay_scans_of_their_own_without_a_line(tmp_path, write_series, voxels):
    """Each of them is whole. Other messages ask for phases in folders of their own."""
    for name, array in (("one", voxels), ("copy", voxels), ("phase", voxels + 1)):
        write_series(tmp_path / "CT" / name, array)
    scans = list_scans(tmp_path / "CT")
    assert [*scans] == ["copy", "one", "phase"]
    assert lines_on_split_series([path for (path,) in scans.values()]) == []


def test_a_copy_of_some_slices_is_named(tmp_path, write_series, voxels):
    """The other folder has all slices, so nothing has to be joined."""
    write_series(tmp_path / "CT" / "all", voxels, each=uids(slice(None)))
    write_series(tmp_path / "CT" / "some", voxels[:2], PLACES[:2], each=uids(slice(0, 2)))
    scans = list_scans(tmp_path / "CT")
    assert [*scans] == ["all", "some"]
    assert len(lines_on_split_series([path for (path,) in scans.values()])) == 1


def test_slices_in_a_folder_and_below_it_are_named(tmp_path, write_series, voxels):
    """A folder with slices of its own stands for these alone."""
    for name, part in ((".", slice(0, 2)), ("more", slice(2, 5))):
        write_series(tmp_path / "CT" / name, voxels[part], PLACES[part], each=uids(part))
    scans = list_scans(tmp_path / "CT")
    assert [*scans] == ["CT", "more"]
    assert len(read_volume(scans["CT"]).array[0]) == 2
    assert len(lines_on_split_series([path for (path,) in scans.values()])) == 1


@pytest.mark.parametrize("fields", [{"instance": "1.2.3.7"}, {"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER")}])
def test_contradictions_and_localizers_are_not_joined(tmp_path, write_series, voxels, fields):
    """Joined, they could not be read. Here one slice of each folder has the same SOPInstanceUID."""
    for name, part in HALVES.items():
        each = [fields, *uids(part)[1:]] if "instance" in fields else uids(part)
        common = {} if "instance" in fields else fields
        write_series(tmp_path / "CT" / name, voxels[part], PLACES[part], each=each, **common)
    assert [*list_scans(tmp_path / "CT")] == ["a", "b"]


@pytest.fixture
def study(tmp_path, write_series, voxels):
    """A study with the halves of a series beside another series."""
    for name, part in HALVES.items():
        write_series(tmp_path / "study" / name, voxels[part], PLACES[part], each=uids(part))
    write_series(tmp_path / "study" / "scout", voxels + 1, series="1.2.4")
    return tmp_path / "study"


def test_halves_beside_another_series_are_one_scan(study, voxels):
    """The folder above cannot stand for the scan. So its first slice does."""
    scans = list_scans(study)
    assert [*scans] == ["a", "scout"]
    (path,) = scans["a"]
    assert path.parent == study / "a"
    assert path.is_file()
    for source in (path, study / "b" / "slice1.dcm"):
        scan = read_volume((source,))
        assert np.array_equal(scan.array[0], voxels)
        assert scan.notes == ("Its slices were read from 2 folders: a, b.",)
        assert read_geometry(source).matches(scan.geometry)
    assert {file.parent.name for file in files_of(path)} == {"a", "b"}
    assert lines_on_split_series([one for (one,) in scans.values()]) == []
    assert list_scans(study, series="1.2.3") == {"a": (path,)}
    before = hash_inputs((path,))
    (study / "b" / "slice1.dcm").write_bytes(b"x")
    assert hash_inputs((path,)) != before


def test_the_id_of_halves_beside_another_series_is_that_of_the_first_folder(study):
    assert [*list_scans(study.parent)] == ["study_a", "study_scout"]


def test_a_slice_among_many_folders_stands_for_its_own_one(study, voxels, monkeypatch):
    """The first slice of each folder beside would have to be read."""
    monkeypatch.setattr(parts, "MAX_PARTS", 2)
    assert [*list_scans(study)] == ["a", "b", "scout"]
    assert len(read_volume((study / "a" / "slice1.dcm",)).array[0]) == 2


def test_halves_that_do_not_lie_beside_each_other_are_named(study):
    (study / "more").mkdir()
    (study / "b").rename(study / "more" / "b")
    scans = list_scans(study)
    assert [*scans] == ["a", "more_b", "scout"]
    assert len(lines_on_split_series([path for (path,) in scans.values()])) == 1


def test_a_half_that_is_given_alone_is_reported(study, tmp_path):
    """A folder that the user gives is read as it is."""
    for folder, count in ((study / "a", 1), (study / "scout", 0)):
        lines = []
        report_unsearched(folder, list_scans(folder), tmp_path / "out", lines.append)
        assert len(lines) == count
        assert all("1.2.3 lie in several folders" in line for line in lines)


def test_halves_in_a_list_are_reported(study, tmp_path):
    path, lines = tmp_path / "cases.csv", []
    path.write_text("case,image\nx,study/a\ny,study/b\n")
    cases = CaseList.read(path)
    report_unsearched(cases, cases.scans, tmp_path / "out", lines.append)
    (line,) = lines
    assert line.startswith("Note: Slices of series 1.2.3 lie in several folders")


def test_a_folder_above_several_series_is_not_a_scan(halves):
    with pytest.raises(UserError, match="holds no DICOM slices itself, and those in its folders are no single scan"):
        read_volume((halves(),))
