"""Plans for many kinds of fingerprints, and the laws that hold for every plan."""

import json
import re
from dataclasses import replace
from math import log, prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plans.choices import PRESETS
from plans.errors import UserError
from plans.fingerprint import LABELS_OUTSIDE_CROP
from plans.plan import LabelPlan, Plan, TextPlan, TrainingPlan
from plans.planning import memory, paper, recipes
from plans.planning.budget import cpu_budget, gpu_budget
from plans.planning.planner import make_low_plan, make_plan
from plans.planning.recipes import RECIPES
from plans.planning.refit import refit, with_host_memory
from plans.planning.rules import grid_positions
from plans.planning.search import Facts, draft, shorten
from plans.raw.prompts import Prompts

PEERS = [preset for preset, recipe in RECIPES.items() if recipe.peer]

TEXT = TextPlan(encoder="bundled", width=384)
BUDGETS = (gpu_budget(), gpu_budget(24), cpu_budget(2), cpu_budget(16))


def plan_for(fingerprint, budget, channels=("MRI",), labels=1, preset="default", **more) -> Plan:
    named = [LabelPlan(name=f"label {number}", value=number) for number in range(1, labels + 1)]
    return make_plan("Dataset001_Test", channels, named, fingerprint, budget=budget, preset=preset, text=TEXT, **more)


def check_laws(plan: Plan, budget) -> None:
    """The laws that hold for every plan."""
    network = memory.network_of(plan)
    assert memory.training_bytes(network, plan.patch, plan.batch, budget.device) <= budget.memory_gb * 1e9
    assert plan.memory.training_gb <= plan.memory.budget_gb == budget.memory_gb
    assert plan.memory.prediction_gb <= plan.memory.budget_gb
    if budget.gmacs_per_iteration:
        assert plan.batch * memory.macs(network, plan.patch) <= budget.gmacs_per_iteration * 1e9
    assert all(edge % stride == 0 for edge, stride in zip(plan.patch, plan.total_stride, strict=True))
    assert plan.batch >= 2
    for level, stage in enumerate(plan.stages):
        before = [mm * step for mm, step in zip(plan.spacing, plan.stride_at(level), strict=True)]
        before = [mm / step for mm, step in zip(before, stage.stride, strict=True)]
        assert all(mm <= 2 * min(before) for mm, step in zip(before, stage.stride, strict=True) if step > 1)
        positions = grid_positions(plan.patch, plan.stride_at(level))
        cheap = positions <= min(4000, 13 * stage.width)  # it then costs less than half of a residual block
        assert stage.attention == (level >= plan.fusion_level and cheap)
    assert 2 <= max(plan.stride_at(plan.fusion_level)) <= 4
    assert plan.latent.level == 1
    assert max(plan.latent_stride) == 2
    if plan.diffusion:
        values = plan.latent.channels * prod(plan.latent_shape)
        assert plan.diffusion.min_log_snr == pytest.approx(2 - log(values))
        assert plan.diffusion.min_log_snr < plan.diffusion.max_log_snr
    assert all(decision.reason and decision.value for decision in plan.reasons)
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    covers = prod(plan.patch) >= 0.25 * prod(plan.median_shape)
    check_reasons(plan, covers)
    if plan.low_resolution:
        low = plan.low_resolution
        assert not covers
        assert "tds_train --resolution low" in low.note
        assert prod(low.patch) >= 0.25 * prod(low.median_shape)
        assert low.windows_low <= low.windows_full
        assert min(low.spacing) >= min(plan.spacing)


def check_reasons(plan: Plan, covers: bool) -> None:
    """DESIGN 4: a reason is never false."""
    why = {row.name: row.reason for row in plan.reasons}
    whole = all(edge >= voxels for edge, voxels in zip(plan.patch, plan.median_shape, strict=True))
    if not plan.paper:
        assert whole or "a whole median case" not in why["patch"]
        shortened = re.search(r"shortened from ([\d x]+) until", why["patch"])
        assert shortened is None or prod(map(int, shortened[1].split(" x "))) > prod(plan.patch)
    assert why["low resolution"].startswith("the patch covers") == (covers or plan.low_resolution is not None)
    share = prod(plan.patch) / prod(plan.median_shape)
    if plan.paper or plan.peer:
        assert plan.overview is None
        assert "overview" not in why
    else:
        assert (plan.overview is None) == (share >= 0.5) == ("at least 50%" in why["overview"])
    network = memory.network_of(plan)
    assert f"{memory.parameters(network) / 1e6:.1f} M weights" in why["widths"]
    assert f"{plan.batch * memory.macs(network, plan.patch) / 1e9:.3g} billion" in why["widths"]
    assert ("to compare with it" in why["batch"]) == (plan.diffusion is None)
    times_more = re.search(r"finer ones cost (\d+) times more", why["latent stride"])
    assert times_more is None or int(times_more[1]) == prod(plan.latent_stride)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.integers(29, 1059),
    st.floats(0.44, 1.04),
    st.floats(0.5, 5.0),
    st.tuples(*[st.floats(2, 80)] * 3),
    st.sampled_from(BUDGETS),
)
def test_ct_of_kits_range(make_fingerprint, slices, in_plane, depth, thickness, budget):
    fingerprint = make_fingerprint((slices, 512, 512), (depth, in_plane, in_plane), thickness=thickness)
    plan = plan_for(fingerprint, budget, channels=("CT",), labels=3)
    check_laws(plan, budget)
    assert plan.channels[0].scheme == "ct"


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    st.tuples(*[st.integers(2, 400)] * 3),
    st.tuples(*[st.floats(0.3, 10)] * 3),
    st.integers(1, 300),
    st.lists(st.floats(0.5, 100), max_size=5),
    st.integers(1, 4),
    st.sampled_from(BUDGETS),
    st.sampled_from(["default", "unet"]),
)
def test_any_volume(make_fingerprint, shape, spacing, cases, thickness, channels, budget, preset):
    fingerprint = make_fingerprint(shape, spacing, cases=cases, thickness=thickness, channels=channels)
    names = [f"channel {number}" for number in range(channels)]
    check_laws(plan_for(fingerprint, budget, names, max(1, len(thickness)), preset), budget)


def test_kits_gets_a_low_resolution_plan_that_can_be_trained(make_fingerprint):
    fingerprint = make_fingerprint((200, 512, 512), (1.0, 0.78, 0.78), cases=300, thickness=(60, 20, 15))
    plan = plan_for(fingerprint, gpu_budget(), ("CT",), 3)
    check_laws(plan, gpu_budget())
    assert plan.low_resolution is not None
    assert plan.low_resolution.windows_low < plan.low_resolution.windows_full
    row = next(row for row in plan.reasons if row.name == "low resolution")
    assert str(plan.low_resolution.windows_full) in row.reason
    assert "tds_train --resolution low" in row.reason


@pytest.mark.parametrize("preset", ["default", "unet", "paper", "peer-unet"])
def test_the_low_plan_is_complete_and_shares_what_both_resolutions_must_share(make_fingerprint, preset):
    """DESIGN 4: where the patch covers less than a quarter of the median volume, a low-resolution plan is made."""
    fingerprint = make_fingerprint((200, 512, 512), (1.0, 0.78, 0.78), cases=300, thickness=(60, 20, 15))
    full = plan_for(fingerprint, gpu_budget(), ("CT",), 3, preset)
    low = make_low_plan(full, fingerprint, gpu_budget())
    assert (full.resolution, low.resolution) == ("full", "low")
    assert full.low_resolution.spacing == low.spacing
    assert full.low_resolution.patch == low.patch
    assert prod(low.patch) >= 0.25 * prod(low.median_shape)
    assert low.memory.training_gb <= gpu_budget().memory_gb
    assert low.memory.disk_gb < full.memory.disk_gb
    shared = ("preset", "dataset", "channels", "labels", "crop", "text", "mirror_axes", "peer", "paper", "training")
    assert all(getattr(low, name) == getattr(full, name) for name in shared)
    assert low.low_resolution is None
    assert [row.name for row in low.reasons] == [row.name for row in full.reasons]
    assert all(row.reason for row in low.reasons)
    assert Plan.model_validate_json(low.model_dump_json()) == low


def test_a_patch_that_covers_enough_has_no_low_plan(make_fingerprint):
    fingerprint = make_fingerprint((35, 51, 36), (1, 1, 1), cases=208, thickness=(8, 7))
    assert make_low_plan(plan_for(fingerprint, gpu_budget(), labels=2), fingerprint, gpu_budget()) is None


@pytest.mark.parametrize("budget", BUDGETS)
def test_hippocampus(make_fingerprint, budget):
    plan = plan_for(make_fingerprint((35, 51, 36), (1, 1, 1), cases=208, thickness=(8, 7)), budget, labels=2)
    check_laws(plan, budget)
    assert plan.patch == (40, 56, 40)
    assert (plan.stride_at(plan.fusion_level), plan.latent_stride) == ((4, 4, 4), (2, 2, 2))
    assert plan.low_resolution is None
    widths = [stage.width for stage in plan.stages]
    if budget.device == "gpu":
        assert 9 <= plan.batch <= 12
        assert widths == [32, 64, 128, 256]
        assert (plan.training.epochs, plan.training.iterations_per_epoch) == (200, 250)
    else:
        assert 2 <= plan.batch <= 4
        assert (plan.training.epochs, plan.training.iterations_per_epoch) == (40, 50)
    if budget == cpu_budget(2):
        assert widths[:3] == [16, 32, 64]
        assert 1e6 < memory.parameters(memory.network_of(plan)) < 6e6


@pytest.mark.parametrize("budget", BUDGETS)
def test_thick_slices(make_fingerprint, budget):
    plan = plan_for(make_fingerprint((9, 256, 256), (10, 1.5, 1.5), cases=150, thickness=(30, 8, 30)), budget, labels=3)
    check_laws(plan, budget)
    assert plan.spacing[0] == 10, "only the fine axes become coarser on a CPU"
    assert plan.spacing == (10, 1.5, 1.5) or budget.device == "cpu"
    assert plan.stages[0].kernel == (1, 3, 3)
    assert (plan.stride_at(plan.fusion_level), plan.latent_stride) == ((1, 4, 4), (1, 2, 2))


@pytest.mark.parametrize("budget", BUDGETS)
def test_four_channel_brain(make_fingerprint, budget):
    fingerprint = make_fingerprint((155, 240, 240), (1, 1, 1), cases=484, channels=4, cropped=(140, 170, 140))
    plan = plan_for(fingerprint, budget, ("T1", "T1ce", "T2", "FLAIR"), 3)
    check_laws(plan, budget)
    assert all(channel.foreground_only for channel in plan.channels)


@pytest.mark.parametrize("budget", BUDGETS)
def test_many_labels(make_fingerprint, budget):
    fingerprint = make_fingerprint((300, 300, 300), (1.5, 1.5, 1.5), cases=1000, thickness=tuple(range(3, 123)))
    check_laws(plan_for(fingerprint, budget, ("CT",), 120), budget)


@pytest.mark.parametrize("budget", BUDGETS)
def test_three_cases(make_fingerprint, budget):
    plan = plan_for(make_fingerprint((60, 80, 80), (1, 1, 1), cases=3), budget)
    check_laws(plan, budget)
    assert plan.batch == 2


def test_single_slices_are_refused(make_fingerprint):
    fingerprint = make_fingerprint([(20, 256, 256), (1, 256, 256)], (1, 1, 1))
    with pytest.raises(UserError, match=r"1 of 2 cases are single slices \(case_1\).*remove these cases"):
        plan_for(fingerprint, gpu_budget())


def test_ct_is_cropped_to_the_body_and_the_reason_counts_labels_outside_it(make_fingerprint):
    fingerprint = make_fingerprint((60, 80, 80), (1, 1, 1), cases=4, cropped=(60, 40, 40))
    rows = {}
    for channels in (("CT",), ("MRI",)):
        plan = plan_for(fingerprint, gpu_budget(), channels)
        rows[plan.crop] = next(row for row in plan.reasons if row.name == "crop")
    assert [row.value for row in rows.values()] == ["body", "nonzero"]
    assert "body with a margin, which leaves 25%" in rows["body"].reason
    assert "outside" not in rows["body"].reason
    cut = fingerprint.cases[0].model_copy(update={"notes": (LABELS_OUTSIDE_CROP,)})
    plan = plan_for(fingerprint.model_copy(update={"cases": (cut, *fingerprint.cases[1:])}), gpu_budget(), ("CT",))
    assert "labels outside it in 1 of 4 cases" in next(row.reason for row in plan.reasons if row.name == "crop")


def test_more_memory_never_means_a_smaller_patch(make_fingerprint):
    fingerprint = make_fingerprint((200, 400, 400), (1, 1, 1), cases=100)
    patches = [prod(plan_for(fingerprint, gpu_budget(gb)).patch) for gb in (6, 12, 48)]
    assert patches == sorted(patches)


def test_a_budget_that_is_too_small_is_refused(make_fingerprint):
    with pytest.raises(UserError, match="--memory-gb"):
        plan_for(make_fingerprint((60, 80, 80), (1, 1, 1)), gpu_budget(0.1))


def test_unet_is_the_same_network_without_diffusion(make_fingerprint):
    fingerprint = make_fingerprint((60, 80, 80), (1, 1, 1))
    default, unet = (plan_for(fingerprint, gpu_budget(), preset=preset) for preset in ("default", "unet"))
    assert unet.diffusion is None
    for field in ("patch", "batch", "stages", "fusion_level", "latent"):
        assert getattr(unet, field) == getattr(default, field)
    assert unet.memory.training_gb < default.memory.training_gb


def test_sides_leave_out_the_left_right_axis(make_fingerprint):
    fingerprint = make_fingerprint((60, 80, 80), (1, 1, 1), thickness=(10, 10))
    assert plan_for(fingerprint, gpu_budget(), labels=2, mirroring=True).mirror_axes == (0, 1, 2)
    prompts = Prompts(scan="MRI", labels={"label 1": ("left kidney",), "label 2": ("right kidney",)})
    assert plan_for(fingerprint, gpu_budget(), labels=2, prompts=prompts, mirroring=True).mirror_axes == (0, 1)


def test_samples_are_mirrored_only_on_request_or_as_published(make_fingerprint):
    fingerprint = make_fingerprint((60, 80, 80), (1, 1, 1), thickness=(10, 10))
    plan = plan_for(fingerprint, gpu_budget(), labels=2)
    assert (plan.mirror_axes, plan.text_axes) == ((), ())
    (reason,) = [decision for decision in plan.reasons if decision.name == "mirroring"]
    assert (reason.value, "learn faster without" in reason.reason) == ("none", True)
    assert plan_for(fingerprint, gpu_budget(), labels=2, preset="paper").mirror_axes == (0, 1, 2)
    with_texts = plan_for(fingerprint, gpu_budget(), labels=2, texts=["the upper nodule"])
    message = "samples that do not read their text are mirrored along the axis that texts name"
    assert (with_texts.mirror_axes, with_texts.text_axes) == ((), (0,)), message


@pytest.mark.parametrize(
    ("texts", "axes"),
    [
        (["grade 3, 5 cm, enhancing, below the fascia"], (1, 2)),
        (["a nodule of 2 ml", "The UPPER nodule is the metastasis."], (1, 2)),
        (["tumour of the left thigh", "grade 2"], (0, 1)),
        (["der hintere Herd", "lésion supérieure droite"], ()),
        (["stereotactic, topographic, anteroom, leftover-free grade 2"], (0, 1, 2)),
    ],
)
def test_texts_that_name_directions_leave_out_their_axes(make_fingerprint, texts, axes):
    fingerprint = make_fingerprint((60, 80, 80), (1, 1, 1), thickness=(10, 10))
    plan = plan_for(fingerprint, gpu_budget(), labels=2, texts=texts, mirroring=True)
    assert plan.mirror_axes == axes
    assert sorted((*plan.mirror_axes, *plan.text_axes)) == [0, 1, 2]
    (reason,) = [decision for decision in plan.reasons if decision.name == "mirroring"]
    assert reason.value == (", ".join("DHW"[axis] for axis in axes) or "none")
    assert ("would reverse" in reason.reason) == (axes != (0, 1, 2))
    peer = plan_for(fingerprint, gpu_budget(), labels=2, texts=texts, preset="peer-unet", mirroring=True)
    assert (peer.mirror_axes, peer.text_axes) == ((0, 1, 2), ()), "it reads no texts"


def test_refit_reduces_the_batch_first_then_the_patch_and_adds_a_reason(make_fingerprint):
    plan = plan_for(make_fingerprint((60, 80, 80), (1, 1, 1), cases=200), gpu_budget(24))
    smaller = refit(plan, gpu_budget(16))
    assert smaller.patch == plan.patch
    assert smaller.batch < plan.batch
    assert smaller.reasons[-1].name == "refitted"
    tiny = refit(plan, gpu_budget(1.5))
    assert tiny.batch == 2
    assert prod(tiny.patch) < prod(plan.patch)
    for one, budget in ((smaller, 16), (tiny, 1.5)):
        assert one.memory.training_gb <= one.memory.budget_gb == budget
        assert one.stages == plan.stages


def test_the_host_memory_of_a_plan_is_that_of_its_patch_and_its_largest_case(make_fingerprint):
    fingerprint = make_fingerprint([(400, 300, 300), (90, 300, 300)], (1, 1, 1), cases=2)
    plan = plan_for(fingerprint, gpu_budget(), labels=40)
    shapes = [(case.shape_at(plan.spacing), case.shape) for case in fingerprint.cases]
    assert with_host_memory(plan, shapes) == plan, "as planned"
    deeper = plan.model_copy(update={"patch": (plan.patch[0] + plan.total_stride[0], *plan.patch[1:])})
    assert with_host_memory(deeper, shapes).memory.ram_gb > plan.memory.ram_gb
    assert with_host_memory(deeper, []) == deeper


def test_a_patch_is_shortened_by_the_stride_of_the_shorter_one():
    """nnU-Net's rule: after 256 voxels (stride 64) comes 224 (stride 32), not 192."""
    facts = Facts(20, {}, (1.0, 1.0, 1.0), (256, 300, 300), 1, 1, 384, gpu_budget())
    first = draft(facts, (256, 256, 256), 32)
    second = shorten(facts, first)
    assert [first.network.stride, second.network.stride] == [(64, 64, 64), (32, 64, 64)]
    assert second.patch == (224, 256, 256)
    assert shorten(facts, second).patch == (192, 256, 256)
    on_cpu = replace(facts, budget=cpu_budget(2))
    assert shorten(on_cpu, draft(on_cpu, (256, 256, 256), 16)).patch == (192, 256, 256), "a whole stride"


def test_refit_always_returns_a_smaller_plan_until_none_is_possible(make_fingerprint):
    plan = plan_for(make_fingerprint((35, 51, 36), (1, 1, 1), cases=208, thickness=(8, 7)), gpu_budget(), labels=2)
    sizes = [plan.batch * prod(plan.patch)]
    with pytest.raises(UserError, match="does not fit"):  # noqa: PT012
        while True:
            plan = refit(plan, gpu_budget())
            sizes.append(plan.batch * prod(plan.patch))
    assert sizes == sorted(set(sizes), reverse=True)


def test_a_plan_whose_patch_shrinks_to_one_voxel_is_refused(make_fingerprint):
    plan = plan_for(make_fingerprint((60, 80, 80), (1, 1, 1)), gpu_budget())
    with pytest.raises(UserError, match="leaves one voxel"):
        Plan.parse(plan.model_dump() | {"patch": plan.total_stride}, "plan.json")


def test_a_plan_whose_latent_or_fusion_has_no_stage_is_refused(make_fingerprint):
    """The latent is decoded with features of the mask, which exist from the fusion's grid on."""
    plan = plan_for(make_fingerprint((60, 80, 80), (1, 1, 1)), gpu_budget())
    fields, stages = plan.model_dump(), len(plan.stages)

    def at(fusion: int, latent: int) -> Plan:
        levels = {"fusion_level": fusion, "latent": fields["latent"] | {"level": latent}}
        return Plan.parse(fields | levels, "plan.json")

    assert at(stages - 1, stages - 1).latent_stride == plan.total_stride
    with pytest.raises(UserError, match=rf"fusion_level {stages} is beyond the last of {stages} stages"):
        at(stages, 1)
    with pytest.raises(UserError, match=rf"latent\.level {stages} is beyond the last of {stages} stages"):
        at(stages - 1, stages)
    with pytest.raises(UserError, match=r"latent\.level 2 is beyond fusion_level 1"):
        at(1, 2)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    st.tuples(*[st.integers(2, 400)] * 3),
    st.tuples(*[st.floats(0.3, 10)] * 3),
    st.sampled_from(BUDGETS),
    st.sampled_from(list(recipes.VARIANTS)),
)
def test_the_publication_fits_any_volume(make_fingerprint, shape, spacing, budget, preset):
    plan = plan_for(make_fingerprint(shape, spacing), budget, preset=preset)
    network = memory.network_of(plan)
    assert memory.training_bytes(network, plan.patch, plan.batch, budget.device) <= budget.memory_gb * 1e9
    assert plan.latent.channels == 1
    assert plan.latent.level == plan.fusion_level
    assert max(plan.latent_stride) <= 16
    assert all(edge % stride == 0 for edge, stride in zip(plan.patch, plan.total_stride, strict=True))
    attending = [stage.attention for stage in plan.stages[: plan.latent.level + 1]]
    assert attending[max(1, plan.latent.level - 1) :] == [True] * min(2, plan.latent.level)
    assert not any(attending[: max(1, plan.latent.level - 1)])
    assert all(decision.reason and decision.value for decision in plan.reasons)
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


@pytest.mark.parametrize("preset", ["default", "unet", "peer-nnunet"])
def test_plans_have_strong_augmentation_and_older_ones_keep_nnunets(make_fingerprint, preset):
    training = plan_for(make_fingerprint((35, 51, 36), (1, 1, 1)), gpu_budget(), preset=preset).training
    assert training.augmentation == "strong"
    older = training.model_dump(exclude={"augmentation"})
    assert TrainingPlan.model_validate(older).augmentation == "full"


@pytest.mark.parametrize(
    ("channels", "kind"),
    [(["CT"], "strong"), (["T1", "CT"], "strong"), (["noNorm"], "full"), (["T1", "rgb_to_0_1"], "full")],
)
def test_augmentation_is_strong_where_a_standard_deviation_is_about_1(make_fingerprint, channels, kind):
    fingerprint = make_fingerprint((35, 51, 36), (1, 1, 1), channels=len(channels))
    plan = plan_for(fingerprint, gpu_budget(), channels=channels)
    assert plan.training.augmentation == kind


def test_the_publication_as_published(make_fingerprint):
    plan = plan_for(make_fingerprint((200, 400, 400), (1, 1, 1), cases=100), gpu_budget(24), preset="paper")
    assert plan.patch == (96, 96, 96)
    assert plan.latent_stride == (16, 16, 16)
    counts = [grid_positions(plan.patch, plan.stride_at(i)) for i, one in enumerate(plan.stages) if one.attention]
    assert counts == [1728, 216]
    assert (plan.training.learning_rate, plan.training.weight_decay, plan.training.warmup) == (1e-4, 1e-5, 0.1)
    assert (plan.training.optimiser, plan.training.augmentation) == ("adamw", "paper")
    assert (plan.paper.dice_weight, plan.paper.latent_weight, plan.paper.steps) == (2, 1, 10)
    small = plan_for(make_fingerprint((35, 51, 36), (1, 1, 1)), gpu_budget(), preset="paper")
    assert (small.patch, small.latent_stride) == ((40, 56, 40), (8, 8, 8))


def test_ablations_share_the_publication_s_patch_and_stages_and_peers_unet_s(make_fingerprint):
    fingerprint = make_fingerprint((60, 80, 80), (1, 1, 1))
    for model, others in (("paper", recipes.VARIANTS), ("unet", PEERS)):
        plan = plan_for(fingerprint, gpu_budget(), preset=model)
        for other in (plan_for(fingerprint, gpu_budget(), preset=preset) for preset in others):
            assert (other.patch, other.batch, other.stages) == (plan.patch, plan.batch, plan.stages)
    assert {plan_for(fingerprint, gpu_budget(), preset=preset).preset for preset in PRESETS} == set(PRESETS)


def test_the_plan_of_a_peer_names_its_network_and_is_read_as_it_was_written(make_fingerprint):
    for preset in PEERS:
        plan = plan_for(make_fingerprint((60, 80, 80), (1, 1, 1)), gpu_budget(), preset=preset)
        assert plan.peer == preset.removeprefix("peer-")
        assert Plan.parse(json.loads(plan.model_dump_json()), "plan.json") == plan
        assert next(row.value for row in plan.reasons if row.name == "network") == RECIPES[preset].network
        assert not plan.classifies_words


def test_a_stand_in_for_the_text_encoder_is_in_the_table(make_fingerprint):
    text = TextPlan(encoder="bundled", width=384, stands_in_for=paper.ENCODER)
    fingerprint, label = make_fingerprint((60, 80, 80), (1, 1, 1)), [LabelPlan(name="a", value=1)]
    plan = make_plan("Dataset001_Test", ["MRI"], label, fingerprint, budget=gpu_budget(), preset="paper", text=text)
    assert paper.ENCODER in next(row.reason for row in plan.reasons if row.name == "text encoder")
    assert not any(row.name == "text encoder" for row in plan_for(fingerprint, gpu_budget(), preset="paper").reasons)


def test_settings_of_different_presets_are_not_mixed(make_fingerprint):
    fingerprint = make_fingerprint((60, 80, 80), (1, 1, 1))
    published = plan_for(fingerprint, gpu_budget(), preset="paper").model_dump()
    usual = plan_for(fingerprint, gpu_budget()).model_dump()
    with pytest.raises(UserError, match="paper has its own diffusion"):
        Plan.parse(published | {"diffusion": usual["diffusion"]}, "plan.json")
    with pytest.raises(UserError, match=r"needs latent\.channels 1"):
        Plan.parse(published | {"latent": usual["latent"]}, "plan.json")
    with pytest.raises(UserError, match="a peer has neither"):
        Plan.parse(usual | {"peer": "unet"}, "plan.json")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("patch", 0), 2**63),
        (("patch", 1), 2**40),
        (("batch",), 2**40),
        (("spacing", 0), 0.0),
        (("spacing", 2), 1e30),
        (("stages", 0, "width"), 2**31),
        (("fusion_level",), 2**31),
        (("latent", "level"), 2**31),
        (("latent", "channels"), 2**31),
        (("text", "width"), 2**31),
        (("diffusion", "steps"), 2**40),
        (("network", "head_width"), 2**40),
        (("labels", 0, "value"), 2**31),
        (("training", "epochs"), 10**30),
        (("memory", "ram_gb"), 1e300),
    ],
)
def test_a_plan_with_a_number_beyond_its_limit_is_refused_by_field(make_fingerprint, place, value):
    plan = plan_for(make_fingerprint((100, 200, 200), (2.0, 1.0, 1.0)), gpu_budget())
    fields = json.loads(plan.model_dump_json())
    inner = fields
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    with pytest.raises(UserError, match=r"^plan\.json: " + r"\.".join(map(str, place))):
        Plan.parse(fields, "plan.json")


def test_a_plan_of_version_1_is_refused_with_the_command_that_makes_it_again(make_fingerprint):
    """Its network is another one."""
    fields = json.loads(plan_for(make_fingerprint((60, 80, 80), (1, 1, 1)), gpu_budget()).model_dump_json())
    assert fields["version"] == 2
    del fields["version"]
    for older, found in ((fields, "missing, so the file is damaged or too old"), ({"version": 1}, "1 is too old")):
        with pytest.raises(UserError, match=rf"plan\.json: version: {found}: .*tds_plan_and_preprocess.*--restart"):
            Plan.parse(older, "plan.json")
