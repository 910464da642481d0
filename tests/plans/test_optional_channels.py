"""Channels that a case may lack: the field of dataset.json, the files of each case, and the plan. Files are empty."""

import json

import pytest

from plans.errors import UserError
from plans.plan import LabelPlan, Plan, TextPlan
from plans.planning.budget import gpu_budget
from plans.planning.planner import make_plan
from plans.raw.case_list import CaseList
from plans.raw.dataset import read_dataset

CHANNELS = {"0": "T1", "1": "T2", "2": "FLAIR"}


@pytest.fixture
def write(tmp_path):
    """Write a data set of three channels. `cases`: the numbers of the channels of each case. Returns its folder."""

    def of(cases, **header):
        folder = tmp_path / "d"
        for part in ("imagesTr", "labelsTr"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        for case, channels in cases.items():
            (folder / "labelsTr" / f"{case}.nii.gz").touch()
            for channel in channels:
                (folder / "imagesTr" / f"{case}_{channel:04d}.nii.gz").touch()
        labels = {"background": 0, "tumour": 1}
        fields = {"channel_names": CHANNELS, "labels": labels, "file_ending": ".nii.gz"} | header
        (folder / "dataset.json").write_text(json.dumps(fields))
        return folder

    return of


@pytest.fixture
def lines(write):
    def of(cases, **header):
        with pytest.raises(UserError) as caught:
            read_dataset(write(cases, **header))
        return caught.value.lines

    return of


def test_a_case_may_lack_optional_channels(write):
    folder = write({"a": (0, 1, 2), "b": (1,), "c": (0, 2)}, optional_channels=["t1", "FLAIR", "T2"])
    dataset = read_dataset(folder)
    assert dataset.optional == (0, 1, 2)
    assert [case.missing for case in dataset.cases] == [(), (0, 2), (1,)]
    assert [path.name for path in dataset.cases[2].images] == ["c_0000.nii.gz", "c_0002.nii.gz"]


def test_a_listed_image_may_be_null(write, lines):
    entry = {"images": ["imagesTr/a_0000.nii.gz", None, "imagesTr/a_0002.nii.gz"], "label": "labelsTr/a.nii.gz"}
    whole = {"images": [f"imagesTr/b_000{n}.nii.gz" for n in range(3)], "label": "labelsTr/b.nii.gz"}
    files = {"a": (0, 2), "b": (0, 1, 2)}
    dataset = read_dataset(write(files, dataset={"a": entry, "b": whole}, optional_channels=["T2"]))
    assert [case.missing for case in dataset.cases] == [(1,), ()]
    (line,) = lines(files, dataset={"a": entry, "b": whole}, optional_channels=["T1"])
    assert line.startswith("case a: T2 is null, but it is not an optional channel.")
    empty = entry | {"images": [None, None, None]}
    (line,) = lines(files, dataset={"a": empty, "b": whole}, optional_channels=["T1", "T2", "FLAIR"])
    assert line == "case a: it has no image. Add one, or remove the case."


def test_a_missing_channel_that_is_not_optional_is_a_fault(lines):
    (line,) = lines({"a": (0, 1), "b": (0, 1, 2)}, optional_channels=["T2"])
    assert "a_0002.nii.gz is missing (dataset.json names 3 channels)" in line
    assert '"optional_channels"' in line


@pytest.mark.parametrize(
    ("optional", "expected"),
    [
        (["T2", "PET"], "'PET' is not a channel; expected names from channel_names (T1, T2, FLAIR)."),
        ("T2", "expected a list of names of channels (T1, T2, FLAIR), found 'T2'."),
        ([1], "expected a list of names of channels (T1, T2, FLAIR), found '[1]'."),
        ({"T2": True}, "expected a list of names of channels (T1, T2, FLAIR), found \"{'T2': True}\"."),
    ],
)
def test_a_bad_field_is_one_line(write, lines, optional, expected):
    (line,) = lines({"a": (0, 1, 2)}, optional_channels=optional)
    assert line.endswith(f"dataset.json: optional_channels: {expected}")


def test_the_only_channel_is_not_optional(lines):
    (line,) = lines({"a": (0,)}, channel_names={"0": "CT"}, optional_channels=["CT"])
    assert line.endswith("optional_channels: CT is the only channel, and each case needs one. Remove this field.")


def test_a_channel_that_no_case_has_is_a_fault(lines):
    (line,) = lines({"a": (0, 1), "b": (0, 1)}, optional_channels=["FLAIR"])
    assert line.endswith("optional_channels: no case has FLAIR. Add its files, or remove it from channel_names.")


def test_the_plan_names_optional_channels(make_fingerprint):
    fingerprint = make_fingerprint((40, 64, 64), (1.0, 1.0, 1.0), channels=2)
    fields = {"budget": gpu_budget(8.0), "preset": "default", "text": TextPlan(encoder="bundled", width=384)}
    plan = make_plan("D", ("T1", "T2"), [LabelPlan(name="x", value=1)], fingerprint, optional=(1,), **fields)
    assert plan.optional_channels == (1,)
    assert "a case may lack it" in next(one.reason for one in plan.reasons if one.name == "channel T2")
    older = json.loads(plan.model_dump_json())
    for channel in older["channels"]:
        del channel["optional"]
    assert Plan.parse(older, "plan.json").optional_channels == ()


def test_a_list_may_leave_out_optional_channels(tmp_path):
    (tmp_path / "a.nii.gz").touch()
    (tmp_path / "cases.csv").write_text("case,image_0,image_1\np,a.nii.gz,\nq,,a.nii.gz\nr,a.nii.gz,a.nii.gz\n")
    cases = CaseList.read(tmp_path / "cases.csv")
    assert cases.missing == {"p": (1,), "q": (0,)}
    assert cases.scans["q"] == (tmp_path / "a.nii.gz",)
    rows = [{"case": "p", "images": ["a.nii.gz", None]}]
    (tmp_path / "cases.json").write_text(json.dumps({"cases": rows}))
    assert CaseList.read(tmp_path / "cases.json").missing == {"p": (1,)}
    cases.refuse_missing((0, 1))
    with pytest.raises(UserError, match=r"case q: image 0 is empty"):
        cases.refuse_missing((1,))
