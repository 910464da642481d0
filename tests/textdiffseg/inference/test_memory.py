import numpy as np
import pytest

from textdiffseg.folds.sampling import Settings
from textdiffseg.imaging.sources.files import read_geometry, read_volume
from textdiffseg.imaging.volume import Geometry
from textdiffseg.inference.memory import largest_ram_gb, prediction_ram_gb


def test_more_of_anything_takes_more(plan):
    def need(shape=(100, 200, 200), original=(100, 200, 200), samples=1, folds=1, **more):
        return prediction_ram_gb(plan, Settings(samples=samples), folds, shape, original, **more)

    base = need()
    assert need(shape=(200, 200, 200)) > base
    assert need(original=(200, 400, 400)) > base
    assert need(samples=8) > base
    assert need(folds=5) > base
    assert need(slots=30) > need(slots=3) > base
    assert need(uncertainty=True) > base


def test_the_largest_scan_decides_whatever_its_axes(plan):
    tall = Geometry((100, 50, 50), np.diag([1.0, 1, 1, 1])[[2, 1, 0, 3]])
    turned = Geometry((50, 50, 100), np.eye(4))
    tiny = Geometry((4, 4, 4), np.eye(4))
    one = largest_ram_gb(plan, Settings(), 1, [tiny, tall])
    assert one == largest_ram_gb(plan, Settings(), 1, [tall, None])
    assert one == pytest.approx(largest_ram_gb(plan, Settings(), 1, [turned]))
    assert largest_ram_gb(plan, Settings(), 1, [None]) == plan.memory.ram_gb


def test_a_header_gives_the_grid_that_reading_gives(tmp_path, make_scan):
    for name in ("a.nii.gz", "a.nrrd", "a.mha"):
        make_scan(tmp_path / name)
        assert read_geometry(tmp_path / name).matches(read_volume((tmp_path / name,)).geometry, 1e-6)
    (tmp_path / "b.nii.gz").write_bytes(b"no image")
    assert read_geometry(tmp_path / "b.nii.gz") is None
    assert read_geometry(tmp_path) is None
