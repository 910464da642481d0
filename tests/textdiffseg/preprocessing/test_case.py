"""Preprocessing of one case to the plan's grid, and its inverse."""

import itertools
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from plans.errors import UserError
from plans.network_plan import LatentPlan, Stage
from plans.plan import ChannelPlan, LabelPlan, MemoryPlan, Plan, TextPlan, TrainingPlan
from plans.planning.scan_memory import reading_bytes
from textdiffseg.imaging.forms import NiftiForms
from textdiffseg.imaging.volume import Geometry, Volume
from textdiffseg.preprocessing.case import (
    IGNORED,
    TransformRecord,
    number_labels,
    preprocess_image,
    preprocess_labels,
    restore,
    restore_map,
)
from textdiffseg.preprocessing.crop import crop_box


def make_plan(spacing=(1.0, 1.0, 1.0), channels=1, scheme="none", **changes) -> Plan:
    stage = {"kernel": (3, 3, 3), "width": 4, "blocks": 1}
    return Plan(
        preset="default",
        dataset="Dataset001_Test",
        device="cpu",
        channels=[ChannelPlan(name=f"c{number}", scheme=scheme) for number in range(channels)],
        labels=[LabelPlan(name="a", value=1), LabelPlan(name="b", value=2)],
        spacing=spacing,
        median_shape=(16, 16, 16),
        patch=(16, 16, 16),
        batch=1,
        stages=[Stage(stride=(1, 1, 1), **stage), Stage(stride=(2, 2, 2), **stage)],
        fusion_level=1,
        latent=LatentPlan(level=1, channels=4),
        diffusion=None,
        text=TextPlan(encoder="bundled", width=8),
        training=TrainingPlan(
            epochs=1,
            iterations_per_epoch=1,
            learning_rate=1,
            weight_decay=0,
            warmup=0,
            ema=0,
            foreground_share=0,
        ),
        mirror_axes=(),
        memory=MemoryPlan(budget_gb=1, training_gb=1, prediction_gb=1, ram_gb=1, disk_gb=1),
        **changes,
    )


def scene(permutation=(0, 1, 2), signs=(1, 1, 1), spacing=(1.5, 0.8, 0.9)) -> tuple[Volume, np.ndarray]:
    """A turned scan with a zero border and two blobs, and its label numbers."""
    rng = np.random.default_rng(0)
    shape = tuple((26, 30, 34)[axis] for axis in permutation)
    numbers = np.zeros(shape, np.int16)
    field = ndimage.gaussian_filter(rng.normal(size=shape), 3)
    numbers[field > np.quantile(field, 0.85)] = 1
    numbers[field < np.quantile(field, 0.15)] = 2
    border = np.zeros(shape, bool)
    border[3:-2, 4:-4, 1:-6] = True
    numbers[~border] = 0
    image = np.where(border, 50 + 30 * ndimage.gaussian_filter(field, 1), 0).astype(np.float32)
    directions = np.eye(3)[::-1][:, permutation] * signs
    affine = np.eye(4)
    affine[:3, :3] = directions * [spacing[axis] for axis in permutation]
    affine[:3, 3] = (5, 6, 7)
    return Volume(image[None], Geometry(shape, affine)), numbers


TURNS = [((0, 1, 2), (1, 1, 1)), ((0, 1, 2), (-1, -1, 1)), ((2, 0, 1), (1, -1, 1)), ((1, 2, 0), (-1, 1, -1))]


@pytest.mark.parametrize(("permutation", "signs"), TURNS)
def test_labels_are_restored_from_another_spacing(permutation, signs):
    volume, numbers = scene(permutation, signs)
    plan = make_plan(spacing=(0.7, 0.5, 0.5))
    image, transform = preprocess_image(volume, plan)
    there = preprocess_labels(numbers, transform, plan)
    assert image.shape[1:] == there.shape == transform.shape
    probabilities = np.stack([there == number for number in range(3)]).astype(np.float32)
    back = restore(probabilities, transform)
    assert back.shape == numbers.shape
    for number in (1, 2):
        both = np.count_nonzero((back == number) & (numbers == number))
        assert 2 * both / (np.count_nonzero(back == number) + np.count_nonzero(numbers == number)) > 0.95


@pytest.mark.parametrize(("permutation", "signs"), TURNS)
def test_at_the_same_spacing_the_inverse_is_exact(permutation, signs):
    volume, numbers = scene(permutation, signs, (1.0, 1.0, 1.0))
    plan = make_plan()
    image, transform = preprocess_image(volume, plan)
    there = preprocess_labels(numbers, transform, plan)
    held = [size - zeros for size, zeros in zip(numbers.shape, (5, 8, 7), strict=True)]  # along the file's axes
    assert transform.shape == tuple(held[permutation.index(axis)] for axis in range(3))
    assert np.array_equal(restore(np.stack([there == number for number in range(3)]), transform), numbers)
    assert np.array_equal(restore_map(image[0], transform), volume.array[0])


def test_outside_the_crop_are_background_and_the_map_s_outside_value():
    volume, _ = scene()
    _, transform = preprocess_image(volume, make_plan())
    everywhere = np.stack([np.zeros(transform.shape), np.ones(transform.shape)])
    found, outside = restore(everywhere, transform), volume.array[0] == 0
    assert found.sum() == np.prod(transform.cropped_shape)
    assert not found[outside].any()
    assert (restore_map(np.ones(transform.shape), transform, outside=-3.0)[outside] == -3).all()


def test_all_orientations_of_one_scan_are_stored_alike():
    stored = []
    for permutation, signs in itertools.product(itertools.permutations(range(3)), [(1, 1, 1), (1, -1, -1)]):
        base, numbers = scene(spacing=(2.0, 1.1, 0.7))
        flips = tuple(axis for axis in range(3) if signs[axis] < 0)
        array = np.flip(base.array[0], flips).transpose(permutation)
        affine = np.eye(4)
        affine[:3, :3] = (base.geometry.affine[:3, :3] * signs)[:, permutation]
        plan = make_plan(scheme="zscore")
        image, transform = preprocess_image(Volume(array[None], Geometry(array.shape, affine)), plan)
        stored.append((image, preprocess_labels(np.flip(numbers, flips).transpose(permutation), transform, plan)))
    for image, labels in stored[1:]:
        assert np.allclose(image, stored[0][0], atol=1e-4)
        assert np.array_equal(labels, stored[0][1])


def test_thick_slices_are_not_interpolated():
    """Separate z: along the thick axis every plane is a copy of one of the scan's planes."""
    volume, _ = scene(spacing=(6.0, 1.0, 1.0))
    image, transform = preprocess_image(volume, make_plan(spacing=(3.0, 1.0, 1.0), crop="none"))
    assert transform.shape == (52, 30, 34)
    assert all(np.array_equal(plane, volume.array[0, i // 2]) for i, plane in enumerate(image[0]))


def rough(spacing) -> tuple[Volume, np.ndarray]:
    """Noise, and random labels in blocks of a few voxels: orders of interpolation differ visibly."""
    rng = np.random.default_rng(1)
    numbers = ndimage.zoom(rng.integers(0, 3, (8, 10, 11)), 3, order=0).astype(np.int16)
    image = rng.normal(100, 30, (1, *numbers.shape)).astype(np.float32)
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[::-1] * spacing
    return Volume(image, Geometry(numbers.shape, affine)), numbers


def zoomed(array, shape, orders):
    """scipy's zoom axis by axis, each in its own order."""
    for axis, order in enumerate(orders):
        factors = [shape[axis] / array.shape[axis] if other == axis else 1 for other in range(3)]
        array = ndimage.zoom(array, factors, order=order, mode="nearest", grid_mode=True)
    return array


def masks_zoomed(numbers, shape, orders):
    """The label whose zoomed mask is largest, and where it is so beyond doubt."""
    masks = np.stack([zoomed((numbers == number).astype(float), shape, orders) for number in range(3)])
    top = np.sort(masks, axis=0)
    return masks.argmax(0), top[-1] - top[-2] > 1e-3


@pytest.mark.parametrize(
    ("spacing", "target", "orders", "wrong"),
    [
        ((1.5, 0.8, 0.9), (1.0, 1.0, 1.0), (3, 3, 3), (1, 1, 1)),
        ((6.0, 1.0, 1.0), (3.7, 0.8, 0.8), (0, 3, 3), (3, 3, 3)),
        ((1.0, 1.0, 6.0), (0.8, 0.8, 3.7), (3, 3, 0), (3, 3, 3)),
    ],
)
def test_images_are_resampled_by_cubic_splines_and_along_a_coarse_axis_by_the_nearest(spacing, target, orders, wrong):
    plan = make_plan(spacing=target, crop="none")
    volume, _ = rough(spacing)
    image, transform = preprocess_image(volume, plan)
    array = volume.array[0].astype(float)
    expected = zoomed(array, transform.shape, orders).clip(array.min(), array.max())
    assert np.abs(image[0] - expected).max() < 1e-2
    assert np.abs(image[0] - zoomed(array, transform.shape, wrong)).mean() > 1, "else the order could not be seen"


@pytest.mark.parametrize(
    ("spacing", "target", "orders", "wrong"),
    [
        ((1.5, 0.8, 0.9), (1.0, 1.0, 1.0), (1, 1, 1), ((0, 0, 0), (3, 3, 3))),
        ((6.0, 1.0, 1.0), (3.7, 0.8, 0.8), (0, 1, 1), ((1, 1, 1), (0, 0, 0))),
    ],
)
def test_labels_are_resampled_linearly_and_along_a_coarse_axis_by_the_nearest(spacing, target, orders, wrong):
    plan = make_plan(spacing=target, crop="none")
    volume, numbers = rough(spacing)
    _, transform = preprocess_image(volume, plan)
    found = preprocess_labels(numbers, transform, plan)
    expected, clear = masks_zoomed(numbers, transform.shape, orders)
    assert clear.mean() > 0.9
    assert np.array_equal(found[clear], expected[clear])
    for others in wrong:
        other, sure = masks_zoomed(numbers, transform.shape, others)
        assert (found != other)[clear & sure].any(), "else the order could not be seen"


def test_without_cropping_the_whole_scan_is_kept():
    volume, _ = scene(spacing=(1.0, 1.0, 1.0))
    image, transform = preprocess_image(volume, make_plan(crop="none"))
    assert image.shape[1:] == volume.geometry.shape == transform.cropped_shape


def test_the_wrong_number_of_channels_is_refused():
    volume, _ = scene()
    with pytest.raises(UserError, match=r"1 channels, expected 2\. Give one file per channel, in this order: c0, c1"):
        preprocess_image(volume, make_plan(channels=2))


def test_a_spacing_that_gives_a_huge_grid_is_refused_before_resampling():
    volume, _ = scene()
    with pytest.raises(UserError, match="Correct the spacing"):
        preprocess_image(volume, make_plan(spacing=(1e-3, 1e-3, 1e-3)))


def test_raw_intensities_are_clipped_to_the_storage_type():
    volume, _ = scene()
    image, _ = preprocess_image(Volume(volume.array * 1e9, volume.geometry), make_plan(scheme="none"))
    assert abs(image).max() == np.finfo(np.float16).max


@pytest.mark.parametrize("scheme", ["ct", "zscore", "rescale_to_0_1", "none"])
def test_integers_are_preprocessed_as_the_same_numbers_in_float32(scheme):
    """To the last bit. The scan's array is not changed."""
    volume, _ = scene()
    statistics = {"low": 20.3, "high": 70.7, "mean": 51.1, "std": 7.7} if scheme == "ct" else {}
    plan = make_plan(spacing=(1.1, 0.7, 1.3))
    plan = plan.model_copy(update={"channels": (ChannelPlan(name="c0", scheme=scheme, **statistics),)})
    whole = np.rint(volume.array)
    kept = whole.astype(np.int16)
    found = [preprocess_image(replace(volume, array=array), plan)[0] for array in (whole, kept)]
    assert found[0].dtype == np.float32
    assert np.array_equal(*found)
    assert np.array_equal(kept, whole)


def test_the_transform_record_survives_json():
    volume, _ = scene(*TURNS[2])
    _, transform = preprocess_image(volume, make_plan())
    again = type(transform).model_validate_json(transform.model_dump_json())
    assert again == transform
    assert np.array_equal(again.geometry.affine, volume.geometry.affine)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.tuples(*[st.integers(1, 9)] * 3))
def test_the_nonzero_box_is_the_smallest_possible(seed, shape):
    array = (np.random.default_rng(seed).random((2, *shape)) > 0.9).astype(np.float32)
    box = tuple(slice(*side) for side in crop_box(array, (1.0, 1.0, 1.0), "nonzero"))
    assert array[(..., *box)].sum() == array.sum()
    if array.any():
        held = array.any(axis=0)[box]
        assert all(held.take(end, axis).any() for axis in range(3) for end in (0, -1))


def test_values_become_label_numbers_and_unknown_values_are_listed():
    numbers_of = {255: 1, -7: 2, 256: IGNORED}
    numbers, unknown = number_labels(np.array([[[0, 255, -7, 256, 3, 3, 9]]]), numbers_of)
    assert numbers[0, 0, :4].tolist() == [0, 1, 2, -1]
    assert unknown == (3, 9)
    numbers, unknown = number_labels(np.array([[[0, 255, 256, 10**9]]]), numbers_of)
    assert (numbers[0, 0, :3].tolist(), unknown) == ([0, 1, -1], (10**9,))


def test_a_scan_that_would_shrink_to_a_plane_is_refused_like_one_that_is_too_large():
    for step, words in ((0.02, "makes 1x"), (99.0, r"makes .*e\+13 voxels")):
        volume, _ = scene(spacing=(step, step, step))
        with pytest.raises(UserError, match=rf"its spacing {step:g}/.* {words}.*Correct the spacing"):
            preprocess_image(volume, make_plan(spacing=(1.0, 1.0, 1.0) if step < 1 else (0.05, 0.05, 0.05)))


def test_the_way_back_keeps_the_forms_of_a_nifti_file():
    volume, _ = scene()
    forms = NiftiForms(
        sform_code=2,
        sform=((1, 0.1, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0)),
        qform_code=1,
        quaternion=(0, 0, 0.1),
        offset=(1, 2, 3),
        pixdim=(-1, 1, 1, 1),
    )
    placed = replace(volume, geometry=replace(volume.geometry, forms=forms))
    _, transform = preprocess_image(placed, make_plan())
    assert TransformRecord.parse_json(transform.model_dump_json(), "").geometry.forms == forms
    _, without = preprocess_image(volume, make_plan())
    fields = without.model_dump(mode="json")
    del fields["forms"]  # as it was stored before there were any
    assert TransformRecord.parse(fields, "").geometry.forms is None


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 0.8, 0.8), (1.4, 1.4, 1.4), (0.4, 1.3, 1.3)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_estimate_of_reading_is_the_measured_peak(spacing, channels):
    array = np.random.default_rng(0).normal(9, 1, (channels, 60, 70, 80)).astype(np.float32)
    plan, geometry = make_plan(spacing, channels, "zscore"), Geometry(array.shape[1:], np.eye(4)[:, [2, 1, 0, 3]])
    masked = [channel.model_copy(update={"foreground_only": True}) for channel in plan.channels]
    plan = plan.model_copy(update={"channels": masked})
    preprocess_image(Volume(array, geometry), plan)  # fills the cache of matrices
    tracemalloc.start()
    _image, transform = preprocess_image(Volume(array, geometry), plan)
    peak = array.nbytes + tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    joining = 2 * array.nbytes if channels > 1 else 0  # of the files of several channels
    assert reading_bytes(channels, transform.shape, geometry.shape) == pytest.approx(max(peak, joining), rel=0.1)


def test_the_shape_is_checked_before_the_image_is_resampled(monkeypatch):
    def refuse(shape):
        assert shape == (8, 8, 8)
        raise UserError("too large")

    monkeypatch.setattr("textdiffseg.preprocessing.case.resample", lambda *_: pytest.fail("it was resampled"))
    volume = Volume(np.ones((1, 8, 8, 8), np.float32), Geometry((8, 8, 8), np.eye(4)))
    with pytest.raises(UserError, match="too large"):
        preprocess_image(volume, make_plan(), check=refuse)
