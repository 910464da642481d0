"""The benchmark of the host's work in prediction: a real mask, and every figure that the bars need."""

import argparse

import numpy as np
import pytest

from textdiffseg.imaging.sources.files import read_labels


def test_a_scan_is_predicted_and_measured(benchmark, shared_data, tmp_path, monkeypatch):
    inference = benchmark("inference")
    if not (shared_data / inference.SCAN).is_file():
        pytest.skip("no shared data")
    monkeypatch.setenv("TDS_SHARED_DATA", str(shared_data))
    path, args = tmp_path / "ct.nii.gz", argparse.Namespace(patch=[16, 32, 32], overlap=0.5, crop="none")
    inference.make_scan(path, 50, 64)
    found = inference.predict(path, tmp_path / "out", args, labels=3)
    mask = read_labels(tmp_path / "out" / "ct.nii.gz")
    assert mask.geometry.shape == (50, 64, 64)
    assert mask.geometry.spacing == pytest.approx(inference.SPACING)
    assert set(np.unique(mask.array)) == {0, 1, 2, 3}
    assert set(found["stages"]) == {"read", "segment", "write"}
    assert found["peak_gb"] > 0.1
    assert found["longest_s"] == max(one["s"] for one in found["stages"].values())
