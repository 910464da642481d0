"""Alternatives: samples of a scan on its own grid, chosen by their Dice."""

import numpy as np
import pytest
import torch

import textdiffseg as tds
from textdiffseg.folds.sampling import PredictionSettings
from textdiffseg.inference import alternatives
from textdiffseg.inference.alternatives import choose_alternatives, distances, draw_masks, samples_at_once
from textdiffseg.inference.samples import SamplePredictor
from textdiffseg.inference.windows import joined


@pytest.fixture
def model(root):
    return tds.load(root / "results" / "Dataset900_Tiny" / "default", device="cpu")


@pytest.fixture
def scan(tmp_path, make_scan):
    make_scan(tmp_path / "a.nii.gz")
    return tmp_path / "a.nii.gz"


def whole_samples(predictor, image, bank, numbers):
    """The probabilities of each sample, from its slabs."""
    slabs = list(zip(*predictor.sample_slabs(image, bank.all_labels(), numbers), strict=True))
    return [joined(of_sample, tuple(image.shape[1:])).probabilities for of_sample in slabs]


def test_a_single_sample_is_the_sample_of_its_number(plan, make_model, image, bank):
    """The mean over the samples of one fold is the prediction with all of them, whose windows are denoised alone."""
    predictor = SamplePredictor([make_model(plan)], PredictionSettings(steps=2, samples=3))
    predictor.in_turn = False
    single = whole_samples(predictor, image, bank, range(3))
    whole = predictor.predict_image(image, bank.all_labels()).probabilities
    torch.testing.assert_close(torch.stack(single).mean(0), whole)
    assert not torch.allclose(single[0], single[1], atol=1e-3)
    assert torch.equal(whole_samples(predictor, image, bank, [2])[0], single[2])


def test_pairs_of_samples_are_drawn_with_the_folds_in_turn(plan, make_model, image, bank):
    networks, settings = [make_model(plan, seed) for seed in (0, 1)], PredictionSettings(steps=2, samples=4)
    together = whole_samples(SamplePredictor(networks, settings), image, bank, range(4))
    for number, found in enumerate(together):
        alone = whole_samples(SamplePredictor([networks[number // 2 % 2]], settings), image, bank, [number])
        assert torch.equal(found, alone[0])


def test_the_number_of_samples_drawn_at_once_changes_nothing(model, scan, monkeypatch):
    whole = model.segment(scan, alternatives=3)
    monkeypatch.setattr(alternatives, "samples_at_once", lambda *_: 5)
    for a, b in zip(whole.alternatives, model.segment(scan, alternatives=3).alternatives, strict=True):
        assert np.array_equal(a.labels, b.labels)
        assert a.share == b.share


def test_fewer_samples_are_drawn_at_once_if_they_are_large():
    assert samples_at_once(3, 10**5) == 16
    assert samples_at_once(25, 10**6) == 9  # 104 MB each: 26 sums a voxel, of 4 bytes
    assert samples_at_once(100, 10**9) == 1


def test_the_mask_does_not_change_and_alternatives_have_its_grid_and_values(model, scan):
    plain, found = model.segment(scan), model.segment(scan, alternatives=4, prompts=[])
    assert np.array_equal(plain.labels, found.labels)
    assert plain.alternatives == ()
    assert 1 < len(found.alternatives) <= 4
    assert sum(one.share for one in found.alternatives) == pytest.approx(1)
    for one in found.alternatives:
        assert one.labels.shape == found.labels.shape
        assert set(np.unique(one.labels)) <= {0, 3, 7}


def test_rivals_of_a_prompt_are_not_written(model, scan):
    found = model.segment(scan, alternatives=2, prompts=["back"])
    assert all(set(np.unique(one.labels)) <= {0, 3} for one in found.alternatives)


def test_alternatives_are_samples_of_the_scan(model, scan):
    prepared = model.prepare(tds.SegmentOptions(alternatives=16))
    volume = tds_volume(scan)
    image, transform = alternatives_image(volume, model.plan)
    queries = prepared.selection.queries
    masks = draw_masks(prepared.alternatives.predictor, image, transform, queries, 2)
    assert masks.dtype == np.uint8
    values = np.array([0, *prepared.selection.values])
    drawn = {values[mask].tobytes() for mask in masks}
    result = prepared.run(prepared.read(volume))
    assert {one.labels.astype(values.dtype).tobytes() for one in result.alternatives} == drawn


def tds_volume(scan):
    from textdiffseg.imaging.sources.files import read_volume

    return read_volume((scan,))


def alternatives_image(volume, plan):
    from textdiffseg.preprocessing.case import preprocess_image

    image, transform = preprocess_image(volume, plan)
    return torch.from_numpy(image), transform


def test_the_distance_is_one_minus_the_mean_dice_of_the_labels_that_one_of_both_contains():
    masks = np.zeros((3, 2, 2, 2), np.uint8)
    masks[0, 0], masks[1, 0, 0], masks[1, 1, 0] = 1, 1, 2
    found = distances(masks, 2)
    assert np.array_equal(found, found.T)
    assert found[0, 1] == 1 - (2 * 2 / (4 + 2) + 0) / 2
    assert found[0, 2] == 1
    assert not np.diagonal(found).any()


def test_equal_samples_give_one_alternative_with_the_whole_share():
    (one,) = choose_alternatives(np.ones((16, 2, 2, 2), np.uint8), (7,), 4)
    assert (one.share, set(np.unique(one.labels))) == (1.0, {7})


@pytest.mark.parametrize("count", [17, -1, 2.0, True])
def test_a_number_out_of_range_is_one_line(model, scan, count):
    with pytest.raises(tds.UserError, match="--alternatives: expected a whole number from 1 to 16") as error:
        model.segment(scan, alternatives=count)
    assert len(error.value.lines) == 1


def test_a_model_without_diffusion_has_no_alternatives(root, make_plan, make_fold, bank, scan):
    make_fold(root / "results" / "Dataset900_Tiny" / "unet" / "fold_0", make_plan("unet"), bank, 0)
    model = tds.load(root / "results" / "Dataset900_Tiny" / "unet", device="cpu")
    with pytest.raises(tds.UserError, match=r"preset unet\) has no diffusion, so it has no samples"):
        model.segment(scan, alternatives=2)
