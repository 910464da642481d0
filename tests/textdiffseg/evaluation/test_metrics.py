"""The invariants of Dice, NSD and HD95, and the rule for empty masks."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from textdiffseg.evaluation import metrics
from textdiffseg.evaluation.metrics import BOTH_EMPTY, PREDICTION_EMPTY, REFERENCE_EMPTY, dice, score_case

SPACING = (3.0, 1.5, 1.0)


def blob(seed: int, shape=(18, 22, 26)) -> np.ndarray:
    """A smooth random mask away from the border."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 3)
    inner = np.zeros(shape, bool)
    inner[3:-3, 3:-3, 3:-3] = True
    return (noise > np.quantile(noise, 0.7)) & inner


def cube(start, size=(4, 6, 8), shape=(16, 20, 24)) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[tuple(slice(first, first + extent) for first, extent in zip(start, size, strict=True))] = 1
    return mask


def scores(predicted, expected, spacing=SPACING, tolerance=1.0):
    return score_case(np.asarray(predicted), np.asarray(expected), spacing, {1: "x"}, tolerance).labels["x"]


def test_a_mask_against_itself_is_perfect():
    mask = blob(0).astype(np.uint8)
    perfect = scores(mask, mask)
    assert (perfect.dice, perfect.nsd, perfect.hd95) == (1.0, 1.0, 0.0)
    assert perfect.volume_ml == perfect.reference_ml == pytest.approx(mask.sum() * 4.5 / 1000)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_shift_is_measured_in_millimetres_along_its_axis(axis):
    start = [4, 5, 6]
    reference = cube(start)
    start[axis] += 2
    shift = 2 * SPACING[axis]
    moved = scores(cube(start), reference, tolerance=shift + 0.01)
    assert moved.hd95 == pytest.approx(shift)
    assert moved.dice == pytest.approx(1 - 2 / (4, 6, 8)[axis])
    assert moved.nsd == 1.0
    assert scores(cube(start), reference, tolerance=0.5 * SPACING[axis]).nsd < 1


def test_only_lengths_scale_with_the_spacing():
    one, other = blob(1).astype(np.uint8), blob(2).astype(np.uint8)
    plain = scores(one, other)
    doubled = scores(one, other, tuple(2 * step for step in SPACING), 2.0)
    assert doubled.dice == plain.dice
    assert doubled.nsd == pytest.approx(plain.nsd, abs=1e-6)
    assert doubled.hd95 == pytest.approx(2 * plain.hd95, rel=1e-5)
    assert doubled.volume_ml == pytest.approx(8 * plain.volume_ml)


def test_scores_are_symmetric_in_prediction_and_reference():
    one, other = blob(3).astype(np.uint8), blob(4).astype(np.uint8)
    there, back = scores(one, other), scores(other, one)
    assert (there.dice, there.hd95) == (back.dice, back.hd95)
    assert there.nsd == pytest.approx(back.nsd, abs=1e-6)


def test_scores_do_not_depend_on_the_order_of_axes():
    one, other = blob(5).astype(np.uint8), blob(6).astype(np.uint8)
    plain = scores(one, other)
    turned = scores(one.transpose(2, 0, 1), other.transpose(2, 0, 1), (SPACING[2], SPACING[0], SPACING[1]))
    assert (turned.dice, turned.hd95) == pytest.approx((plain.dice, plain.hd95))
    assert turned.nsd == pytest.approx(plain.nsd, abs=1e-5)


def test_cropping_changes_nothing_even_at_the_border_of_the_scan():
    one, other = cube((0, 0, 0)), cube((1, 0, 2))
    wide = [np.pad(mask, 9) for mask in (one, other)]
    small, large = scores(one, other), scores(*wide)
    assert small.model_dump(exclude={"rater_dice"}) == pytest.approx(large.model_dump(exclude={"rater_dice"}))


def test_nsd_equals_monais_with_subvoxels_on_the_whole_scan():
    import torch
    from monai.metrics import SurfaceDiceMetric

    one, other = blob(7), blob(8)
    metric = SurfaceDiceMetric([1.5], include_background=True, use_subvoxels=True)
    whole = metric(torch.from_numpy(one)[None, None], torch.from_numpy(other)[None, None], spacing=SPACING)
    assert scores(one.astype(np.uint8), other.astype(np.uint8), tolerance=1.5).nsd == pytest.approx(float(whole))


def test_the_rule_for_empty_masks():
    empty, full = np.zeros((16, 20, 24), np.uint8), cube((4, 5, 6))
    neither = scores(empty, empty)
    assert (neither.dice, neither.nsd, neither.hd95, neither.note) == (None, None, None, BOTH_EMPTY)
    missed = scores(empty, full)
    assert (missed.dice, missed.nsd, missed.hd95, missed.note) == (0.0, 0.0, None, PREDICTION_EMPTY)
    invented = scores(full, empty)
    assert (invented.dice, invented.nsd, invented.hd95, invented.note) == (0.0, 0.0, None, REFERENCE_EMPTY)
    assert (invented.reference_ml, missed.volume_ml) == (0.0, 0.0)


def test_disjoint_masks_have_a_distance_but_no_overlap():
    apart = scores(cube((0, 0, 0)), cube((8, 0, 0)))
    assert (apart.dice, apart.nsd) == (0.0, 0.0)
    assert apart.hd95 == pytest.approx(8 * SPACING[0])


def test_labels_may_have_any_values():
    reference = cube((1, 1, 1)) * 7 + cube((8, 10, 12)) * np.uint8(200)
    prediction = np.where(reference == 7, 7, 0)
    both = score_case(prediction, reference, SPACING, {7: "a", 200: "b", 9: "absent"})
    assert [both.labels[name].dice for name in ("a", "b", "absent")] == [1.0, 0.0, None]
    assert both.mean_dice == 0.5


def test_large_values_of_an_atlas_need_no_more_memory():
    reference = cube((1, 1, 1)) * np.int64(5) + cube((8, 10, 12)) * np.int64(2**31 - 1)
    small, large = reference * (reference == 5) // 5, reference * (reference > 5) // (2**31 - 1) * 2
    labels = {5: "a", 2**31 - 1: "b", 6: "absent"}
    expected = score_case(np.roll(small + large, 1, 0), small + large, SPACING, {1: "a", 2: "b", 3: "absent"})
    assert score_case(np.roll(reference, 1, 0), reference, SPACING, labels) == expected


def test_ignored_voxels_count_in_neither_mask():
    reference = cube((4, 5, 6)).astype(np.int16)
    prediction = cube((4, 5, 6)).astype(np.int16)
    prediction[0, :5] = 1
    reference[0] = -1
    assert scores(prediction, reference).dice == 1.0


def test_without_the_table_of_areas_dice_and_volumes_remain(monkeypatch):
    monkeypatch.setattr(metrics, "surfaces_available", lambda: False)
    bare = scores(cube((4, 5, 6)), cube((4, 5, 7)))
    assert bare.dice is not None
    assert (bare.nsd, bare.hd95) == (None, None)


def test_dice_of_two_masks():
    assert dice(np.array([True, True, False]), np.array([False, True, True])) == 0.5
    assert dice(np.zeros(3, bool), np.zeros(3, bool)) is None


def test_arrays_of_different_shapes_raise_a_value_error():
    with pytest.raises(ValueError, match="one shape"):
        score_case(np.zeros((2, 2, 2)), np.zeros((2, 2, 3)), SPACING, {1: "x"})


def test_overlapping_labels_are_unions_of_values():
    rng = np.random.default_rng(0)
    predicted, expected = rng.integers(0, 4, (2, 8, 9, 10))
    expected[:2] = -1
    found = score_case(predicted, expected, SPACING, {(1, 2, 3): "whole", (2, 3): "core", (3,): "rim"}, surfaces=False)
    for name, low in (("whole", 1), ("core", 2), ("rim", 3)):
        assert found.labels[name].dice == dice((predicted >= low)[2:], (expected >= low)[2:])


def test_scores_do_not_depend_on_free_memory(monkeypatch):
    predicted, expected = cube((2, 3, 4)), cube((3, 3, 4))
    whole = scores(predicted, expected)
    monkeypatch.setattr("textdiffseg.resources.free_memory", lambda: 0.0)
    assert scores(predicted, expected) == whole
    assert whole.nsd is not None


def test_lesions_are_scored_for_the_requested_labels():
    reference = cube((1, 1, 1)) + 2 * cube((8, 10, 12))
    found = score_case(reference, reference, SPACING, {1: "a", 2: "b"}, lesions=["b"]).labels
    assert found["a"].lesions is None
    assert (found["b"].lesions.f1, found["b"].lesions.matched) == (1.0, 1)
