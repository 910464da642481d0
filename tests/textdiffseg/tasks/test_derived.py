"""Files derived from masks: they fit the mask, are listed in the manifest, and need no second prediction."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

from textdiffseg.files import hash_files, temporary_name
from textdiffseg.imaging.sources.files import read_labels
from textdiffseg.tasks import stages
from textdiffseg.tasks.manifest import Manifest
from textdiffseg_cli.predict import main


@pytest.fixture
def predict(root, make_scan, capsys):
    """Run the command on root/scans/a.nii.gz with one fold; returns (exit code, stdout, stderr)."""
    make_scan(root / "scans" / "a.nii.gz")

    def run(*arguments, out=root / "out"):
        fixed = ["--root", root, "-i", root / "scans", "-o", out, "--folds", 0, "--no-mirroring"]
        code = main([*map(str, fixed), *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def no_prediction(monkeypatch):
    """A function after whose call nothing can be predicted."""

    def forbid():
        monkeypatch.setattr(stages, "window_reporter", None)

    return forbid


def files_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_each_label_has_a_file_that_is_its_part_of_the_mask(predict, root):
    assert predict("--separate")[0] == 0
    folder = root / "out" / "separate" / "a"
    assert files_in(folder) == ["Front_Part.nii.gz", "back.nii.gz"]
    mask = read_labels(root / "out" / "a.nii.gz")
    for name, value in {"Front_Part": 7, "back": 3}.items():
        one = read_labels(folder / f"{name}.nii.gz")
        assert one.geometry.matches(mask.geometry, 1e-4)
        assert np.array_equal(one.array, (mask.array == value).astype(one.array.dtype))
        assert one.array.any()
    manifest = Manifest.read(root / "out" / "a.json")
    assert set(manifest.outputs) == {"a.nii.gz"}
    assert manifest.converted == {
        f"separate/a/{name}.nii.gz": hash_files([folder / f"{name}.nii.gz"]) for name in ("Front_Part", "back")
    }


def test_a_complete_case_gets_its_files_without_a_prediction(predict, root, no_prediction):
    predict()
    before = (root / "out" / "a.nii.gz").read_bytes()
    no_prediction()
    code, out, _ = predict("--separate")
    assert (code, "1 complete already" in out) == (0, True)
    back = root / "out" / "separate" / "a" / "back.nii.gz"
    whole, state = back.read_bytes(), back.stat().st_mtime_ns
    assert predict("--separate")[0] == 0
    assert back.stat().st_mtime_ns == state, "complete files are not written again"
    back.write_bytes(whole[:50])
    assert predict("--separate")[0] == 0
    assert back.read_bytes() == whole
    assert (root / "out" / "a.nii.gz").read_bytes() == before
    assert predict()[0] == 0
    assert back.is_file(), "a run without the option leaves them"


def test_files_of_another_mask_are_deleted(predict, root):
    predict("--separate")
    assert predict("--separate", "--prompt", "back")[0] == 0
    assert files_in(root / "out" / "separate") == ["a/back.nii.gz"]
    assert predict()[0] == 0
    assert files_in(root / "out" / "separate") == []
    assert Manifest.read(root / "out" / "a.json").converted == {}


def test_a_file_of_another_program_is_not_replaced(predict, root):
    mine = root / "out" / "separate" / "a" / "back.nii.gz"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    code, _, err = predict("--separate")
    assert (code, "back.nii.gz exists and was not made by tds_predict" in err) == (2, True)
    assert mine.read_bytes() == b"mine"
    assert not (root / "out" / "a.nii.gz").exists()
    assert predict("--separate", "--overwrite")[0] == 0
    assert read_labels(mine).array.any()


def test_files_of_a_killed_run_are_written_again(predict, root, no_prediction):
    predict("--separate")
    manifest = root / "out" / "a.json"
    fields = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(fields | {"converted": dict.fromkeys(fields["converted"], "")}))
    folder = root / "out" / "separate" / "a"
    (folder / "Front_Part.nii.gz").write_bytes(b"half")
    (folder / temporary_name("back.nii.gz").replace("-", "-9999", 1)).write_bytes(b"half")
    no_prediction()
    assert predict("--separate")[0] == 0
    assert files_in(folder) == ["Front_Part.nii.gz", "back.nii.gz"]
    assert read_labels(folder / "Front_Part.nii.gz").array.any()


@pytest.mark.parametrize("name", ["../precious.nii.gz", "separate/../../precious.nii.gz", "a.nii.gz"])
def test_a_manifest_cannot_name_other_files_to_delete(predict, root, name):
    precious = root / "precious.nii.gz"
    precious.write_bytes(b"precious")
    predict("--separate")
    manifest = root / "out" / "a.json"
    fields = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(fields | {"converted": {name: ""}}))
    assert predict("--overwrite")[0] == 0
    assert precious.read_bytes() == b"precious"
    assert (root / "out" / "a.nii.gz").is_file()


def test_picture_and_files_are_both_in_the_manifest(predict, root, no_prediction):
    predict("--separate", "--picture")
    first = Manifest.read(root / "out" / "a.json")
    assert first.picture is not None
    assert len(first.converted) == 2
    predict("--overwrite")
    no_prediction()
    predict("--separate", "--picture")
    later = Manifest.read(root / "out" / "a.json")
    assert later.picture is not None
    assert later.converted == first.converted


def test_one_file_for_one_scan_has_its_own_folder_of_labels(predict, root):
    assert predict("--separate", out=root / "single" / "x.nrrd")[0] == 0
    assert files_in(root / "single") == ["separate/x/Front_Part.nrrd", "separate/x/back.nrrd", "x.json", "x.nrrd"]


def test_labels_that_overlap_are_whole(predict, root):
    for path in root.glob("results/*/*/fold_*/plan.json"):
        plan = json.loads(path.read_text())
        path.write_text(json.dumps(plan | {"regions": [[3, 7], [3]]}))
    assert predict("--separate")[0] == 0
    mask = read_labels(root / "out" / "a.nii.gz").array
    assert set(np.unique(mask)) == {0, 3, 7}
    parts = Manifest.read(root / "out" / "a.json").parts  # by which `tds_evaluate` knows all values of a label
    assert {name: set(values) for name, values in parts.items()} == {"Front_Part": {3, 7}, "back": {3}}
    folder = root / "out" / "separate" / "a"
    assert np.array_equal(read_labels(folder / "Front_Part.nii.gz").array > 0, mask > 0)
    assert np.array_equal(read_labels(folder / "back.nii.gz").array > 0, mask == 3)


def correct(mask):
    """Draw one more voxel, as a user does; returns the label map."""
    image = sitk.ReadImage(str(mask))
    array = sitk.GetArrayFromImage(image)
    array[0, 0, :2] = 7
    changed = sitk.GetImageFromArray(array)
    changed.CopyInformation(image)
    sitk.WriteImage(changed, str(mask))
    return array


def test_files_follow_a_mask_that_was_corrected(predict, root, no_prediction):
    predict("--separate", "--picture")
    picture = (root / "out" / "a.png").read_bytes()
    array = correct(root / "out" / "a.nii.gz")
    no_prediction()
    assert predict("--separate", "--picture")[0] == 0
    front = root / "out" / "separate" / "a" / "Front_Part.nii.gz"
    assert np.array_equal(read_labels(front).array[0] > 0, array == 7)
    assert (root / "out" / "a.png").read_bytes() != picture
    written = front.stat().st_mtime_ns
    assert predict("--separate", "--picture")[0] == 0
    assert front.stat().st_mtime_ns == written, "they are not written again"
    correct(root / "out" / "a.nii.gz")
    array = correct(root / "out" / "a.nii.gz")
    array[1] = 3
    image = sitk.GetImageFromArray(array)
    image.CopyInformation(sitk.ReadImage(str(root / "out" / "a.nii.gz")))
    sitk.WriteImage(image, str(root / "out" / "a.nii.gz"))
    assert predict()[0] == 0
    assert not front.exists(), "a file of an earlier state is not left behind"


def test_a_corrected_mask_on_another_grid_is_one_line(predict, root):
    predict()
    mask = root / "out" / "a.nii.gz"
    image = sitk.ReadImage(str(mask))
    sitk.WriteImage(image[1:], str(mask))
    code, _, err = predict("--separate")
    assert code == 2
    assert "a.nii.gz was changed, and now has another grid" in err
    assert predict()[0] == 0


def test_a_file_that_was_corrected_is_not_replaced(predict, root):
    predict("--separate")
    back = root / "out" / "separate" / "a" / "back.nii.gz"
    array = correct(back)
    for more in ((), ("--seed", 1)):
        code, _, err = predict("--separate", *more)
        assert (code, "back.nii.gz was changed after it was made, perhaps by hand" in err) == (2, True)
        assert np.array_equal(read_labels(back).array[0], array)
    assert predict("--separate", "--overwrite")[0] == 0
    assert not np.array_equal(read_labels(back).array[0], array)
