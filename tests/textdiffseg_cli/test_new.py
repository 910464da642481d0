"""`tds_new`: from two folders to a data set, with everything that was guessed printed."""

import gzip
import json
import os
import shutil
from contextlib import contextmanager

import nibabel
import numpy as np
import pytest

from plans.errors import UserError
from plans.raw.dataset import read_dataset
from textdiffseg.imaging.sources.files import read_labels, read_volume
from textdiffseg.tasks.new import cases as new_cases
from textdiffseg.tasks.new import dataset as new_dataset
from textdiffseg.tasks.new import folder as new_folder
from textdiffseg_cli.new import main

AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])


def write(path, array, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(array, affine).to_filename(path)


def ct():
    image = np.full((16, 15, 12), -1000, np.int16)
    image[3:13, 3:13, 1:11] = 40
    return image


def mask(*values):
    array = np.zeros((16, 15, 12), np.uint8)
    for place, value in enumerate(values):
        array[4 + 2 * place : 6 + 2 * place, 4:8, 3:8] = value
    return array


@pytest.fixture
def folders(tmp_path):
    """Folders of six CTs and masks with the values 2 and 5; case c4 lacks value 5."""
    for place in range(6):
        write(tmp_path / "Spine" / "scans" / f"c{place}_CT.nii.gz", ct())
        write(tmp_path / "Spine" / "masks" / f"c{place}_seg.nii.gz", mask(2) if place == 4 else mask(2, 5))
    return tmp_path / "Spine" / "scans", tmp_path / "Spine" / "masks"


@pytest.fixture
def new(tmp_path, folders, capsys):
    """Run the command with the two folders, or other sources; returns (exit code, stdout, stderr)."""

    def run(*arguments, sources=folders):
        code = main([*map(str, sources), "--root", str(tmp_path / "root"), *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def made(tmp_path):
    return tmp_path / "root" / "raw" / "Dataset001_Spine"


def header(folder):
    return json.loads((folder / "dataset.json").read_text())


def test_two_folders_become_a_data_set_of_links(new, made, folders):
    code, out, _ = new()
    assert code == 0
    assert header(made)["channel_names"] == {"0": "CT"}
    assert header(made)["labels"] == {"background": 0, "label 2": 2, "label 5": 5}
    assert header(made)["annotated"] == {"c4": ["label 2"]}
    link = made / "imagesTr" / "c3_0000.nii.gz"
    assert link.is_symlink()
    assert link.resolve() == (folders[0] / "c3_CT.nii.gz").resolve()
    assert (made / "labelsTr" / "c3.nii.gz").resolve() == (folders[1] / "c3_seg.nii.gz").resolve()
    dataset = read_dataset(made)
    assert [case.id for case in dataset.cases] == [f"c{place}" for place in range(6)]
    assert dataset.cases[4].annotation.annotated == ("label 2",)
    assert len([*(made / "overlays").glob("*.png")]) == 4
    assert "Not drawn where missing: label 5." in out
    assert out.splitlines()[-2].startswith("Next: tds_run 1 --hours 4 --root ")


def test_files_of_a_folder_without_dataset_json_are_kept(new, made, tmp_path):
    """A user began a data set by hand."""
    write(made / "imagesTr" / "c3_0000.nii.gz", ct())
    own = (made / "imagesTr" / "c3_0000.nii.gz").read_bytes()
    (made / "labelsTr").mkdir()
    (made / "labelsTr" / "mine.nii.gz").symlink_to(tmp_path / "anything")
    code, _, err = new()
    assert (code, "holds files already, but no dataset.json" in err) == (2, True)
    assert (made / "imagesTr" / "c3_0000.nii.gz").read_bytes() == own
    assert (made / "labelsTr" / "mine.nii.gz").is_symlink()


def test_a_pair_with_packed_voxels_is_linked_whole(new, made, folders):
    image = nibabel.Nifti1Pair(ct(), AFFINE)
    image.to_filename(folders[0] / "c3_CT.img.gz")
    (folders[0] / "c3_CT.nii.gz").unlink()
    header_file = next(folders[0].glob("c3_CT.hdr*"))
    if header_file.suffix == ".gz":
        (folders[0] / "c3_CT.hdr").write_bytes(gzip.decompress(header_file.read_bytes()))
        header_file.unlink()
    assert new()[0] == 0
    assert {path.name for path in (made / "imagesTr").glob("c3*")} == {"c3_0000.hdr", "c3_0000.img.gz"}
    assert np.array_equal(read_volume((made / "imagesTr" / "c3_0000.hdr",)).array[0].T, ct())


def test_the_labels_get_their_names(new, made, tmp_path):
    assert new("--labels", "vertebra=2", "rib=5")[0] == 0
    assert header(made)["labels"] == {"background": 0, "vertebra": 2, "rib": 5}
    (tmp_path / "names.json").write_text('{"1": "nothing", "2": "vertebra", "5": "disc"}')
    assert new("--labels", tmp_path / "names.json", "--overwrite")[0] == 0
    assert header(made)["labels"] == {"background": 0, "nothing": 1, "vertebra": 2, "disc": 5}


def test_it_can_be_typed_again(new, made):
    new()
    (made / "dataset.json").write_text((made / "dataset.json").read_text().replace("label 2", "vertebra"))
    code, out, _ = new()
    assert code == 0
    assert "Nothing is left to do" in out
    assert "vertebra" in header(made)["labels"], "the user's change is kept"


def test_a_run_that_was_killed_goes_on_in_its_folder(new, made, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("textdiffseg.tasks.new.dataset.write_atomically", killed)
        assert new()[0] == 130
    assert new()[0] == 0
    assert [path.name for path in made.parent.iterdir()] == [made.name]


def test_a_run_that_was_killed_while_it_drew_is_repeated(new, made, monkeypatch):
    def killed(path, *_):
        path.write_bytes(b"half a picture")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("textdiffseg.imaging.planes.draw_planes", killed)
        assert new()[0] == 130
    assert not (made / "dataset.json").exists(), "it would count as complete"
    code, out, _ = new()
    assert (code, "6 cases" in out, "Look at 4 pictures" in out) == (0, True, True)
    assert len([*(made / "overlays").glob("*.png")]) == 4
    before = content(made)
    with monkeypatch.context() as patch:
        patch.setattr("textdiffseg.imaging.planes.draw_planes", killed)
        assert new("--overwrite")[0] == 130
    assert content(made) == before


def test_a_data_set_with_a_fault_does_not_count_as_made(new, made):
    (made / "texts").mkdir(parents=True)
    (made / "texts" / "c99.txt").write_text("a text of no case")
    code, _, err = new()
    assert (code, "c99.txt" in err) == (2, True)
    assert not (made / "dataset.json").exists()
    (made / "texts" / "c99.txt").unlink()
    code, out, _ = new()
    assert (code, "Written:" in out) == (0, True)


def test_a_case_named_like_a_channel_of_another_one_is_left_out(new, made, folders):
    scans, masks = folders
    shutil.copy(scans / "c0_CT.nii.gz", scans / "c1_0000_CT.nii.gz")
    shutil.copy(masks / "c0_seg.nii.gz", masks / "c1_0000_seg.nii.gz")
    code, out, _ = new()
    assert (code, "Left out: case c1_0000: it would be a channel of case c1." in out) == (0, True)
    assert [case.id for case in read_dataset(made).cases] == [f"c{place}" for place in range(6)]


def test_other_sources_get_the_next_number(new, made, folders, tmp_path):
    new()
    shutil.copytree(folders[0], tmp_path / "other" / "Spine")
    assert new(sources=(tmp_path / "other" / "Spine", folders[1]))[0] == 0
    assert (made.parent / "Dataset002_Spine" / "dataset.json").is_file()
    code, _, err = new("-o", made, sources=(tmp_path / "other" / "Spine", folders[1]))
    assert (code, "holds another data set already" in err) == (2, True)


def test_sources_that_have_moved_are_named_with_the_way_out(new, made, folders):
    new()
    moved = folders[0].parent.rename(folders[0].parent.parent / "moved") / "scans"
    with pytest.raises(UserError, match=r"c0_0000\.nii\.gz is a link to \S*c0_CT\.nii\.gz, which is not there"):
        read_dataset(made)
    sources = (moved, moved.parent / "masks")
    code, _, err = new("--name", "Spine", sources=sources)
    assert (code, f"-o {made} --overwrite" in err) == (2, True)
    assert new("-o", made, "--overwrite", sources=sources)[0] == 0
    assert len(read_dataset(made).cases) == 6
    assert [path.name for path in made.parent.iterdir()] == [made.name]


def test_what_has_no_partner_is_printed(new, folders):
    os.rename(folders[0] / "c0_CT.nii.gz", folders[0] / "x_CT.nii.gz")
    _, out, _ = new()
    assert "Scans without a mask (1): x_CT" in out
    assert "Masks without a scan (1): c0_seg" in out


def test_faulty_cases_are_left_out_in_a_line_each(new, made, folders):
    write(folders[1] / "c0_seg.nii.gz", mask(2), np.diag([2.0, 2.5, 3.0, 1.0]))
    write(folders[1] / "c1_seg.nii.gz", np.arange(16 * 15 * 12, dtype=np.int16).reshape(16, 15, 12))
    (folders[0] / "c2_CT.nii.gz").write_bytes(b"no image")
    write(folders[1] / "c3_seg.nii.gz", mask())
    scan = folders[0] / "c5_CT.nii.gz"
    scan.write_bytes(scan.read_bytes()[: scan.stat().st_size * 2 // 3])
    _, out, _ = new("--missing", "not-annotated")
    left = [line for line in out.splitlines() if line.startswith("Left out: ")]
    assert len(left) == 5
    assert "c5_CT.nii.gz is truncated" in left[3]
    assert "differs from the scan's" in left[0]
    assert "it seems to be a scan, not a mask" in left[1]
    assert "its mask is empty" in left[4]
    assert [case.id for case in read_dataset(made).cases] == ["c4"]


def test_a_blank_case_of_a_pair_of_files_is_removed_whole(new, made, folders):
    write(folders[1] / "c3_seg.nii.gz", mask())
    nibabel.Nifti1Pair(ct(), AFFINE).to_filename(folders[0] / "c3_CT.img")
    (folders[0] / "c3_CT.nii.gz").unlink()
    assert new("--missing", "not-annotated")[0] == 0
    assert "c2_0000.nii.gz" in {path.name for path in (made / "imagesTr").iterdir()}
    assert not list((made / "imagesTr").glob("c3*"))
    assert (folders[0] / "c3_CT.img").is_file()


def test_a_wrong_number_of_channels_is_refused_before_the_data_set_is_complete(new, made):
    code, _, err = new("--channels", "C", "T")
    assert code == 2
    assert "channels: 2 are named (C, T), but scans have 1." in err
    assert new("--channels", "CT")[0] == 0
    assert header(made)["channel_names"] == {"0": "CT"}


@pytest.mark.parametrize("bad", ["\x1b[31mCT", ""])
def test_a_bad_name_of_a_channel_is_refused_before_the_data_set_is_complete(new, made, bad):
    code, _, err = new("--channels", bad)
    assert code == 2
    assert "channel_names" in err
    assert new("--channels", "CT")[0] == 0
    assert header(made)["channel_names"] == {"0": "CT"}


def test_exchanged_folders_are_one_hint(new, folders):
    code, _, err = new(sources=folders[::-1])
    assert code == 2
    assert "If scans and masks are exchanged, swap them." in err


def test_no_pair_is_one_line_with_the_way_out(new, folders, tmp_path):
    (tmp_path / "z").mkdir()
    shutil.copy(folders[1] / "c0_seg.nii.gz", tmp_path / "z" / "another.nii.gz")
    code, _, err = new(sources=(folders[0], tmp_path / "z"))
    assert code == 2
    assert len(err.splitlines()) == 1
    assert "give a CSV file with the columns case, image and mask" in err


def test_a_list_in_place_of_folders(new, tmp_path, folders):
    rows = [f"p{place};{folders[0]}/c{place}_CT.nii.gz;{folders[0]}/c{place + 3}_CT.nii.gz;" for place in range(3)]
    rows = [f"{row}Spine/masks/c{place}_seg.nii.gz" for place, row in enumerate(rows)]
    (tmp_path / "list.csv").write_text("\n".join(["case;image;image2;mask", *rows]))
    assert new("--name", "Listed", sources=(tmp_path / "list.csv",))[0] == 0
    folder = tmp_path / "root" / "raw" / "Dataset001_Listed"
    assert header(folder)["channel_names"] == {"0": "CT", "1": "CT"}
    assert (folder / "imagesTr" / "p2_0001.nii.gz").is_symlink()
    (tmp_path / "list.csv").write_text("case,image,mask\np1,a.nii.gz,b.nii.gz\n,x,y\n")
    code, _, err = new(sources=(tmp_path / "list.csv",))
    assert (code, [line.split(": ")[2] for line in err.splitlines()]) == (2, ["row 2", "row 3"])


def test_one_folder_of_both(new, tmp_path, folders):
    for path in [*folders[0].iterdir(), *folders[1].iterdir()]:
        shutil.copy(path, tmp_path / "Spine" / path.name.replace("_CT", ""))
    shutil.rmtree(folders[0])
    shutil.rmtree(folders[1])
    assert new(sources=(tmp_path / "Spine", tmp_path / "Spine"))[0] == 0
    assert len(read_dataset(tmp_path / "root" / "raw" / "Dataset001_Spine").cases) == 6


def test_one_file_per_structure(new, tmp_path):
    for place in range(3):
        case = tmp_path / "Total" / f"s{place}"
        write(case / "ct.nii.gz", ct())
        write(case / "segmentations" / "liver.nii.gz", mask(1, 1, 1))
        write(case / "segmentations" / "liver_tumour.nii.gz", mask(0, 1) if place else mask())
    assert new(sources=(tmp_path / "Total", tmp_path / "Total"))[0] == 0
    folder = tmp_path / "root" / "raw" / "Dataset001_Total"
    assert header(folder)["labels"] == {"background": 0, "liver": 1, "liver tumour": 2}
    assert "annotated" not in header(folder), "an empty file is known to be empty"
    first, second = (read_labels(folder / "labelsTr" / f"s{place}.nii.gz").array[0] for place in range(2))
    assert np.array_equal(first.transpose(2, 1, 0), mask(1, 1, 1))
    assert np.array_equal(second.transpose(2, 1, 0), mask(1, 2, 1))


def test_masks_of_slicer_with_other_values_and_a_part_of_the_scan(new, tmp_path):
    import SimpleITK as sitk

    for place in range(2):
        case = tmp_path / "Slicer" / f"s{place}"
        write(case / "ct.nii.gz", ct())
        whole = mask(1 + place, 2 - place).transpose(2, 1, 0)
        image = sitk.GetImageFromArray(whole)
        image.SetSpacing((2.0, 2.0, 3.0))
        image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
        part = image[3:10, 3:12, 2:]
        for number, name in ((1 + place, "left lung"), (2 - place, "Right_Lung")):
            part.SetMetaData(f"Segment{number}_Name", name)
            part.SetMetaData(f"Segment{number}_LabelValue", str(number))
        sitk.WriteImage(part, str(case / "mask.seg.nrrd"))
    assert new(sources=(tmp_path / "Slicer", tmp_path / "Slicer"))[0] == 0
    folder = tmp_path / "root" / "raw" / "Dataset001_Slicer"
    assert header(folder)["labels"] == {"background": 0, "left lung": 1, "Right_Lung": 2}
    for place in range(2):
        found = nibabel.load(folder / "labelsTr" / f"s{place}.nii.gz")
        assert np.array_equal(np.asarray(found.dataobj), mask(1, 2))


def slicer_mask(path, array, *segments):
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(array.transpose(2, 1, 0))
    image.SetSpacing((2.0, 2.0, 3.0))
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    for number, (name, value) in enumerate(segments):
        image.SetMetaData(f"Segment{number}_Name", name)
        image.SetMetaData(f"Segment{number}_LabelValue", str(value))
    sitk.WriteImage(image, str(path))


def test_segments_of_one_name_are_one_structure_and_no_value_vanishes(new, tmp_path):
    for place in range(3):
        write(tmp_path / "Slicer" / f"s{place}" / "ct.nii.gz", ct())
    segments = ("lesion", 1), ("organ", 2), ("Lesion", 3)
    for place in range(2):
        slicer_mask(tmp_path / "Slicer" / f"s{place}" / "mask.seg.nrrd", mask(1, 2, 3), *segments)
    slicer_mask(tmp_path / "Slicer" / "s2" / "mask.seg.nrrd", mask(1, 2, 9), *segments)
    _, out, _ = new(sources=(tmp_path / "Slicer", tmp_path / "Slicer"))
    folder = tmp_path / "root" / "raw" / "Dataset001_Slicer"
    assert header(folder)["labels"] == {"background": 0, "lesion": 1, "organ": 2}
    for place in range(2):
        found = nibabel.load(folder / "labelsTr" / f"s{place}.nii.gz")
        assert np.array_equal(np.asarray(found.dataobj), mask(1, 2, 1))
    assert not (folder / "labelsTr" / "s2.nii.gz").exists()
    assert "no segment has the value 9" in out


def test_a_turned_mask_is_written_on_the_grid_of_its_scan(new, made, folders):
    turn = [[-1, 0, 0, 15], [0, 1, 0, 0], [0, 0, -1, 11], [0, 0, 0, 1]]
    write(folders[1] / "c0_seg.nii.gz", mask(2, 5)[::-1, :, ::-1], AFFINE @ turn)
    _, out, _ = new()
    assert "Some masks are turned, or smaller than their scan." in out
    assert "voxel by voxel. Cases: c0." in out
    assert np.array_equal(np.asarray(nibabel.load(made / "labelsTr" / "c0.nii.gz").dataobj), mask(2, 5))


def test_structures_that_cross_are_left_out(new, tmp_path):
    for place in range(2):
        case = tmp_path / "Total" / f"s{place}"
        write(case / "ct.nii.gz", ct())
        write(case / "masks" / "left.nii.gz", mask(1, 1))
        write(case / "masks" / "right.nii.gz", mask(0, 1, 1) if place else mask(0, 0, 1))
    code, out, _ = new("--name", "Sides", sources=(tmp_path / "Total", tmp_path / "Total"))
    assert code == 0
    assert "Left out: " in out
    assert "50% of right overlap left" in out


def test_a_mask_of_the_scans_size_at_another_place_is_left_out(new, made, folders):
    moved = AFFINE.copy()
    moved[0, 3] = 14  # 7 voxels
    write(folders[1] / "c0_seg.nii.gz", mask(2, 5), moved)
    code, out, _ = new()
    assert code == 0
    assert "Only its place differs, by 14 mm." in out
    assert not (made / "labelsTr" / "c0.nii.gz").exists()


@pytest.fixture
def total(tmp_path):
    """Three cases, each with a folder of two structures."""
    for place in range(3):
        case = tmp_path / "Total" / f"s{place}"
        write(case / "ct.nii.gz", ct())
        write(case / "masks" / "left.nii.gz", mask(1))
        write(case / "masks" / "right.nii.gz", mask(0, 255))
    return tmp_path / "Total"


def total_cases(new, tmp_path, total):
    """The cases that were made of `total`, the labels, and what was printed."""
    code, out, err = new(sources=(total, total))
    assert code == 0, err
    dataset = read_dataset(tmp_path / "root" / "raw" / "Dataset001_Total")
    return [case.id for case in dataset.cases], [label.name for label in dataset.labels], out


def test_a_structure_with_two_files_leaves_its_case_out(new, tmp_path, total):
    shutil.copy(total / "s1" / "masks" / "left.nii.gz", total / "s1" / "masks" / "left.nii.GZ")
    cases, labels, out = total_cases(new, tmp_path, total)
    assert (cases, labels) == (["s0", "s2"], ["left", "right"])
    assert "would be one case: keep one." in out


def test_structures_with_two_files_everywhere_are_refused(new, total):
    for place in range(3):
        folder = total / f"s{place}" / "masks"
        shutil.copy(folder / "left.nii.gz", folder / "left.nii.GZ")
    code, _, err = new(sources=(total, total))
    assert (code, "would be one case: keep one." in err) == (2, True)


def test_a_label_map_among_the_structures_leaves_its_case_out(new, tmp_path, total):
    write(total / "s1" / "masks" / "left.nii.gz", mask(1, 3))
    cases, labels, out = total_cases(new, tmp_path, total)
    assert (cases, labels) == (["s0", "s2"], ["left", "right"])
    assert "left.nii.gz holds the values 1, 3. Expected one value above 0" in out


def test_a_structure_with_values_below_0_leaves_its_case_out(new, tmp_path, total):
    """255 in signed bytes is -1."""
    write(total / "s1" / "masks" / "left.nii.gz", mask(255).view(np.int8))
    cases, labels, out = total_cases(new, tmp_path, total)
    assert (cases, labels) == (["s0", "s2"], ["left", "right"])
    assert "left.nii.gz has the value -1. Expected 0 for background" in out


def test_a_file_of_the_background_is_not_a_label(new, tmp_path, total):
    for place in range(3):
        write(total / f"s{place}" / "masks" / "background.nii.gz", 1 - mask(1, 1))
    assert total_cases(new, tmp_path, total)[:2] == (["s0", "s1", "s2"], ["left", "right"])


def test_a_structure_whose_files_are_all_empty_is_named(new, tmp_path, total):
    for place in range(3):
        write(total / f"s{place}" / "masks" / "right.nii.gz", mask())
    cases, labels, out = total_cases(new, tmp_path, total)
    assert (cases, labels) == (["s0", "s1", "s2"], ["left"])
    assert "No case has a voxel of these structures, so they are not labels: right." in out


def test_one_folder_without_names_of_masks_says_how_they_are_known(new, folders):
    code, _, err = new(sources=(folders[0], folders[0]))
    assert (code, "masks have a word such as _seg" in err) == (2, True)


def test_the_own_folder_is_refused(new, made, folders):
    made.mkdir(parents=True)
    shutil.move(folders[0], made / "imagesTr")
    code, _, err = new("-o", made, sources=(made / "imagesTr", folders[1]))
    assert (code, "lies in the data set's own folder" in err) == (2, True)


def test_copies_where_links_cannot_be_made(new, made, folders, monkeypatch):
    def refused(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(new_cases.os, "symlink", refused)
    assert new()[0] == 0
    assert not (made / "imagesTr" / "c0_0000.nii.gz").is_symlink()
    assert len(read_dataset(made).cases) == 6
    os.remove(folders[1] / "c0_seg.nii.gz")
    (made / "imagesTr" / "own.txt").write_text("of the user")
    assert new("--overwrite")[0] == 0
    assert len(read_dataset(made).cases) == 5, "copies of the first run are removed"
    assert (made / "imagesTr" / "own.txt").exists()


def test_several_channels_in_one_file_stay_in_it(new, made, folders):
    for place in range(6):
        write(folders[0] / f"c{place}_CT.nii.gz", np.stack([ct(), ct() + 1000], axis=-1))
    assert new()[0] == 0
    assert (made / "imagesTr" / "c0.nii.gz").is_symlink()
    assert header(made)["channel_names"] == {"0": "CT", "1": "MRI"}


def test_equal_channels_are_numbered(new, made, folders):
    for place in range(6):
        bright = ct() + 1000
        write(folders[0] / f"c{place}_CT.nii.gz", np.stack([bright, ct(), bright + 1], axis=-1))
    assert new()[0] == 0
    assert header(made)["channel_names"] == {"0": "MRI 1", "1": "CT", "2": "MRI 2"}


def test_two_files_of_one_name_are_both_left_out_in_a_line(new, made, folders):
    scans, masks = folders
    shutil.copy(masks / "c1_seg.nii.gz", masks / "c1_seg.nii.GZ")
    write(scans / "c2_CT.nii", ct())
    code, out, _ = new()
    assert code == 0
    assert out.count("would be one case: keep one.") == 2
    assert [case.id for case in read_dataset(made).cases] == ["c0", "c3", "c4", "c5"]


def test_one_patient_with_a_single_structure_does_not_hide_the_others(new, tmp_path):
    for place in range(3):
        case = tmp_path / "Total" / f"s{place}"
        write(case / "ct.nii.gz", ct())
        write(case / "segmentations" / "liver.nii.gz", mask(1, 1))
        if place:
            write(case / "segmentations" / "spleen.nii.gz", mask(0, 0, 1))
    code, out, _ = new(sources=(tmp_path / "Total", tmp_path / "Total"))
    assert code == 0, out
    folder = tmp_path / "root" / "raw" / "Dataset001_Total"
    assert header(folder)["labels"] == {"background": 0, "liver": 1, "spleen": 2}
    assert [case.id for case in read_dataset(folder).cases] == ["s0", "s1", "s2"]


def test_folders_that_are_links_are_searched_and_formats_below_are_named(new, tmp_path):
    for place in range(2):
        write(tmp_path / "archive" / f"p{place}" / "ct.nii.gz", ct())
        write(tmp_path / "archive" / f"p{place}" / "mask.nii.gz", mask(1))
    source = tmp_path / "Linked"
    (source / "p9").mkdir(parents=True)
    (source / "p9" / "ct.mgz").write_bytes(b"")
    for place in range(2):
        (source / f"p{place}").symlink_to(tmp_path / "archive" / f"p{place}")
    (source / "p0" / "again").symlink_to(source)
    code, out, _ = new(sources=(source, source))
    assert code == 0, out
    assert "ct.mgz: its format is not read. Convert it" in out
    assert len(read_dataset(tmp_path / "root" / "raw" / "Dataset001_Linked").cases) == 2


def test_archives_are_named_also_where_no_scan_is_left(new, made, folders):
    scans, masks = folders
    for place, name in enumerate(("c0.zip", "c1.rar", "c2.nii.gz.gz", "c3")):
        (scans / f"c{place}_CT.nii.gz").rename(scans / name)
    (masks / "all.tar.gz").touch()
    words = (
        "c0.zip: zips are",
        "c1.rar: archives are",
        "c2.nii.gz.gz: its format is",
        "c3: it is NIfTI",
        "all.tar.gz: a",
    )
    _, out, _ = new()
    assert all(word in out for word in words)
    assert len(read_dataset(made).cases) == 2
    for path in scans.glob("*_CT.nii.gz"):
        path.unlink()
    code, _, err = new("--overwrite")
    assert code == 2
    assert all(word in err for word in ("holds no scan", *words))


@pytest.fixture
def stopping(monkeypatch):
    """A context in which the third case raises an error. The masks are turned, so they are written and not linked."""
    plain = new_dataset.take_case

    @contextmanager
    def of(error):
        taken = []

        def take(source, *rest):
            if len(taken) == 2:
                raise error
            taken.append(source)
            return plain(source, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(new_dataset, "take_case", take)
            yield

    return of


@pytest.fixture
def turned(folders):
    turn = [[-1, 0, 0, 15], [0, 1, 0, 0], [0, 0, -1, 11], [0, 0, 0, 1]]
    for place in range(6):
        write(folders[1] / f"c{place}_seg.nii.gz", mask(2, 5)[::-1, :, ::-1], AFFINE @ turn)


@pytest.mark.usefixtures("turned")
def test_an_interrupted_run_leaves_no_cases_to_the_next_one(new, made, folders, stopping):
    scans, masks = folders
    with stopping(KeyboardInterrupt()):
        assert new()[0] == 130
    assert not (made / "dataset.json").exists(), "it would count as complete"
    for folder, name in ((scans, "c0_CT.nii.gz"), (masks, "c0_seg.nii.gz")):
        (folder / name).unlink()
    code, _, err = new()
    assert code == 0, err
    assert [case.id for case in read_dataset(made).cases] == ["c1", "c2", "c3", "c4", "c5"]
    assert not list(made.glob("*/c0*"))
    assert not list(made.glob(".*"))


@pytest.mark.usefixtures("turned")
def test_a_data_set_that_fails_leaves_nothing(new, tmp_path, folders, stopping):
    """Not even a folder, which would take the number of the data set."""
    assert new(sources=(tmp_path / "nowhere", folders[1]))[0] == 2
    assert new("--channels", "T1", "T2")[0] == 2, "a fault that is found last"
    with stopping(KeyboardInterrupt()):
        assert new()[0] == 130
    assert not (tmp_path / "root").exists()


def test_a_data_set_that_fails_leaves_what_was_there(new, tmp_path, made):
    made.mkdir(parents=True)
    (tmp_path / "mine" / "overlays").mkdir(parents=True)
    (tmp_path / "mine" / "overlays" / "own.txt").write_text("of the user")
    assert new("--channels", "T1", "T2")[0] == 2
    assert new("--channels", "T1", "T2", "-o", tmp_path / "mine")[0] == 2
    assert list(made.parent.rglob("*")) == [made]
    assert {path.name for path in (tmp_path / "mine").rglob("*")} == {"overlays", "own.txt"}


def content(folder):
    return {
        path.relative_to(folder).as_posix(): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


@pytest.mark.usefixtures("turned")
@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("no space")])
def test_a_data_set_stays_if_it_cannot_be_made_again(new, made, folders, stopping, error):
    assert new("--labels", "spine=2", "disc=5")[0] == 0
    (made / "imagesTr" / "own.txt").write_text("of the user")
    before = content(made)
    (folders[1] / "c0_seg.nii.gz").unlink()
    with stopping(error):
        if isinstance(error, RuntimeError):
            with pytest.raises(RuntimeError):
                new("--overwrite")
        else:
            assert new("--overwrite")[0] == 130
    assert content(made) == before
    assert new("--overwrite", "--channels", "C", "T")[0] == 2, "a later fault"
    assert content(made) == before
    assert new("--overwrite")[0] == 0
    assert [case.id for case in read_dataset(made).cases] == ["c1", "c2", "c3", "c4", "c5"]
    assert not list(made.glob(".*"))


@pytest.mark.usefixtures("turned")
def test_a_data_set_comes_back_after_a_kill(new, made, stopping, monkeypatch):
    assert new()[0] == 0
    before = content(made)
    with monkeypatch.context() as patch, stopping(KeyboardInterrupt()):
        patch.setattr(new_folder.Written, "restore", lambda _: None)
        assert new("--overwrite")[0] == 130
    assert not (made / "dataset.json").exists()
    _, out, _ = new()
    assert "Nothing is left to do" in out
    assert content(made) == before


def test_what_differs_from_a_data_set_that_is_there_is_printed(new, made, folders):
    assert new("--labels", "spine=2", "disc=5")[0] == 0
    for options in (("--labels", "disc=5", "spine=2"), ("--channels", "CT"), ()):
        assert "Nothing is left to do" in new(*options)[1]
    for options, line in (
        (("--labels", "spine=2", "disk=5"), "Its labels are not those of --labels: spine=2, disc=5."),
        (("--labels", "spine=2"), "Its labels are not those of --labels: spine=2, disc=5."),
        (("--channels", "T1"), "Its channels are not those of --channels: CT."),
        (("--missing", "absent"), "unlike with --missing absent."),
    ):
        _, out, _ = new(*options)
        assert line in out
        assert "To make it again, give --overwrite." in out
        assert "Nothing is left to do" not in out
    shutil.copy(folders[0] / "c0_CT.nii.gz", folders[0] / "c9_CT.nii.gz")
    shutil.copy(folders[1] / "c0_seg.nii.gz", folders[1] / "c9_seg.nii.gz")
    assert "These cases are not in it: c9." in new()[1]


def test_a_label_that_no_mask_holds_is_named(new):
    _, out, _ = new("--labels", "spine=2", "disc=5", "tumour=3")
    assert "No mask holds the value 3 (tumour)." in out
    assert "Absent where missing" not in out
    code, _, err = new("--labels", "x=7", "--name", "Other", "--missing", "absent")
    assert code == 0, f"the values 2 and 5 are labels, too: {err}"


@pytest.fixture
def binary(folders):
    """Masks of one structure, with 255 in c1 and c2 and with 1 in the others; c5 is a pair of files, c3 is empty."""
    for place in range(6):
        write(folders[1] / f"c{place}_seg.nii.gz", mask(255 if place in (1, 2) else 1) * (place != 3))
    nibabel.Nifti1Pair(mask(1), AFFINE).to_filename(folders[1] / "c5_seg.img")
    (folders[1] / "c5_seg.nii.gz").unlink()


@pytest.mark.usefixtures("binary")
@pytest.mark.parametrize(
    ("options", "labels", "written"),
    [
        ((), {"label 1": 1}, {"c1", "c2"}),
        (("--labels", "liver=1"), {"liver": 1}, {"c1", "c2"}),
        (("--labels", "liver=255"), {"liver": 255}, {"c0", "c4", "c5"}),
        (("--labels", "liver=1", "spleen=255"), {"liver": 1, "spleen": 255}, set()),
    ],
)
def test_binary_masks_with_1_and_with_255_are_one_structure(new, made, folders, options, labels, written):
    code, out, err = new("--missing", "absent", *options)
    assert code == 0, err
    assert header(made)["labels"] == {"background": 0, **labels}
    assert ("written with" in out) == bool(written)
    cases = {case.id: case.label for case in read_dataset(made).cases}
    assert len(cases) == 6
    assert {case for case, label in cases.items() if not label.is_symlink()} == written
    for case in written:
        found = np.asarray(nibabel.load(cases[case]).dataobj)
        assert np.array_equal(found, mask(*labels.values()))
    assert np.array_equal(read_labels(folders[1] / "c5_seg.hdr").array[0].T, mask(1)), "the user's file is kept"
    assert new("--missing", "absent", "--overwrite", *options)[0] == 0
    assert len([*(made / "labelsTr").iterdir()]) == (6 if "c5" in written else 7)


@pytest.mark.parametrize("values", [(1, 2), (1, 255, 3)])
def test_other_values_are_labels_of_their_own(new, made, folders, values):
    for place in range(6):
        write(folders[1] / f"c{place}_seg.nii.gz", mask(values[place % len(values)]))
    assert new()[0] == 0
    assert {*header(made)["labels"].values()} == {0, *values}


def test_a_mask_with_both_values_has_two_labels(new, made, folders):
    for place in range(6):
        write(folders[1] / f"c{place}_seg.nii.gz", mask(1, 255) if place else mask(255))
    assert new()[0] == 0
    assert {*header(made)["labels"].values()} == {0, 1, 255}
    assert all(label.is_symlink() for label in (made / "labelsTr").iterdir())


def test_a_name_that_no_structure_has_is_named(new, tmp_path):
    for place in range(2):
        case = tmp_path / "Total" / f"s{place}"
        write(case / "ct.nii.gz", ct())
        write(case / "masks" / "left.nii.gz", mask(1))
        write(case / "masks" / "right.nii.gz", mask(0, 1))
    source = (tmp_path / "Total", tmp_path / "Total")
    _, out, _ = new("--labels", "left=1", "rihgt=2", sources=source)
    assert "No mask has the structure rihgt. Structures there: left, right." in out
    code, _, err = new("--labels", "x=1", "--name", "Other", sources=source)
    assert (code, "No mask holds one of --labels." in err) == (2, True)
