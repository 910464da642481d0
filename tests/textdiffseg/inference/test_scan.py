"""What is known of one scan, and that asking for more of it changes nothing."""

import numpy as np
import pytest
import torch

from textdiffseg.folds.calibration import Applied
from textdiffseg.folds.sampling import Settings
from textdiffseg.imaging.volume import Volume
from textdiffseg.inference.predictor import Predictor
from textdiffseg.inference.prompting import select_labels
from textdiffseg.inference.scan import Calibrated, Distribution, ScanResult, examine, volumes_of
from textdiffseg.preprocessing.case import preprocess_image

SAMPLES = Settings(steps=3, samples=8)


@pytest.fixture(scope="module")
def scan(plan, make_geometry):
    """An image on the plan's grid, and the way back."""
    volume = Volume(np.random.default_rng(0).normal(size=(1, 9, 20, 17)).astype(np.float32), make_geometry((9, 20, 17)))
    image, transform = preprocess_image(volume, plan)
    return torch.from_numpy(image), transform


@pytest.fixture(scope="module", params=[None, ((3, 7), (3,))], ids=["apart", "overlapping"])
def models(request, plan, make_model):
    return [make_model(plan.model_copy(update={"regions": request.param}), seed) for seed in (0, 1)]


def test_one_prediction_serves_both_and_samples_say_the_same_separate_a_mask(models, bank, scan):
    calibrated = Calibrated(Predictor(models, SAMPLES), Applied(temperature=2.0, widening=1.5))
    selection = select_labels(models[0].plan, bank)
    both = examine(*scan, selection, calibrated, calibrated)
    mask = examine(*scan, selection, Calibrated(Predictor(models, Settings())))
    separate = examine(*scan, selection, Calibrated(Predictor(models, Settings())), calibrated)
    assert mask.distribution is None
    assert (separate.slots == mask.slots).all()
    assert torch.equal(separate.probabilities, mask.probabilities)
    assert not torch.equal(both.probabilities, mask.probabilities)
    assert set(separate.distribution.maps) == {"entropy", "between_samples", "between_folds"}
    assert all(torch.equal(separate.distribution.maps[name], one) for name, one in both.distribution.maps.items())
    assert (separate.distribution.volumes == both.distribution.volumes).all()
    assert separate.distribution.widening == 1.5


def test_an_interval_is_widened_and_holds_the_mask_s_own_volume(plan, bank, scan):
    _, transform = scan
    ratio = np.prod(transform.cropped_shape) / np.prod(transform.shape)
    voxel = np.prod(transform.geometry.spacing) / 1000
    slots = np.zeros(transform.original_shape, np.int16)
    slots[0, 0, :10], slots[0, 1, :10] = 1, 2
    drawn = np.array([0.0, 12.0, 30.0]).reshape(1, 1, 3) / ratio  # voxels of the plan's grid
    found = ScanResult(slots, torch.zeros(0), Distribution({}, drawn, widening=1.5))
    selection = select_labels(plan, bank)
    front, back = volumes_of(found, selection, plan, transform)
    assert (front.volume_ml, back.volume_ml) == pytest.approx((10 * voxel, 10 * voxel))
    assert (front.low_ml, front.high_ml) == pytest.approx((12 / 1.5 * voxel, 12 * 1.5 * voxel))
    assert (back.low_ml, back.high_ml) == pytest.approx((10 * voxel, 30 * 1.5 * voxel))
    assert next(volumes_of(ScanResult(slots, torch.zeros(0), None), selection, plan, transform)).low_ml is None


def test_a_prompt_is_answered_as_separate_all_other_labels(models, bank, scan):
    plan, masks = models[0].plan, Calibrated(Predictor(models, Settings()))
    whole, back = (
        examine(*scan, select_labels(plan, bank), masks),
        examine(*scan, select_labels(plan, bank, ["back"]), masks),
    )
    assert back.probabilities.shape[0] == 2
    if plan.regions is None:
        assert set(np.unique(whole.slots)) == {0, 1, 2}
        assert ((back.slots == 1) == (whole.slots == 2)).all()
        torch.testing.assert_close(back.probabilities[1], whole.probabilities[2])
        torch.testing.assert_close(back.probabilities[0], whole.probabilities[:2].sum(0))
    else:  # nothing competes, so that nothing else is selection for
        assert not torch.allclose(back.probabilities[1], whole.probabilities[2])
