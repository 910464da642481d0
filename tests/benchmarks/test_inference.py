"""The benchmark of the host's work in prediction: a real mask, and every figure that the bars need."""

import argparse

import numpy as np
import pytest

from plans.errors import UserError
from textdiffseg.imaging.sources.files import read_labels


def test_a_scan_is_predicted_and_measured(benchmark, shared_data, tmp_path, monkeypatch):
    inference = benchmark("inference")
    if not (shared_data / inference.SCAN).is_file():
        pytest.skip("no shared data")
    monkeypatch.setenv("TDS_SHARED_DATA", str(shared_data))
    path = tmp_path / "ct.nii.gz"
    args = argparse.Namespace(patch=[16, 32, 32], overlap=0.5, crop="none")
    inference.make_scan(path, 50, 64)
    found = inference.predict(path, tmp_path / "out", args, labels=3)
    mask = read_labels(tmp_path / "out" / "ct.nii.gz")
    assert mask.geometry.shape == (50, 64, 64)
    assert mask.geometry.spacing == pytest.approx(inference.SPACING)
    assert set(np.unique(mask.array)) == {0, 1, 2, 3}
    assert set(found["stages"]) == {"read", "segment", "write"}
    assert found["peak_gb"] > 0.1
    assert found["longest_s"] == max(one["s"] for one in found["stages"].values())


def test_an_earlier_commit_predicts_the_same_mask(benchmark, shared_data, tmp_path, monkeypatch):
    inference = benchmark("inference")
    if not (shared_data / inference.SCAN).is_file():
        pytest.skip("no shared data")
    try:
        tree = inference.export("7c4106f", tmp_path / "earlier")
    except UserError:
        pytest.skip("no history")
    monkeypatch.setenv("TDS_SHARED_DATA", str(shared_data))
    path, out = tmp_path / "ct.nii.gz", tmp_path / "out"
    args = argparse.Namespace(patch=[16, 32, 32], overlap=0.5, crop="none")
    inference.make_scan(path, 50, 64)
    found = inference.compared(inference.predict(path, out, args, labels=3), path, out, tree, args, 3)
    assert found["same_labels"] > 0.999
    assert found["cpu_ratio"] > 0
    assert found["earlier"]["peak_gb"] > 0


def test_a_commit_that_is_not_there_is_refused(benchmark, tmp_path):
    with pytest.raises(UserError, match="--against nowhere: git cannot export this commit"):
        benchmark("inference").export("nowhere", tmp_path)
