"""The benchmark of planning. nnU-Net is not installed here, so its plans are made up."""

import json
import sys

import pytest


@pytest.fixture
def planning(benchmark):
    return benchmark("planning")


def test_without_nnunet_only_our_plans_are_printed(planning, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["planning", "--memory-gb", "8", "--nnunet-env", str(tmp_path)])
    assert planning.main() == 0
    report = json.loads(capsys.readouterr().out)
    assert report["left_out"] == [f"nnU-Net's plans: nnunetv2==2.8.1 is not installed in {tmp_path}"]
    assert "reached" not in report
    assert [row["dataset"] for row in report["plans"]] == [one.name for one in planning.DATASETS]
    for row in report["plans"]:
        assert row["ours"]["training_gb"] <= 8
        assert set(row["ours"]) >= {"patch", "windows", "tera_macs_a_case", "million_parameters", "batch"}


def theirs(patch, macs):
    shared = {"planner": "ExperimentPlanner", "dataset": "hippocampus MR", "memory_gb": 8.0, "batch": 7}
    sizes = {"spacing": [1, 1, 1], "median_shape": [35, 51, 36], "patch": patch}
    return [shared | sizes | {"macs": macs, "parameters": 5.6e6}]


@pytest.mark.parametrize(
    ("patch", "macs", "reached"),
    [([40, 56, 40], 2e10, True), ([40, 56, 48], 2e10, False), ([40, 56, 40], 1e10, False), ([20, 28, 20], 2e9, True)],
)
def test_the_bar_is_a_patch_as_large_for_no_more_work(planning, patch, macs, reached):
    """Ours is 40 x 56 x 40 and costs 1.15e10. Half of each edge needs 12 windows: three along D, two along H and W."""
    row = planning.compared(planning.DATASETS[-1], 8.0, theirs(patch, macs))
    assert row["ours"]["patch"] == (40, 56, 40)
    assert row["reached"] is reached
    expected = 1 if patch[0] == 40 else 27
    assert row["ExperimentPlanner"]["windows"] == expected
    assert row["ExperimentPlanner"]["tera_macs_a_case"] == pytest.approx(expected * macs / 1e12, abs=1e-4)


def test_both_sides_plan_from_the_same_measurements(planning):
    for dataset in planning.DATASETS:
        fingerprint = planning.fingerprint_of(dataset)
        assert tuple(case.shape for case in fingerprint.cases) == dataset.shapes
        assert tuple(case.spacing for case in fingerprint.cases) == dataset.spacings
        assert len(fingerprint.thickness_mm()) == dataset.labels
