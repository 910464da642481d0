from dataclasses import replace

import numpy as np
import pytest
import torch

from plans.errors import UserError
from textdiffseg.folds.sampling import PredictionSettings
from textdiffseg.imaging.sources.files import read_geometry, read_volume
from textdiffseg.imaging.volume import Geometry
from textdiffseg.inference import memory
from textdiffseg.inference.alternatives import samples_at_once
from textdiffseg.inference.memory import (
    MIN_CROPPED,
    Kept,
    no_memory,
    prediction_ram_gb,
    refuse_too_large,
    scan_ram_gb,
    shape_on_plan,
)
from textdiffseg.inference.predictor import Predictor
from textdiffseg.inference.prompting import select_labels
from textdiffseg.inference.scan import CalibratedPredictor
from textdiffseg.inference.segmenting import PreparedModel


def test_more_of_anything_takes_more(plan):
    def need(shape=(100, 200, 200), original=(100, 200, 200), samples=1, folds=1, **more):
        return prediction_ram_gb(plan, PredictionSettings(steps=3, samples=samples), folds, shape, original, **more)

    base = need()
    assert need(shape=(200, 200, 200)) > base
    assert need(original=(200, 400, 400)) > base
    assert need(samples=8) > base
    assert need(folds=5) > base
    assert need(slots=60) > need(slots=30) > base
    assert need(slots=60, uncertainty=True) > need(slots=60)


def test_the_windows_of_a_gpu_are_not_in_host_memory(plan, monkeypatch):
    monkeypatch.setattr(memory, "prediction_bytes", lambda *_, windows=1: 1e9 + 5e9 * windows)
    monkeypatch.setattr(memory, "windows_at_once", lambda *_: 1)

    def need(on_cpu):
        return prediction_ram_gb(plan, PredictionSettings(), 1, (20, 20, 20), (20, 20, 20), on_cpu=on_cpu)

    assert need(on_cpu=True) > 6
    assert 1 < need(on_cpu=False) < 2


@pytest.fixture
def prepared(plan, bank, make_model):
    calibrated = CalibratedPredictor(Predictor([make_model(plan)], PredictionSettings()))
    return PreparedModel(select_labels(plan, bank), calibrated)


def test_a_longer_scan_adds_its_image_and_mask_alone(plan):
    def need(shape, slots):
        return prediction_ram_gb(plan, PredictionSettings(), 1, shape, shape, slots=slots)

    few, many = (need((600, 200, 200), slots) - need((300, 200, 200), slots) for slots in (300, 600))
    assert few == pytest.approx(many), "the sums over windows do not grow with the length"
    assert need((300, 400, 400), 117) - need((300, 200, 200), 117) > need((300, 400, 400), 3) - need((300, 200, 200), 3)


def test_a_sampled_window_holds_further_tensors_of_all_classes(plan):
    """On a CPU. On a GPU they are not in the host's memory."""

    def need(steps, slots, on_cpu=True):
        settings, shape = PredictionSettings(steps=steps), (20, 20, 20)
        return prediction_ram_gb(plan, settings, 1, shape, shape, slots=slots, on_cpu=on_cpu)

    of_class = 4 * 2 * 8 * 16 * 16 / 1e9  # two windows
    few, many = (need(3, slots) - need(0, slots) for slots in (1000, 2000))
    assert of_class * 1000 < many - few <= 3 * of_class * 1000, "less where another moment has the peak"
    few, many = (need(3, slots, on_cpu=False) - need(0, slots, on_cpu=False) for slots in (1000, 2000))
    assert many == pytest.approx(few)


def test_alternatives_keep_the_noise_and_r_of_the_samples_that_are_drawn_at_once(plan):
    """Four for these labels. Each has 4 channels on a latent grid of stride (1, 2, 2)."""

    def need(depth, alternatives):
        shape, settings = (depth, 400, 400), PredictionSettings(steps=3, samples=16)
        return prediction_ram_gb(plan, settings, 1, shape, shape, slots=38, alternatives=alternatives)

    assert samples_at_once(39, 8 * 400 * 400) == 4
    longer = [need(600, alternatives) - need(300, alternatives) for alternatives in (False, True)]
    latent, masks = 4 * 4 * 300 * 200 * 200 / 1e9, 16 * 300 * 400 * 400 / 1e9
    assert longer[1] - longer[0] == pytest.approx((2 * 4 - 16) * latent + masks, abs=0.01)


def test_axes_count_in_the_canonical_order(prepared):
    tall = Geometry((100, 50, 50), np.diag([1.0, 1, 1, 1])[[2, 1, 0, 3]])
    turned = Geometry((50, 50, 100), np.eye(4))
    assert scan_ram_gb(prepared, tall) == pytest.approx(scan_ram_gb(prepared, turned))
    assert scan_ram_gb(prepared, Geometry((4000, 4000, 4000), np.eye(4))) is None


def test_a_scan_that_does_not_fit_is_refused(prepared, monkeypatch):
    large = Geometry((100, 500, 500), np.diag([1.0, 1, 1, 1])[[2, 1, 0, 3]])
    refuse_too_large(prepared, large)
    refuse_too_large(prepared, None)
    monkeypatch.setattr(memory, "free_memory", lambda: 6e7)
    monkeypatch.setattr(memory, "own_memory", lambda: 4e7)  # the estimate includes what the process holds
    with pytest.raises(UserError, match=r"needs about \d\.\d GB of memory, and 0\.1 GB are free"):
        refuse_too_large(prepared, large)


@pytest.mark.parametrize("crop", ["nonzero", "body", "none"])
def test_before_a_scan_is_read_what_a_crop_leaves_at_least_must_fit(prepared, crop, monkeypatch):
    plan = prepared.plan.model_copy(update={"crop": crop})
    monkeypatch.setattr(prepared.mask_predictor.predictor, "plan", plan)
    monkeypatch.setattr(memory, "reading_bytes", lambda *_: 0.0)  # the larger of two peaks counts
    large = Geometry((333, 555, 555), np.diag([*plan.spacing, 1.0]))
    left = tuple(int(MIN_CROPPED[crop] * size) for size in shape_on_plan(large, plan))
    whole, least = scan_ram_gb(prepared, large), scan_ram_gb(prepared, large, left)
    monkeypatch.setattr(memory, "own_memory", lambda: 0.0)
    monkeypatch.setattr(memory, "free_memory", lambda: 1.01e9 * least)
    refuse_too_large(prepared, large)
    if crop != "none":
        assert 1.01 * least < whole
        with pytest.raises(UserError, match="needs about"):
            refuse_too_large(prepared, large, large.shape)  # after it is read, nothing was cropped
    monkeypatch.setattr(memory, "free_memory", lambda: 0.99e9 * least)
    with pytest.raises(UserError, match="needs about"):
        refuse_too_large(prepared, large)


@pytest.mark.parametrize("less", [{"cropped_shape": (150, 400, 400)}, {"value_bytes": 2}])
def test_what_was_read_counts_as_it_is(plan, less):
    """The scan has a coarse grid in the network, so its own grid has the peak."""

    def need(**more):
        return prediction_ram_gb(plan, PredictionSettings(), 1, (40, 50, 50), (300, 500, 500), slots=2, **more)

    voxels = 300 * 500 * 500
    fewer = 4 * (voxels - 150 * 400 * 400) if "cropped_shape" in less else 2 * voxels
    assert need() - need(**less) == pytest.approx(fewer / 1e9, rel=0.1)


def test_a_map_that_is_written_counts(plan):
    """It is restored in float32, which takes more than the classes. Kept in memory, it is restored later."""
    voxels = 300 * 500 * 500

    def need(**more):
        return prediction_ram_gb(plan, PredictionSettings(), 1, (40, 50, 50), (300, 500, 500), value_bytes=2, **more)

    classes, one_map = need(), need(written_maps=True)
    assert one_map - classes == pytest.approx((16 - 8) * voxels / 1e9, rel=0.15), "reading has the other peak"


def test_what_the_caller_keeps_counts(prepared, monkeypatch):
    grid = Geometry((300, 500, 500), np.diag([*prepared.plan.spacing, 1.0]))
    size, channels = 4 * 300 * 500 * 500 / 1e9, len(prepared.plan.channels)
    with_maps = replace(prepared, probabilities=True, mask_uncertainty=True)
    monkeypatch.setattr(memory, "reading_bytes", lambda *_: 0.0)  # the larger of two peaks counts
    monkeypatch.setattr(memory, "ram_bytes", lambda *_: 0.0)

    def more(one, kept):
        return scan_ram_gb(one, grid, grid.shape, kept) - scan_ram_gb(one, grid, grid.shape)

    assert more(prepared, Kept(maps=True)) == 0, "no maps were requested"
    maps = len(prepared.selection.names) + 3
    assert more(with_maps, Kept(maps=True)) == pytest.approx(maps * size)
    assert more(with_maps, Kept()) == 0, "they are in files"
    assert more(prepared, Kept(scan=True)) == pytest.approx(channels * size)
    monkeypatch.setattr(prepared.mask_predictor.predictor, "device", torch.device("cuda"))
    assert more(prepared, Kept(scan=True)) == pytest.approx(3 * channels * size), "of three scans at once"
    monkeypatch.setattr(memory, "free_memory", lambda: 0.0)
    monkeypatch.setattr(memory, "own_memory", lambda: 0.0)
    with pytest.raises(UserError, match=r"leave out --picture, leave out the maps"):
        refuse_too_large(with_maps, grid, kept=Kept(scan=True, maps=True))


def test_a_run_on_the_cpu_is_not_advised_to_use_it():
    assert "--device cpu" not in no_memory("cpu")
    assert "--device cpu" in no_memory("cuda")


def test_a_header_gives_the_grid_that_reading_gives(tmp_path, make_scan):
    for name in ("a.nii.gz", "a.nrrd", "a.mha"):
        make_scan(tmp_path / name)
        assert read_geometry(tmp_path / name).matches(read_volume((tmp_path / name,)).geometry, 1e-6)
    (tmp_path / "b.nii.gz").write_bytes(b"no image")
    assert read_geometry(tmp_path / "b.nii.gz") is None
    assert read_geometry(tmp_path) is None
