"""From a data set whose cases lack channels to masks of scans that lack channels."""

import json
import shutil

import numpy as np
import pytest

import textdiffseg as tds
from plans.errors import UserError
from plans.layout import PreprocessedFolder
from plans.raw.case_list import CaseList
from textdiffseg.data.store import open_case
from textdiffseg.imaging.sources.files import read_volume
from textdiffseg.tasks.manifest import Manifest

CHANNELS = ("MRI", "CT")


@pytest.fixture(scope="module")
def root(tmp_path_factory, write_raw, make_plan, make_fold, bank):
    """Six planned cases of two optional channels: two lack CT, one lacks MRI. A model with random weights."""
    root = tmp_path_factory.mktemp("root")
    folder = write_raw(root, cases=6, channels=CHANNELS, optional_channels=["MRI", "CT"])
    for file in ("tiny_00_0001", "tiny_01_0001", "tiny_02_0000"):
        (folder / "imagesTr" / f"{file}.nii.gz").unlink()
    tds.plan("901", root=root, workers=0)
    ct = {"name": "CT", "scheme": "ct", "mean": 115, "std": 80, "low": 0, "high": 230, "optional": True}
    plan = make_plan(channels=[{"name": "MRI", "scheme": "zscore", "optional": True}, ct])
    make_fold(root / "results" / plan.dataset / "default" / "fold_0", plan, bank, 0)
    return root


@pytest.fixture(scope="module")
def images(root):
    return root / "raw" / "Dataset901_Tiny" / "imagesTr"


@pytest.fixture(scope="module")
def model(root):
    return tds.load(root / "results" / "Dataset900_Tiny" / "default")


def test_the_fingerprint_leaves_out_missing_channels(root):
    fingerprints = root / "preprocessed" / "Dataset901_Tiny" / "fingerprints"
    case = json.loads((fingerprints / "tiny_00.json").read_text())
    assert [len(one) > 0 for one in case["intensities"]] == [True, False]
    assert case["notes"] == ["Channel CT is missing."]


def test_the_statistics_of_ct_are_those_of_the_cases_that_have_it(root):
    plan = json.loads((root / "preprocessed" / "Dataset901_Tiny" / "plan.json").read_text())
    ct = plan["channels"][1]
    assert 100 < ct["mean"] < 130, "the cubes have 200 and 30 in equal parts"
    assert ct["low"] > 0, "zeros of missing channels would be the lowest"


@pytest.mark.parametrize(("case", "missing"), [("tiny_00", 1), ("tiny_02", 0)])
def test_missing_channels_are_stored_as_zeros(root, case, missing):
    image = open_case(root / "preprocessed" / "Dataset901_Tiny", case).image[...]
    assert not image[missing].any()
    assert image[1 - missing].any()


def test_planning_again_measures_a_case_that_lost_a_channel(tmp_path, write_raw):
    folder = write_raw(tmp_path, channels=("T1", "T2"), optional_channels=["T2"])
    tds.plan("901", root=tmp_path, workers=0)
    shutil.move(folder / "imagesTr" / "tiny_03_0001.nii.gz", tmp_path)
    planned = tds.plan("901", root=tmp_path, workers=0)
    assert planned.stored == 1
    assert "Channel T2 is missing. This applies to 1 of 4 cases: tiny_03." in planned.notes
    assert not open_case(PreprocessedFolder(planned.folder.path).path, "tiny_03").image[...][1].any()


def test_scans_may_lack_channels_in_prediction(root, images, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a_0000", "a_0001", "b_0000", "c_0001"):
        shutil.copy(images / f"tiny_04_{name[2:]}.nii.gz", tmp_path / "in" / f"{name}.nii.gz")
    outcome = tds.predict(tmp_path / "in", tmp_path / "out", root=root)
    assert outcome.written == ["a", "b", "c"]
    assert outcome.notes == ["case b: Channel CT is missing.", "case c: Channel MRI is missing."]
    masks = {case: read_volume((tmp_path / "out" / f"{case}.nii.gz",)).array for case in "abc"}
    assert not np.array_equal(masks["a"], masks["b"]) or not np.array_equal(masks["a"], masks["c"])
    assert [*Manifest.read(tmp_path / "out" / "c.json").request.inputs] == ["c_0001.nii.gz"]
    again = tds.predict(tmp_path / "in", tmp_path / "out", root=root, picture=True)
    assert all((tmp_path / "out" / f"{case}.png").is_file() for case in "abc")
    assert again.skipped == ["a", "b", "c"]
    page = tds.write_report(tmp_path / "out", tmp_path / "x.html", scans=tmp_path / "in").read_text()
    assert "There is no picture" not in page
    one = tds.predict(tmp_path / "in" / "c_0001.nii.gz", tmp_path / "one", root=root)
    assert one.written == ["c"]
    assert np.array_equal(read_volume((tmp_path / "one" / "c.nii.gz",)).array, masks["c"])


def test_a_list_and_python_give_the_same_masks_as_a_folder(root, images, model, tmp_path):
    first, second = images / "tiny_04_0000.nii.gz", images / "tiny_04_0001.nii.gz"
    (tmp_path / "cases.csv").write_text(f"case,image_0,image_1\nb,{first},\nc,,{second}\n")
    outcome = tds.predict(CaseList.read(tmp_path / "cases.csv"), tmp_path / "out", root=root)
    assert outcome.notes == ["case b: Channel CT is missing.", "case c: Channel MRI is missing."]
    page = tds.write_report(tmp_path / "out", tmp_path / "x.html", scans=CaseList.read(tmp_path / "cases.csv"))
    assert "There is no picture" not in page.read_text()
    for case, scans in {
        "b": ([first, None], {"MRI": first}, {"mri": first, "CT": None}),
        "c": ([None, second], {"ct": second}),
    }.items():
        mask = read_volume((tmp_path / "out" / f"{case}.nii.gz",)).array[0]
        for scan in scans:
            result = model.segment(scan)
            assert np.array_equal(result.labels, mask)
            assert result.scan_notes == (f"Channel {'CT' if case == 'b' else 'MRI'} is missing.",)


def test_the_first_channel_that_is_there_defines_the_grid(model, images, tmp_path, make_scan):
    make_scan(tmp_path / "x.nii.gz", (30, 25, 22))
    assert model.segment([None, tmp_path / "x.nii.gz"]).labels.shape == (30, 25, 22)


@pytest.mark.parametrize(
    ("scan", "expected"),
    [
        ([None, None], "The scan has no channel"),
        ({"MRI": None}, "The scan has no channel"),
        ({"PET": "x.nii.gz"}, "'PET' is not a channel of the model. Its channels: MRI, CT."),
        ([np.zeros((4, 4, 4)), None], "channel 0: expected a path, or None if it is missing, found a ndarray"),
    ],
)
def test_wrong_scans_are_one_line(model, scan, expected):
    with pytest.raises(UserError) as caught:
        model.segment(scan)
    assert expected in caught.value.lines[0]


def test_a_channel_that_is_not_optional_is_refused(root, images, model, monkeypatch):
    plan = model.plan
    needed = plan.channels[1].model_copy(update={"optional": False})
    changed = plan.model_copy(update={"channels": (plan.channels[0], needed)})
    for network in model.ensemble.networks:
        monkeypatch.setattr(network, "plan", changed)
    with pytest.raises(UserError, match=r"channel CT is missing, which the model needs.*optional channels: MRI"):
        model.segment([images / "tiny_04_0000.nii.gz", None])
