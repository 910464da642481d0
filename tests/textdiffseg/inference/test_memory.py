import numpy as np
import pytest

from plans.errors import UserError
from textdiffseg.folds.sampling import Settings
from textdiffseg.imaging.sources.files import read_geometry, read_volume
from textdiffseg.imaging.volume import Geometry
from textdiffseg.inference import memory
from textdiffseg.inference.alternatives import samples_at_once
from textdiffseg.inference.memory import prediction_ram_gb, refuse_too_large, scan_ram_gb
from textdiffseg.inference.predictor import Predictor
from textdiffseg.inference.prompting import select_labels
from textdiffseg.inference.scan import Calibrated
from textdiffseg.inference.segmenting import Segmenting


def test_more_of_anything_takes_more(plan):
    def need(shape=(100, 200, 200), original=(100, 200, 200), samples=1, folds=1, **more):
        return prediction_ram_gb(plan, Settings(steps=3, samples=samples), folds, shape, original, **more)

    base = need()
    assert need(shape=(200, 200, 200)) > base
    assert need(original=(200, 400, 400)) > base
    assert need(samples=8) > base
    assert need(folds=5) > base
    assert need(slots=60) > need(slots=30) > base
    assert need(slots=60, uncertainty=True) > need(slots=60)


@pytest.fixture
def segmenting(plan, bank, make_model):
    calibrated = Calibrated(Predictor([make_model(plan)], Settings()))
    return Segmenting(select_labels(plan, bank), calibrated, None, False)


def test_a_longer_scan_adds_its_image_and_mask_alone(plan):
    def need(shape, slots):
        return prediction_ram_gb(plan, Settings(), 1, shape, shape, slots=slots)

    few, many = (need((600, 200, 200), slots) - need((300, 200, 200), slots) for slots in (300, 600))
    assert few == pytest.approx(many), "the sums over windows do not grow with the length"
    assert need((300, 400, 400), 117) - need((300, 200, 200), 117) > need((300, 400, 400), 3) - need((300, 200, 200), 3)


def test_alternatives_keep_the_noise_and_r_of_the_samples_that_are_drawn_at_once(plan):
    """Four for these labels. Each has 4 channels on a latent grid of stride (1, 2, 2)."""

    def need(depth, alternatives):
        shape, settings = (depth, 400, 400), Settings(steps=3, samples=16)
        return prediction_ram_gb(plan, settings, 1, shape, shape, slots=38, alternatives=alternatives)

    assert samples_at_once(39, 8 * 400 * 400) == 4
    longer = [need(600, alternatives) - need(300, alternatives) for alternatives in (False, True)]
    latent, masks = 4 * 4 * 300 * 200 * 200 / 1e9, 16 * 300 * 400 * 400 / 1e9
    assert longer[1] - longer[0] == pytest.approx((2 * 4 - 16) * latent + masks, abs=0.01)


def test_axes_count_in_the_canonical_order(segmenting):
    tall = Geometry((100, 50, 50), np.diag([1.0, 1, 1, 1])[[2, 1, 0, 3]])
    turned = Geometry((50, 50, 100), np.eye(4))
    assert scan_ram_gb(segmenting, tall) == pytest.approx(scan_ram_gb(segmenting, turned))
    assert scan_ram_gb(segmenting, Geometry((4000, 4000, 4000), np.eye(4))) is None


def test_a_scan_that_does_not_fit_is_refused(segmenting, monkeypatch):
    large = Geometry((100, 500, 500), np.diag([1.0, 1, 1, 1])[[2, 1, 0, 3]])
    refuse_too_large(segmenting, large)
    refuse_too_large(segmenting, None)
    monkeypatch.setattr(memory, "free_memory", lambda: 6e7)
    monkeypatch.setattr(memory, "own_memory", lambda: 4e7)  # the estimate includes what the process holds
    with pytest.raises(UserError, match=r"needs about \d\.\d GB of memory, and 0\.1 GB are free"):
        refuse_too_large(segmenting, large)


def test_a_header_gives_the_grid_that_reading_gives(tmp_path, make_scan):
    for name in ("a.nii.gz", "a.nrrd", "a.mha"):
        make_scan(tmp_path / name)
        assert read_geometry(tmp_path / name).matches(read_volume((tmp_path / name,)).geometry, 1e-6)
    (tmp_path / "b.nii.gz").write_bytes(b"no image")
    assert read_geometry(tmp_path / "b.nii.gz") is None
    assert read_geometry(tmp_path) is None
