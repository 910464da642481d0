"""The benchmark of preprocessing whole CTs, on a small made scan and without nnU-Net."""

import sys

import nibabel
import numpy as np
import pytest


@pytest.fixture
def folder(benchmark, tmp_path):
    """A data set of a scan of 12 slices and of one of 40."""
    whole_scans = benchmark("whole_scans")
    w, h, d = np.ogrid[:64, :60, :12]
    image = np.where(np.hypot(w - 32, h - 30) + 0 * d < 24, 40, -1000).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(image, np.diag([-3.0, -3.0, 5.0, 1.0])), tmp_path / "scan.nii.gz")
    shapes = whole_scans.make(tmp_path / "raw" / whole_scans.DATASET, tmp_path / "scan.nii.gz", 40)
    assert shapes == [(12, 60, 64), (40, 60, 64)]
    return tmp_path


def test_the_longer_scan_covers_the_same_extent(folder, benchmark):
    raw = folder / "raw" / benchmark("whole_scans").DATASET
    real, longer = (nibabel.load(raw / "imagesTr" / f"{name}_0000.nii.gz") for name in ("real", "long"))
    assert real.shape[2] * real.header.get_zooms()[2] == pytest.approx(longer.shape[2] * longer.header.get_zooms()[2])
    labels = np.asanyarray(nibabel.load(raw / "labelsTr" / "long.nii.gz").dataobj)
    assert set(np.unique(labels)) == {0, 1, 2, 3}


def test_a_worker_prints_its_seconds_and_its_peak(folder, benchmark):
    preprocessing = benchmark("preprocessing")
    for stage in ("measure", "store", "store-body"):
        found = preprocessing.run_worker(sys.executable, "ours", stage, folder)
        assert found["cpu_seconds"] >= 0
        assert found["peak_mb"] > 20
    assert {path.name for path in (folder / "store-body" / "cases").glob("*.json")} == {"real.json", "long.json"}


def test_the_report_compares_like_with_like(benchmark, monkeypatch, tmp_path):
    preprocessing = benchmark("preprocessing")
    figures = {"ours": {"cpu_seconds": 1.0, "peak_mb": 100.0}, "nnunet": {"cpu_seconds": 5.0, "peak_mb": 300.0}}
    monkeypatch.setattr(preprocessing, "run_worker", lambda _, side, *others: figures[side])
    monkeypatch.setattr(preprocessing.whole_scans, "make", lambda *_: [(1, 2, 3)])
    arguments = preprocessing.argparse.Namespace(nnunet_env=tmp_path, scan=None, slices=1)
    report = preprocessing.full_report(arguments)
    assert list(report["ratios"]) == ["measure", "store", "store-body"]
    assert all(one == {"cpu_seconds": 0.2, "peak_mb": 0.333} for one in report["ratios"].values())
    assert report["passed"]
