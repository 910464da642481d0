"""The spacing of a plan: what stays, what gets coarser and how far, what a user may give. Reasons are true."""

import re
from math import inf, nan, prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plans.choices import PRESETS
from plans.errors import UserError
from plans.plan import LabelPlan, Plan, TextPlan
from plans.planning.budget import cpu_budget, gpu_budget
from plans.planning.planner import make_plan
from plans.planning.rules import target_spacing
from plans.planning.spacing import MIN_PATCH_SHARE, as_option, checked_spacing, choose_spacing, coarser

HEAD = ((90, 300, 300), (3.0, 1.0, 1.0), (20, 9, 20, 20, 12, 25, 9))  # shape, spacing, thickness of each label
HIPPOCAMPUS = ((35, 51, 36), (1.0, 1.0, 1.0), (8, 7))


def plan_for(fingerprint, budget, preset="default", spacing=None) -> Plan:
    numbers = sorted({label.label for case in fingerprint.cases for label in case.labels}) or [1]
    labels = [LabelPlan(name=f"label {number}", value=number) for number in numbers]
    text = TextPlan(encoder="bundled", width=384)
    return make_plan(
        "Dataset001_Test", ("CT",), labels, fingerprint, budget=budget, preset=preset, text=text, spacing=spacing
    )


def reason_of(plan: Plan) -> str:
    return next(row.reason for row in plan.reasons if row.name.startswith("spacing"))


def share_of(patch, shape) -> float:
    """The share of a case of that shape that lies in a patch at its corner."""
    return prod(min(edge, size) for edge, size in zip(patch, shape, strict=True)) / prod(shape)


@pytest.mark.parametrize("case", [HEAD, HIPPOCAMPUS])
def test_a_plan_for_a_gpu_keeps_nnunet_s_spacing(make_fingerprint, case):
    shape, spacing, thickness = case
    fingerprint = make_fingerprint(shape, spacing, thickness=thickness)
    for gb in (4, 8, 80):
        plan = plan_for(fingerprint, gpu_budget(gb))
        assert (plan.spacing, reason_of(plan)) == target_spacing(fingerprint)


@pytest.mark.parametrize("cores", [1, 2, 64])
def test_small_scans_keep_their_spacing_on_a_cpu(make_fingerprint, cores):
    shape, spacing, thickness = HIPPOCAMPUS
    plan = plan_for(make_fingerprint(shape, spacing, thickness=thickness), cpu_budget(cores))
    assert plan.spacing == spacing
    assert reason_of(plan) == "median spacing of the cases"


def check_laws(fingerprint, plan: Plan) -> None:
    """The laws of a spacing that was chosen for a CPU. The numbers in its reason are true."""
    full, _ = target_spacing(fingerprint)
    why, covered = reason_of(plan), share_of(plan.patch, plan.median_shape)
    assert all(new >= old for new, old in zip(plan.spacing, full, strict=True))
    thickness = sorted(fingerprint.thickness_mm().values())
    typical = thickness[(len(thickness) - 1) // 2] if thickness else inf
    needed = [min(3, 0.75 * typical / old) for old in full]
    grown = [axis for axis in range(3) if plan.spacing[axis] > full[axis]]
    assert all(typical / plan.spacing[axis] >= needed[axis] * (1 - 1e-9) for axis in grown)
    limit = re.search(
        r"typical structure \(([\d.e+]+) mm\) would span fewer than ([\d.e-]+) voxels along axis (.)", why
    )
    assert (covered >= MIN_PATCH_SHARE) == (limit is None)
    if limit:
        axis, step = "DHW".index(limit[3]), coarser(plan.spacing)
        assert float(limit[1]) == pytest.approx(typical, rel=1e-3)
        assert float(limit[2]) == pytest.approx(needed[axis], rel=1e-2)
        assert typical / step[axis] < needed[axis]
    if grown:
        first, here = re.search(r"default covers ([\d.]+)% of a median case; here it covers ([\d.]+)%", why).groups()
        assert float(here) / 100 == pytest.approx(covered, abs=6e-4)
        assert float(first) < 25.06
        assert why.endswith("--spacing full keeps nnU-Net's")


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    st.tuples(*[st.integers(2, 400)] * 3),
    st.tuples(*[st.floats(0.3, 10)] * 3),
    st.lists(st.floats(0.5, 100), max_size=5),
    st.sampled_from([1, 2, 16]),
)
def test_the_spacing_covers_a_quarter_or_its_reason_names_the_limit(make_fingerprint, shape, spacing, thickness, cores):
    fingerprint = make_fingerprint(shape, spacing, thickness=thickness)
    check_laws(fingerprint, plan_for(fingerprint, cpu_budget(cores)))


def test_large_scans_are_coarsened_until_a_quarter_or_the_limit_is_reached(make_fingerprint):
    shape, spacing, _ = HEAD
    reasons = []
    for thickness in ((30,), (8,), (1.5,), ()):
        fingerprint = make_fingerprint(shape, spacing, thickness=thickness)
        plan = plan_for(fingerprint, cpu_budget(2))
        check_laws(fingerprint, plan)
        assert plan.spacing > spacing
        reasons.append(reason_of(plan))
    assert ["(at least 25%)" in why for why in reasons] == [True, False, False, True]
    assert "(8 mm) would span fewer than 2 voxels along axis D" in reasons[1]
    assert "(1.5 mm) would span fewer than 1.12 voxels" in reasons[2]


@pytest.mark.parametrize(("thickness", "needed"), [(8.0, 3.0), (4.0, 3.0), (3.2, 2.4), (1.0, 0.75)])
def test_a_typical_structure_keeps_three_voxels_or_three_quarters_of_what_it_spans(make_fingerprint, thickness, needed):
    fingerprint = make_fingerprint((200, 200, 200), (1.0, 1.0, 1.0), thickness=(thickness,))
    spacing, why = choose_spacing(fingerprint, None, lambda spacing: (32, 32, 32), on_cpu=True)
    assert needed <= thickness / spacing[0] < needed * 1.03
    assert f"({thickness:g} mm) would span fewer than {needed:g} voxels along axis D" in why


def test_thick_slices_keep_their_spacing_until_the_plane_is_within_a_factor_of_two(make_fingerprint):
    fingerprint = make_fingerprint((40, 512, 512), (5.0, 0.7, 0.7), thickness=(60,))
    plan = plan_for(fingerprint, cpu_budget(2))
    check_laws(fingerprint, plan)
    assert plan.spacing[0] == 5 or min(plan.spacing[1:]) >= 2.5
    assert 0.7 < plan.spacing[1] == plan.spacing[2]
    spacing = (5.0, 0.7, 0.7)
    while spacing[0] == 5:
        spacing = coarser(spacing)
    assert 2.5 <= spacing[1] < 2.5 * 1.03**2


def test_all_presets_get_the_same_spacing(make_fingerprint):
    shape, spacing, thickness = HEAD
    fingerprint = make_fingerprint(shape, spacing, thickness=thickness)
    plans = [plan_for(fingerprint, cpu_budget(2), preset) for preset in PRESETS]
    assert {plan.spacing for plan in plans} == {plans[0].spacing} != {spacing}
    assert {reason_of(plan) for plan in plans} == {reason_of(plans[0])}
    assert {(plan.channels, plan.labels, plan.crop) for plan in plans} == {
        (plans[0].channels, plans[0].labels, plans[0].crop)
    }, "so each accepts the stored cases of the others"


def test_the_user_s_spacing_is_kept(make_fingerprint):
    shape, spacing, thickness = HEAD
    fingerprint = make_fingerprint(shape, spacing, thickness=thickness)
    for budget in (cpu_budget(2), gpu_budget()):
        plan = plan_for(fingerprint, budget, spacing=(2.0, 2.0, 2.5))
        assert plan.spacing == (2.0, 2.0, 2.5)
        assert reason_of(plan).startswith("given with --spacing; nnU-Net's is 3 x 1 x 1 (")
        full = plan_for(fingerprint, budget, spacing="full")
        assert full.spacing == spacing
        assert reason_of(full).endswith("nnU-Net's, as given with --spacing")


@pytest.mark.parametrize(
    ("spacing", "fault"),
    [
        ((300, 1, 1), r"would have 1 x 300 x 300 voxels"),
        ((0.001, 0.01, 0.01), r"would have 2\.7e\+05 x 3e\+04 x 3e\+04 voxels"),
        ((1e-6, 1e-6, 1e-6), r"would have"),
        ((20, 20, 20.5), r"a typical structure measures 20 mm, less than one voxel"),
    ],
)
def test_a_spacing_that_does_not_fit_the_cases_is_refused_with_one_that_does(make_fingerprint, spacing, fault):
    fingerprint = make_fingerprint(HEAD[0], HEAD[1], thickness=(9, 20, 30))
    with pytest.raises(
        UserError, match=rf"^--spacing .*{fault}.*nearer to nnU-Net's 3 x 1 x 1, or the word full"
    ) as error:
        plan_for(fingerprint, cpu_budget(2), spacing=spacing)
    assert len(error.value.lines) == 1
    assert plan_for(fingerprint, cpu_budget(2), spacing=(3, 1, 1)).spacing == (3, 1, 1)
    assert plan_for(fingerprint, cpu_budget(2), spacing=(20, 20, 20)).spacing == (20, 20, 20)


def test_structures_thinner_than_a_voxel_of_nnunet_s_spacing_do_not_refuse_it(make_fingerprint):
    fingerprint = make_fingerprint((20, 256, 256), (10.0, 1.0, 1.0), thickness=(4,))
    assert plan_for(fingerprint, gpu_budget(), spacing=(10, 1, 1)).spacing == (10, 1, 1)


@pytest.mark.parametrize(
    "wrong",
    [(1, 1), (1, 1, 1, 1), (0, 1, 1), (-1, 1, 1), (nan, 1, 1), (inf, 1, 1), (1e-9, 1, 1), "111", "fine", 2, [[1]]],
)
def test_other_values_are_refused_with_what_is_expected(wrong):
    with pytest.raises(UserError, match=r"expected three lengths in mm, z y x, .* or the word full; found"):
        checked_spacing(wrong)


def test_a_list_and_whole_numbers_are_lengths():
    assert checked_spacing([3, 2, 2.5]) == (3.0, 2.0, 2.5)
    assert repr(checked_spacing([3, 2, 2])) == "(3.0, 2.0, 2.0)", "hashes of settings depend on the form"
    assert checked_spacing("full") == "full"
    assert checked_spacing(None) is None


def test_the_option_s_form_is_exact():
    spacing = coarser(coarser((0.9765625, 0.9765625, 3.0)))
    assert checked_spacing([float(word) for word in as_option(spacing).split()]) == spacing
