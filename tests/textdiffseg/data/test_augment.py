import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform, create_affine_matrix_3d

from textdiffseg.data import augment
from textdiffseg.data.augment import (
    Augmentation,
    Placement,
    coarse_axis,
    cut_patch,
    draw_placement,
    read_patch,
    seeded,
    spatial_matrix,
)
from textdiffseg.data.intensity import intensity_transforms, paper_intensity_transforms

SHAPE, PATCH = (24, 28, 20), (12, 16, 10)


@pytest.fixture
def case():
    """A smooth image (1, D, H, W) float16, and blocks of three labels (D, H, W) int8."""
    d, h, w = np.meshgrid(*(np.arange(size) for size in SHAPE), indexing="ij")
    image = np.stack([np.sin(d / 4) + np.cos(h / 5) * np.sin(w / 3)]).astype(np.float16)
    labels = np.zeros(SHAPE, np.int8)
    labels[4:12, 5:20, 4:11], labels[12:20, 5:20, 4:11], labels[8:16, 8:15, 11:16] = 1, 2, 3
    return image, labels


def test_patches_are_read_as_stored_and_padded_with_zeros(case):
    image, labels = case
    picture, label_map = read_patch(image, labels, SHAPE, (-3, 5, 14), PATCH)
    padded = np.pad(image[0], ((3, 0), (0, 0), (0, 4)))[:12, 5:21, 14:24]
    assert np.array_equal(picture[0].numpy(), padded.astype(np.float32))
    assert np.array_equal(label_map.numpy(), np.pad(labels, ((3, 0), (0, 0), (0, 4)))[:12, 5:21, 14:24])
    assert picture.dtype == torch.float32
    assert label_map.dtype == torch.int16


def test_an_identity_transform_changes_nothing(case):
    image, labels = case
    still = cut_patch(image, labels, SHAPE, (-2, 6, 12), PATCH, Placement(None, ()))
    transformed = cut_patch(image, labels, SHAPE, (-2, 6, 12), PATCH, Placement(np.eye(3), ()))
    assert torch.allclose(still[0], transformed[0], atol=1e-4)
    assert torch.equal(still[1], transformed[1])


def test_the_spatial_matrix_equals_batchgenerators():
    angles, scales = [0.3, -0.4, 0.2], [1.2, 0.8, 1.1]
    assert np.allclose(spatial_matrix(angles, scales), create_affine_matrix_3d(angles, scales))


def test_a_rotation_by_90_degrees_is_exact(case):
    image, labels = case
    start, patch = (4, 6, 4), (10, 12, 12)
    matrix = spatial_matrix([np.pi / 2, 0, 0], [1, 1, 1])
    picture, label_map = cut_patch(image, labels, SHAPE, start, patch, Placement(matrix, ()))
    # the matrix takes offset (h, w) of the patch to (-w, h) of the case
    picture_0, labels_0 = read_patch(image, labels, SHAPE, start, patch)
    assert torch.allclose(picture, picture_0.rot90(-1, (2, 3)), atol=1e-4)
    assert torch.equal(label_map, labels_0.rot90(-1, (1, 2)))


@pytest.mark.parametrize(("start", "ignored"), [((6, 6, 5), False), ((-2, 14, -1), False), ((6, 6, 5), True)])
def test_a_transformed_patch_equals_batchgenerators_on_the_whole_case(case, start, ignored, monkeypatch):
    """The result does not depend on the box that is read, or on the number of labels per interpolation."""
    monkeypatch.setattr(augment, "MAX_CHANNELS_AT_ONCE", 2)
    image, labels = case
    if ignored:
        labels[4:8] = -1
    matrix = spatial_matrix([0.3, -0.4, 0.2], [1.2, 0.8, 1.1])
    picture, label_map = cut_patch(image, labels, SHAPE, start, PATCH, Placement(matrix, ()))
    centre = np.array(start) + (np.array(PATCH) - 1) / 2
    offsets = np.stack(np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in PATCH), indexing="ij"), -1)
    points = (2 * (offsets @ matrix.T + centre) + 1) / np.array(SHAPE) - 1
    grid = torch.from_numpy(points[..., ::-1].copy()).float()
    expected = SpatialTransform(PATCH, 0, False).apply(
        {
            "image": torch.from_numpy(image.astype(np.float32)),
            "segmentation": torch.from_numpy(labels.astype(np.int16))[None],
        },
        grid=grid,
    )
    assert torch.allclose(picture, expected["image"], atol=1e-4)
    assert (label_map != expected["segmentation"][0]).float().mean() < 2e-3  # ties of the argmax


def test_a_rotated_patch_has_no_empty_corner_inside_the_case(case):
    """The case is larger than the patch."""
    ones = np.ones((1, 60, 60, 60), np.float16)
    matrix = spatial_matrix([0.5, 0.5, 0.5], [1.4, 1.4, 1.4])
    picture, label_map = cut_patch(
        ones, ones[0].astype(np.int8), (60,) * 3, (22,) * 3, (16,) * 3, Placement(matrix, ())
    )
    assert torch.allclose(picture, torch.ones_like(picture))
    assert (label_map == 1).all()


def test_mirroring_flips_image_and_labels_alike_and_only_the_allowed_axes(case):
    image, labels = case
    picture, label_map = cut_patch(image, labels, SHAPE, (3, 3, 3), PATCH, Placement(None, (0, 2)))
    straight = cut_patch(image, labels, SHAPE, (3, 3, 3), PATCH, Placement(None, ()))
    assert torch.equal(picture, straight[0].flip(1, 3))
    assert torch.equal(label_map, straight[1].flip(0, 2))
    rng = np.random.default_rng(0)
    assert {axis for _ in range(100) for axis in draw_placement(rng, (0, 1)).mirrored} == {0, 1}
    assert not any(draw_placement(rng, ()).mirrored for _ in range(100))


def test_a_third_of_the_patches_are_rotated_or_scaled_within_the_limits():
    rng = np.random.default_rng(0)
    matrices = [draw_placement(rng, ()).matrix for _ in range(2000)]
    transformed = [matrix for matrix in matrices if matrix is not None]
    assert 0.32 < len(transformed) / len(matrices) < 0.40  # 1 - 0.8 * 0.8
    scales = np.cbrt([np.linalg.det(matrix) for matrix in transformed])
    assert 0.7 <= scales.min() < 0.75
    assert 1.35 < scales.max() <= 1.4


def test_anisotropic_patches_rotate_only_in_their_plane():
    assert coarse_axis((40, 56, 40)) is None
    assert coarse_axis((128, 128, 32)) == 2
    assert coarse_axis((256, 80, 80)) is None, "a long bone has no plane in which it could be turned by any angle"
    rng = np.random.default_rng(0)
    matrices = [draw_placement(rng, (), only_about=2).matrix for _ in range(500)]
    transformed = [matrix for matrix in matrices if matrix is not None]
    for matrix in transformed:
        assert np.allclose(matrix[2], (0, 0, 1))
        assert np.allclose(matrix[:, 2], (0, 0, 1))
    assert max(abs(np.arctan2(matrix[1, 0], matrix[0, 0])) for matrix in transformed) > 2


@pytest.mark.parametrize(("texted", "limit"), [(True, np.pi / 6), (False, np.pi)])
def test_samples_with_a_text_are_turned_a_little_only(case, make_plan, texted, limit):
    """Turned by 180 degrees in the plane, "the left zone" would be on the right."""
    image, labels = case
    chain = Augmentation(make_plan(patch=(4, 16, 16), mirror_axes=(), text_axes=(2,)))
    drawn = [chain(image, labels, SHAPE, (1, 1, 1), np.random.default_rng(n), texted)[2].matrix for n in range(300)]
    angles = [abs(np.arctan2(matrix[2, 1], matrix[1, 1])) for matrix in drawn if matrix is not None]
    assert 0.8 * limit < max(angles) <= limit + 1e-6


def test_a_sample_is_a_function_of_its_generator_and_does_not_change_the_global_ones(case, make_plan):
    image, labels = case
    chain = Augmentation(make_plan(patch=PATCH))
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    state = torch.get_rng_state()
    samples = [chain(image, labels, SHAPE, (2, 3, 4), np.random.default_rng(i)) for i in range(20)]
    assert torch.equal(state, torch.get_rng_state())
    here = np.random.get_state()[2]  # noqa: NPY002
    torch.manual_seed(6)
    again = [chain(image, labels, SHAPE, (2, 3, 4), np.random.default_rng(i)) for i in reversed(range(20))]
    assert np.random.get_state()[2] == here  # noqa: NPY002
    for (picture, label_map, _), (other, other_map, _) in zip(samples, reversed(again), strict=True):
        assert torch.equal(picture, other)
        assert torch.equal(label_map, other_map)
        assert torch.isfinite(picture).all()
        assert set(label_map.unique().tolist()) <= {0, 1, 2, 3}
    assert any(not torch.equal(samples[0][0], other) for other, *_ in samples[1:])


def test_voxels_outside_the_nonzero_mask_stay_zero(make_plan):
    plan = make_plan(channels=[{"name": "MRI", "scheme": "zscore", "foreground_only": True}])
    image = np.zeros((1, 20, 20, 20), np.float16)
    image[:, 10:] = 1.5
    for i in range(30):
        picture, *_ = Augmentation(plan)(
            image, np.zeros((20, 20, 20), np.int8), (20,) * 3, (0, 2, 2), np.random.default_rng(i)
        )
        assert (picture == 0).any()
        assert (picture != 0).any()


@pytest.mark.parametrize("strong", [False, True])
@pytest.mark.parametrize("slices", [2, 3, 4])
def test_patches_of_few_slices_are_blurred(slices, strong):
    transform, image = intensity_transforms(0, strong), torch.randn(1, slices, 16, 16)
    for seed in range(300):
        with seeded(seed):
            assert torch.isfinite(transform(image=image.clone())["image"]).all()


def test_global_generators_are_restored_after_an_error():
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError), seeded(3):
        torch.rand(-1)
    assert torch.equal(state, torch.get_rng_state())


def test_the_publication_only_scales_and_shifts_intensities_slightly():
    transform, image = paper_intensity_transforms(), torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    slopes, offsets = [], []
    for seed in range(200):
        with seeded(seed):
            changed = transform(image=image.clone())["image"]
        slope, offset = np.polyfit(image.flatten(), changed.flatten(), 1)
        torch.testing.assert_close(changed, float(slope) * image + float(offset), atol=1e-4, rtol=1e-4)
        slopes.append(slope)
        offsets.append(offset)
    assert 0.89 < min(slopes) < 0.95 < 1.05 < max(slopes) < 1.11
    assert 0.3 < np.mean(np.abs(offsets) > 1e-4) < 0.7
    assert np.std(offsets) == pytest.approx(0.1 * 0.5**0.5, rel=0.3)


def test_probabilities_and_ranges_equal_nnunets():
    chain = intensity_transforms().transforms
    assert [one.apply_probability for one in chain] == [0.1, 0.2, 0.15, 0.15, 0.25, 0.1, 0.3]
    assert np.rad2deg(augment.MAX_ROTATION_RADIANS) == pytest.approx(30)
    assert (augment.MIN_SCALE, augment.MAX_SCALE) == (0.7, 1.4)
    assert (augment.P_ROTATION, augment.P_SCALING, augment.P_MIRROR) == (0.2, 0.2, 0.5)


def strong_transforms():
    """The stronger noise, and the three transforms that `strong` adds: local brightness and gamma, coarse axes."""
    brightness, gamma, noise, *_, coarse = intensity_transforms(strong=True).transforms
    return noise, brightness, gamma, coarse


def changes(transform, image):
    """The image after a transform, with 100 seeds."""
    for seed in range(100):
        with seeded(seed):
            yield transform.transform(image=image.clone())["image"]


def test_the_strong_chain_is_nnunets_with_more_noise_and_three_more_transforms():
    chain, usual = intensity_transforms(strong=True).transforms, intensity_transforms().transforms
    assert [type(one.transform) for one in chain[2:-1]] == [type(one.transform) for one in usual]
    assert [one.apply_probability for one in chain[3:-1]] == [one.apply_probability for one in usual[1:]]
    assert [one.apply_probability for one in strong_transforms()] == [0.2, 0.15, 0.15, 0.15]


@pytest.mark.parametrize(("kind", "transforms"), [("strong", 10), ("full", 7), ("paper", 2)])
def test_the_plan_chooses_the_transforms(make_plan, kind, transforms):
    plan = make_plan()
    plan = plan.model_copy(update={"training": plan.training.model_copy(update={"augmentation": kind})})
    assert len(Augmentation(plan).intensity.transforms) == transforms


def test_strong_noise_has_any_standard_deviation_up_to_1():
    found = [float(changed.std()) for changed in changes(strong_transforms()[0], torch.zeros(1, 8, 16, 16))]
    assert 0 <= min(found) < 0.05
    assert 0.95 < max(found) < 1.1
    assert np.median(found) == pytest.approx(0.5, abs=0.1)


def test_local_brightness_is_smooth_has_both_signs_and_keeps_the_mean():
    heights = []
    for changed in changes(strong_transforms()[1], torch.zeros(1, 16, 16, 16)):
        assert float(changed.mean()) == pytest.approx(0, abs=1e-3)
        assert float(changed.diff(dim=1).abs().max()) < 1
        heights.append(float(changed.max() + changed.min()))
    assert min(heights) < -0.3 < 0.3 < max(heights)


def test_local_gamma_keeps_the_range_and_brightens_or_darkens_a_part():
    image = torch.linspace(-1, 1, 16).expand(1, 16, 16, 16).contiguous()
    shifts = []
    for changed in changes(strong_transforms()[2], image):
        assert changed.min() >= -1.001
        assert changed.max() <= 1.001
        shifts.append(float((changed - image).mean()))
    assert min(shifts) < -0.05 < 0.05 < max(shifts)


def test_half_of_the_axes_become_coarse_each_by_itself_at_most_four_times():
    line = torch.randn(24, generator=torch.Generator().manual_seed(0))
    kept, smoothest = [], []
    for shape in ((1, 24, 1, 1), (1, 1, 24, 1), (1, 1, 1, 24)):
        image = line.reshape(shape).expand(1, 24, 24, 24).contiguous()
        changed = list(changes(strong_transforms()[3], image))
        kept.append([torch.allclose(one, image, atol=1e-5) for one in changed])
        smoothest.append(min(float(one.std()) for one in changed) / float(image.std()))
    assert [np.mean(one) for one in kept] == pytest.approx([0.5] * 3, abs=0.15)
    assert kept[0] != kept[1] != kept[2] != kept[0]
    assert all(0.2 < one < 0.8 for one in smoothest)


def test_each_sample_seeds_its_intensity_transforms(make_plan, monkeypatch):
    seeds, plain = [], augment.seeded
    monkeypatch.setattr(augment, "seeded", lambda seed: seeds.append(seed) or plain(seed))
    change = augment.Augmentation(make_plan(patch=(8, 8, 8)))
    image, labels = np.zeros((1, 9, 9, 9), np.float32), np.zeros((9, 9, 9), np.int16)
    for index in range(100):
        change(image, labels, (9, 9, 9), (0, 0, 0), np.random.default_rng(index))
    assert len(set(seeds)) == 100
    assert max(seeds) > 2**31
