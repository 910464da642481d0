"""The rules against values of nnU-Net and values computed by hand, and their invariants."""

from math import log

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plans.geometry import Millimetres, Triple
from plans.plan import ChannelPlan
from plans.planning import rules

spacings = st.tuples(*[st.floats(0.3, 10)] * 3)
sizes = st.tuples(*[st.integers(2, 600)] * 3)


def test_target_spacing_is_the_median(make_fingerprint):
    fingerprint = make_fingerprint(
        [(100, 100, 100)] * 3, [(1.0, 0.5, 0.9), (2.0, 0.6, 0.8), (3.0, 0.7, 0.7)], thickness=()
    )
    assert rules.target_spacing(fingerprint)[0] == (2.0, 0.6, 0.8)


def test_target_spacing_of_a_coarse_and_short_axis_is_its_tenth_percentile(make_fingerprint):
    # D: median 10 > 3 * 1.5 mm and 9 * 3 < 256 voxels; numpy's 10th percentile of 5, 10, 10, 10, 12 lies 0.4 of the
    # way from the first to the second value: 5 + 0.4 * 5 = 7.
    depths = [10.0, 12.0, 5.0, 10.0, 10.0]
    fingerprint = make_fingerprint([(9, 256, 256)] * 5, [(depth, 1.5, 1.5) for depth in depths])
    spacing, reason = rules.target_spacing(fingerprint)
    assert spacing == pytest.approx((7.0, 1.5, 1.5))
    assert "10th percentile" in reason


def test_target_spacing_keeps_the_median_of_a_coarse_but_long_axis(make_fingerprint):
    # 5 > 3 * 1.5 mm, but 100 * 3 > 256 voxels
    fingerprint = make_fingerprint([(100, 256, 256)] * 3, [(5.0, 1.5, 1.5), (5.0, 1.5, 1.5), (1.0, 1.5, 1.5)])
    assert rules.target_spacing(fingerprint)[0] == (5.0, 1.5, 1.5)


def test_target_spacing_of_the_coarse_axis_gets_no_finer_than_the_others(make_fingerprint):
    # 10th percentile of 1, 1, 10, 10, 10 is 1 < 1.5: nnU-Net then takes 1.5 + 1e-5
    fingerprint = make_fingerprint([(9, 256, 256)] * 5, [(depth, 1.5, 1.4) for depth in (1.0, 1.0, 10.0, 10.0, 10.0)])
    assert rules.target_spacing(fingerprint)[0] == pytest.approx((1.5 + 1e-5, 1.5, 1.4), abs=1e-9)


def test_target_spacing_looks_at_sizes_after_cropping(make_fingerprint):
    spacing = [(10.0, 1.5, 1.5), (10.0, 1.5, 1.5), (4.0, 1.5, 1.5)]
    long, short = (100, 256, 256), (9, 256, 256)
    assert rules.target_spacing(make_fingerprint([long] * 3, spacing))[0][0] == 10
    cropped = rules.target_spacing(make_fingerprint([long] * 3, spacing, cropped=short))[0][0]
    assert cropped == pytest.approx(4 + 0.2 * 6)


@pytest.mark.parametrize(
    ("spacing_from", "spacing_to", "axis"),
    [
        ((1, 1, 1), (1, 1, 1), None),
        ((3, 1, 1), (1, 1, 1), None),  # three times is not more than three times
        ((3.1, 1, 1), (1, 1, 1), 0),
        ((1, 1, 1), (1, 5, 1), 1),
        ((5, 1, 1), (1, 1, 5), 0),  # the grid resampled from decides first
        ((5, 5, 1), (1, 1, 1), None),  # no single coarse axis
        ((0.3, 1.2500000000000002, 1.25), (1, 1, 1), None),  # equal but for rounding, as in an oblique scan
    ],
)
def test_low_resolution_axis(spacing_from: Millimetres, spacing_to: Millimetres, axis):
    assert rules.low_resolution_axis(spacing_from, spacing_to) == axis


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("CT", "ct"),
        ("ct", "ct"),
        ("MRI", "zscore"),
        ("noNorm", "none"),
        ("rescale_0_1", "rescale_to_0_1"),
        ("CTA", "zscore"),
    ],
)
def test_scheme_by_channel_name(make_fingerprint, name, scheme):
    assert rules.channel_plan(name, 0, make_fingerprint((50, 50, 50), (1, 1, 1)))[0].scheme == scheme


def test_ct_statistics_are_those_of_the_foreground_over_the_data_set(make_fingerprint):
    sample = tuple(float(value) for value in range(201))
    plan, _ = rules.channel_plan("CT", 0, make_fingerprint((50, 50, 50), (1, 1, 1), samples=(sample,)))
    assert (plan.mean, plan.low, plan.high) == pytest.approx((100, 1, 199))
    assert plan.std == pytest.approx(((201**2 - 1) / 12) ** 0.5)
    unknown, reason = rules.channel_plan("CT", 0, make_fingerprint((9, 9, 9), (1, 1, 1), samples=((),)))
    assert (unknown.low, unknown.high, unknown.std) == (-1000, 1000, 500)
    assert "no case with it has foreground" in reason
    assert "named by the channel" in rules.channel_plan("zscore", 0, make_fingerprint((9, 9, 9), (1, 1, 1)))[1]
    same, reason = rules.channel_plan("MRI", 0, make_fingerprint((50, 50, 50), (1, 1, 1), samples=(sample,)))
    assert same == ChannelPlan(name="MRI", scheme="zscore"), "stored cases do not depend on the data set"
    assert reason.startswith("the usual one for a channel that is not called CT: each case to mean 0")


@pytest.mark.parametrize(
    ("channels", "crop"),
    [(("CT",), "body"), (("ct ", "CT"), "body"), (("CT", "PET"), "nonzero"), (("MRI",), "nonzero"), ((), "nonzero")],
)
def test_ct_is_cropped_to_the_body(channels, crop):
    assert rules.crop_of(channels) == crop


@pytest.mark.parametrize(("cropped", "inside"), [((50, 50, 37), True), ((50, 50, 38), False)])
def test_zscores_are_taken_inside_the_mask_if_cropping_leaves_under_three_quarters(make_fingerprint, cropped, inside):
    fingerprint = make_fingerprint((50, 50, 50), (1, 1, 1), cropped=cropped)
    assert rules.channel_plan("T1", 0, fingerprint)[0].foreground_only is inside
    assert rules.channel_plan("CT", 0, fingerprint)[0].foreground_only is False


def test_ladder_of_hippocampus_is_nnunets():
    steps = rules.ladder((1, 1, 1), (36, 50, 35))
    assert steps.total() == (8, 8, 8)
    assert rules.pad_to((36, 50, 35), steps.total()) == (40, 56, 40)


def test_ladder_halves_a_coarse_axis_later():
    steps = rules.ladder((10, 1.5, 1.5), (20, 256, 256))
    assert steps.strides[1:5] == ((1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2))  # 10 mm against 1.5, 3, then 6
    assert steps.kernels[:3] == ((1, 3, 3), (1, 3, 3), (3, 3, 3))


@settings(derandomize=True)
@given(spacings, sizes)
def test_ladder_keeps_its_invariants(spacing: Millimetres, size: Triple):
    steps = rules.ladder(spacing, rules.least_size(spacing, size))
    assert len(steps.strides) == len(steps.kernels) >= 2
    assert steps.strides[0] == (1, 1, 1)
    for level, (stride, kernel) in enumerate(zip(steps.strides, steps.kernels, strict=True)):
        here = [mm * factor for mm, factor in zip(spacing, steps.total(level), strict=True)]
        before = [mm / factor for mm, factor in zip(here, stride, strict=True)]
        if level:
            assert max(stride) == 2
        assert all(factor == 1 or mm < 2 * min(before) for factor, mm in zip(stride, before, strict=True))
        assert all(width == 3 for width, mm in zip(kernel, here, strict=True) if mm < 2 * min(here))
    seen = [False] * 3  # a kernel that spans an axis never shrinks again
    for kernel in steps.kernels:
        assert all(width == 3 for width, before in zip(kernel, seen, strict=True) if before)
        seen = [width == 3 for width in kernel]
    assert all(
        -(-edge // factor) >= 4
        for edge, factor in zip(rules.least_size(spacing, size), steps.total(), strict=True)
        if factor > 1
    )


def test_the_typical_structure_has_the_median_thickness_of_two_the_thinner_one():
    assert rules.median_label({"vein": 0.5, "liver": 50.0, "kidney": 3.0}) == "kidney"
    assert rules.median_label({2: 3.0, 1: 50.0}) == 2
    assert rules.median_label({}) is None


@pytest.mark.parametrize(
    ("thickness", "stride"),
    [
        ({"typical": 0.9}, 2),
        ({"typical": 1.0}, 4),
        ({"typical": 500}, 4),
        ({"vein": 0.5, "typical": 3, "liver": 50}, 4),
        ({"liver": 50, "typical": 0.6, "vein": 0.5}, 2),
        ({"liver": 50, "typical": 0.6}, 2),
    ],
)
def test_the_fusion_s_grid_can_represent_the_structure_of_median_thickness(thickness, stride):
    steps = rules.ladder((1, 1, 1), (256, 256, 256))
    level, reason = rules.fusion_level(thickness, (1, 1, 1), steps)
    assert steps.total(level) == (stride,) * 3
    assert "median thickness, typical," in reason


def test_the_noisiest_latent_follows_from_its_number_of_values():
    assert rules.min_log_snr(8, 1000) == pytest.approx(2 - log(8000))
    assert rules.min_log_snr(1, 1) == 2


def spanned(thickness: float, spacing: Millimetres, stride: Triple) -> float:
    return thickness / max(mm * step for mm, step in zip(spacing, stride, strict=True) if step > 1)


def check_stride_reason(reason: str, thickness: float, spacing: Millimetres, steps: rules.Ladder, level: int) -> None:
    """The statement about the next coarser grid is true."""
    coarser = steps.total(level + 1) if level + 1 < len(steps.strides) else None
    lost = coarser is not None and spanned(thickness, spacing, coarser) < 0.25
    assert ("the patch has no coarser one" in reason) == (coarser is None)
    assert ("than stride 4 is not used" in reason) == (coarser is not None and max(coarser) > 4)
    assert ("it would span" in reason) == (coarser is not None and max(coarser) <= 4)
    assert lost or "it would span" not in reason
    assert f"measures {thickness:.3g} mm" in reason
    assert f"spans {spanned(thickness, spacing, steps.total(level)):.2g} positions" in reason


@settings(derandomize=True)
@given(spacings, sizes, st.floats(0.1, 200))
def test_the_reason_for_the_fusion_stride_is_true(spacing, size, thickness):
    """DESIGN 4: a reason is never false."""
    steps = rules.ladder(spacing, rules.least_size(spacing, size))
    level, reason = rules.fusion_level({"cyst": thickness, "liver": 300.0}, spacing, steps)
    check_stride_reason(reason, thickness, spacing, steps, level)


def test_a_thick_structure_is_not_called_lost_if_the_patch_is_short():
    steps = rules.ladder((5.0, 1.0, 1.0), rules.least_size((5.0, 1.0, 1.0), (4, 9, 9)))
    level, reason = rules.fusion_level({"liver": 50.0}, (5.0, 1.0, 1.0), steps)
    assert level == 1
    assert "the patch has no coarser one" in reason


@pytest.mark.parametrize(
    ("labels", "channels", "words"),
    [(1, 8, "labels: 1 (at most 32)"), (32, 8, "labels: 32 (at most 32)"), (33, 16, "there are 33 labels (over 32)")],
)
def test_latent_channels_and_their_reason(labels, channels, words):
    assert rules.latent_channels(labels) == (channels, words)


@settings(derandomize=True)
@given(spacings, st.floats(0.1, 200))
def test_the_fusion_stride_is_two_or_four(spacing, thickness):
    steps = rules.ladder(spacing, (200, 200, 200))
    level, _ = rules.fusion_level({"cyst": thickness}, spacing, steps)
    assert max(steps.total(level)) in (2, 4)


def test_thickness_of_a_label_is_robust(make_fingerprint):
    cases = make_fingerprint((50, 50, 50), (1, 1, 1), cases=10, thickness=(10.0,)).cases
    thin = cases[0].model_copy(update={"labels": (cases[0].labels[0].model_copy(update={"thickness_mm": 1.0}),)})
    fingerprint = make_fingerprint((50, 50, 50), (1, 1, 1)).model_copy(update={"cases": (thin, *cases[1:], *cases)})
    assert fingerprint.thickness_mm() == {1: 10.0}  # one outlier of twenty


def test_attention_only_on_small_grids():
    assert rules.attends((64, 64, 60), (4, 4, 4), 320)  # 3,840 positions
    assert not rules.attends((64, 64, 64), (4, 4, 4), 320)  # 4,096
    assert rules.attends((32, 32, 52), (4, 4, 4), 64)  # 832 positions: 13 per channel
    assert not rules.attends((32, 32, 56), (4, 4, 4), 64)  # 896


@settings(max_examples=50, derandomize=True)
@given(sizes, sizes)
def test_windows_cover_the_volume(shape: Triple, patch: Triple):
    count = rules.windows(shape, patch)
    assert count >= 1
    if all(edge >= size for edge, size in zip(patch, shape, strict=True)):
        assert count == 1


def test_windows_by_hand():
    assert rules.windows((100, 100, 50), (50, 100, 50)) == 3
