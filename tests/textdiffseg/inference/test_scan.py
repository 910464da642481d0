"""What is known of one scan, and that asking for more of it changes nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from textdiffseg.folds.calibration import AppliedCalibration
from textdiffseg.folds.expected_dice import KNOTS, DiceCurve
from textdiffseg.folds.sampling import PredictionSettings
from textdiffseg.imaging.volume import Volume
from textdiffseg.inference import segmenting
from textdiffseg.inference.measures import expected_dice_of, volumes_of
from textdiffseg.inference.predictor import Predictor
from textdiffseg.inference.prompting import select_labels
from textdiffseg.inference.scan import CalibratedPredictor, ScanResult, segment_image
from textdiffseg.inference.segmenting import PreparedModel
from textdiffseg.inference.volumes import SlabVoxelSums, VoxelSums
from textdiffseg.preprocessing.case import preprocess_image
from textdiffseg.readout import readout_of

SAMPLES = PredictionSettings(steps=3, samples=8)
PROBABILITIES = {"probabilities/1_Front_Part", "probabilities/2_back"}


@pytest.fixture(scope="module")
def scan(plan, make_geometry):
    """An image on the plan's grid, and the way back."""
    volume = Volume(np.random.default_rng(0).normal(size=(1, 9, 20, 17)).astype(np.float32), make_geometry((9, 20, 17)))
    image, transform = preprocess_image(volume, plan)
    return torch.from_numpy(image), transform


def test_a_scan_is_resampled_on_the_device_of_the_network(plan, make_model, make_geometry, bank, monkeypatch):
    predictor = Predictor([make_model(plan)], PredictionSettings())
    prepared = PreparedModel(select_labels(plan, bank), CalibratedPredictor(predictor))
    voxels = np.random.default_rng(0).normal(size=(1, 9, 20, 17)).astype(np.float32)
    volume = Volume(voxels, make_geometry((9, 20, 17)))
    expected = prepared.read(volume).image
    devices = []

    def no_resampling(matrices, array, out):
        out[...] = 7
        return out

    monkeypatch.setattr(segmenting, "products_on", lambda device: devices.append(device) or no_resampling)
    predictor.device = torch.device("cuda")
    found = prepared.read(volume).image
    assert devices == [torch.device("cuda")]
    assert found.shape == expected.shape
    assert not torch.equal(found, expected)


@pytest.fixture(scope="module", params=[None, ((3, 7), (3,))], ids=["apart", "overlapping"])
def models(request, plan, make_model):
    return [make_model(plan.model_copy(update={"regions": request.param}), seed) for seed in (0, 1)]


def test_one_prediction_serves_both_and_samples_say_the_same_separate_a_mask(models, bank, scan):
    calibrated = CalibratedPredictor(Predictor(models, SAMPLES), AppliedCalibration(temperature=2.0, widening=1.5))
    selection = select_labels(models[0].plan, bank)
    both = segment_image(*scan, selection, calibrated, mask_uncertainty=True, probabilities=True)
    single_pass = CalibratedPredictor(Predictor(models, PredictionSettings()))
    mask = segment_image(*scan, selection, single_pass, probabilities=True)
    separate = segment_image(*scan, selection, single_pass, calibrated, probabilities=True)
    assert set(mask.maps) == PROBABILITIES
    assert mask.sums is None, "nothing was fitted for this setting"
    assert (separate.slots == mask.slots).all()
    assert all(np.array_equal(separate.maps[name], mask.maps[name]) for name in PROBABILITIES)
    assert not any(np.array_equal(both.maps[name], mask.maps[name]) for name in PROBABILITIES)
    assert set(separate.maps) - PROBABILITIES == {
        f"uncertainty/{n}" for n in ("entropy", "between_samples", "between_folds")
    }
    assert all(np.array_equal(separate.maps[name], both.maps[name]) for name in set(both.maps) - PROBABILITIES)


def test_maps_in_files_are_those_in_memory(models, bank, scan, tmp_path):
    calibrated = CalibratedPredictor(Predictor(models, SAMPLES), AppliedCalibration(temperature=2.0))
    arguments = *scan, select_labels(models[0].plan, bank), calibrated
    options = {"mask_uncertainty": True, "probabilities": True}
    kept, written = segment_image(*arguments, **options), segment_image(*arguments, **options, folder=tmp_path)
    assert set(kept.maps) == set(written.maps)
    assert len(list(tmp_path.iterdir())) == len(kept.maps) == 5
    for name, array in kept.maps.items():
        assert array.any()
        assert np.array_equal(array, written.maps[name])


def sums_of(plan, *p_and_voxels):
    """The sums of a prediction in which each label has its p at so many voxels, and background the others."""
    p = torch.zeros(3, 1, 1, 1000)
    for slot, (value, voxels) in enumerate(p_and_voxels, start=1):
        p[slot, 0, 0, 300 * slot : 300 * slot + voxels] = value
    p[0] = 1 - p[1:].sum(0)
    sums = SlabVoxelSums(readout_of(plan), 2)
    sums.add(p)
    return sums.finish()


def test_an_interval_is_widened_and_holds_the_mask_s_own_volume(plan, bank, scan):
    _, transform = scan
    ratio = np.prod(transform.cropped_shape) / np.prod(transform.shape)
    voxel = np.prod(transform.geometry.spacing) / 1000
    slots = np.zeros(transform.original_shape, np.int16)
    slots[0, 0, :10], slots[0, 1, :10] = 1, 2
    on_plan = [round(voxels / ratio) for voxels in (12, 30)]
    found = ScanResult(slots, sums_of(plan, (0.999, on_plan[0]), (0.7, on_plan[1])), {})
    selection = select_labels(plan, bank)
    front, back = volumes_of(found, selection, plan, transform, AppliedCalibration(widening=1.5))
    assert (front.volume_ml, back.volume_ml) == pytest.approx((10 * voxel, 10 * voxel))
    assert (front.low_ml, front.high_ml) == pytest.approx((12 / 1.5 * voxel, 12 * 1.5 * voxel))
    assert (back.low_ml, back.high_ml) == pytest.approx((0, 30 * 1.5 * voxel)), "p = 0.7 is in p > 0.05 alone"
    warm, _ = volumes_of(found, selection, plan, transform, AppliedCalibration(widening=1.5, temperature=3.0))
    assert warm.low_ml == 0, "0.999 is 0.91 with this temperature"
    assert warm.high_ml == pytest.approx(front.high_ml)
    assert next(volumes_of(found, selection, plan, transform, AppliedCalibration(temperature=1.0))).low_ml is None, (
        "no factor"
    )
    plain = ScanResult(slots, None, {})
    assert next(volumes_of(plain, selection, plan, transform, AppliedCalibration())).low_ml is None


def test_the_whole_holds_the_volume_of_its_part(plan, bank, scan):
    nested, (_, transform) = plan.model_copy(update={"regions": ((3, 7), (3,))}), scan
    slots = np.zeros(transform.original_shape, np.int16)
    slots[0, 0, :8], slots[0, 1, :10] = 1, 2
    found = ScanResult(slots, None, {})
    whole, part = volumes_of(found, select_labels(nested, bank), nested, transform, AppliedCalibration())
    voxel = np.prod(transform.geometry.spacing) / 1000
    assert (whole.volume_ml, part.volume_ml) == pytest.approx((18 * voxel, 10 * voxel))


CURVE = DiceCurve(curve=tuple(0.8 * knot for knot in KNOTS), threshold=0.6, may_be_absent=("back",))


def test_the_expected_dice_is_the_curve_at_the_soft_dice(plan, bank):
    selection, slots = select_labels(plan, bank), np.array([0, 1, 2])
    found = ScanResult(slots, sums_of(plan, (0.9, 10), (0.7, 30)), {})
    dice = expected_dice_of(found, selection, plan, AppliedCalibration(expected_dice=CURVE))
    front, back = (2 * p / (1 + p) for p in (0.9, 0.7))
    assert dice.labels == pytest.approx({"Front_Part": 0.8 * front, "back": 0.8 * back}, abs=1e-6)
    assert (dice.mean, dice.threshold) == (pytest.approx(0.4 * (front + back)), 0.6)
    assert not dice.needs_check
    assert dice.note is None
    assert expected_dice_of(found, selection, plan, AppliedCalibration(temperature=2.0)) is None, (
        "a fold without a curve"
    )
    poor = ScanResult(slots, sums_of(plan, (0.4, 10), (0.7, 30)), {})
    checked = expected_dice_of(poor, selection, plan, AppliedCalibration(expected_dice=CURVE))
    assert checked.labels["Front_Part"] == 0, "an empty mask of a label that every validation case has"
    assert checked.note == "Check this mask: its expected Dice is 0.33, of Front_Part 0.00 (threshold 0.60)."
    alone = select_labels(plan, bank, ["front part"])
    sums = VoxelSums(poor.sums.levels[:1], poor.sums.soft_dice[:1], poor.sums.voxels[:1])
    part = expected_dice_of(ScanResult(slots[:2], sums, {}), alone, plan, AppliedCalibration(expected_dice=CURVE))
    assert (part.threshold, part.needs_check, part.note) == (None, False, None), "the threshold is for all labels"


def test_an_empty_mask_has_no_expected_dice_where_it_may_be_right(plan, bank):
    found = ScanResult(np.array([0, 1]), sums_of(plan, (0.9, 10), (0.4, 30)), {})
    applied = AppliedCalibration(expected_dice=CURVE)
    dice = expected_dice_of(found, select_labels(plan, bank), plan, applied)
    assert set(dice.labels) == {"Front_Part"}
    emptied = replace(found, sums=sums_of(plan, (0.9, 10), (0.7, 30)))
    dice = expected_dice_of(emptied, select_labels(plan, bank), plan, applied)
    assert set(dice.labels) == {"Front_Part"}, "postprocessing has dropped the other label"
    first_gone = replace(emptied, slots=np.array([0, 2]))
    absent = AppliedCalibration(expected_dice=CURVE.model_copy(update={"may_be_absent": ("Front_Part",)}))
    assert set(expected_dice_of(first_gone, select_labels(plan, bank), plan, absent).labels) == {"back"}
    selection = select_labels(plan, bank, ["back"])
    only = replace(selection, queries=replace(selection.queries, labels=torch.tensor([[9]])))
    alone = replace(found, sums=replace(found.sums, soft_dice=np.ones(1), voxels=np.ones(1)))
    assert expected_dice_of(alone, only, plan, applied).mean is None, "a phrase that the model was not trained with"


def test_a_prompt_is_answered_as_separate_all_other_labels(models, bank, scan):
    plan, masks = models[0].plan, CalibratedPredictor(Predictor(models, PredictionSettings()))
    whole, back = (
        segment_image(*scan, select_labels(plan, bank), masks, probabilities=True),
        segment_image(*scan, select_labels(plan, bank, ["back"]), masks, probabilities=True),
    )
    assert set(back.maps) == {"probabilities/1_back"}
    if plan.regions is None:
        assert set(np.unique(whole.slots)) == {0, 1, 2}
        assert ((back.slots == 1) == (whole.slots == 2)).all()
        np.testing.assert_allclose(back.maps["probabilities/1_back"], whole.maps["probabilities/2_back"], atol=1e-5)
    else:  # nothing competes, so that nothing else is selection for
        found, expected = back.maps["probabilities/1_back"], whole.maps["probabilities/2_back"]
        assert not np.allclose(found, expected)
