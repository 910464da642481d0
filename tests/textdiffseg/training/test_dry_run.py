from math import log, prod

import pytest
import torch

from plans.errors import UserError
from plans.planning import budget
from plans.planning.memory import GB, macs, network_of, training_bytes
from textdiffseg.networks.model import build_model
from textdiffseg.training import dry_run, objectives

CPU = torch.device("cpu")


def with_budget(plan, gb):
    return plan.model_copy(update={"memory": plan.memory.model_copy(update={"budget_gb": gb})})


@pytest.mark.parametrize("preset", ["default", "unet"])
def test_a_plan_that_fits_stays_as_it_is(shapes_plan, preset):
    plan = shapes_plan(preset)
    fitted, note = dry_run.fit_to_memory(plan, CPU)
    assert fitted == plan
    assert "A training step takes" in note


def test_memory_grows_with_the_batch(shapes_plan):
    plan = shapes_plan("default")
    one, four = (dry_run.measure(plan.model_copy(update={"batch": batch}), CPU) for batch in (1, 4))
    assert 1.5 * one < four < 4.5 * one


@pytest.mark.parametrize("first", [6.0, None])
def test_a_plan_that_does_not_fit_is_refitted_and_reported(shapes_plan, monkeypatch, first):
    """The first step takes more than the budget of 4 GB, or runs out of memory; the next one fits."""
    found = iter([first, 1.0])
    monkeypatch.setattr(dry_run, "measure", lambda plan, device: next(found))
    plan = shapes_plan("default").model_copy(update={"batch": 8})
    fitted, note = dry_run.fit_to_memory(plan, CPU)
    assert fitted.batch < 8
    assert fitted.stages == plan.stages
    assert "refitted to batch" in note


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(), RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")])
def test_a_device_that_is_full_already_is_out_of_memory(shapes_plan, monkeypatch, error):
    def full(*_):
        raise error

    monkeypatch.setattr(torch.nn.Module, "to", full)
    assert dry_run.measure(shapes_plan("default"), CPU) is None
    error = RuntimeError("another one")
    with pytest.raises(RuntimeError, match="another one"):
        dry_run.measure(shapes_plan("default"), CPU)


def test_a_plan_that_cannot_fit_is_refused(shapes_plan):
    with pytest.raises(UserError, match="does not fit"):
        dry_run.fit_to_memory(with_budget(shapes_plan("default"), 0.001), CPU)


def planned(plan, budget=4.0):
    """The plan with the estimate of its patch and batch, as the planner makes it."""
    gb = training_bytes(network_of(plan), plan.patch, plan.batch, plan.device) / GB
    return plan.model_copy(update={"memory": plan.memory.model_copy(update={"training_gb": gb, "budget_gb": budget})})


def test_both_stages_are_measured_and_the_larger_counts(shapes_plan, monkeypatch):
    seen = []

    def step(model, device, samples):
        seen.append((model.plan.preset, samples))
        return 2e9 if samples else 1e9

    monkeypatch.setattr(dry_run, "_step_bytes", step)
    assert dry_run.measure(shapes_plan("default"), CPU) == 2
    assert dry_run.measure(shapes_plan("unet"), CPU) == 1
    assert seen == [("default", False), ("default", True), ("unet", False)]


def test_the_loss_of_the_first_iteration_is_measured(shapes_plan, monkeypatch):
    """It has one term more than that of the last."""
    seen, balance_at = [], objectives.balance_at
    monkeypatch.setattr(objectives, "balance_at", lambda done: seen.append(done) or balance_at(done))
    dry_run._loss(build_model(shapes_plan("unet")), torch.device("cpu"), False)
    assert seen == [0.0]


def test_the_sampler_s_step_saves_no_gradients_of_masks(shapes_plan):
    """Measured with its own loss: the masks' decoder has no gradient, the sampler's has."""
    model = build_model(shapes_plan("default"))
    assert dry_run._step_bytes(model, CPU, samples=True) > 0
    assert all(weight.grad is None for weight in model.label_decoder.parameters())
    assert all(weight.grad is not None for weight in model.denoiser.parameters() if weight.requires_grad)


@pytest.fixture
def roomy(shapes_plan, monkeypatch):
    """A plan whose patch is smaller than the median case, and the plans that are measured; all take a tenth of a GB."""
    measured = []
    monkeypatch.setattr(dry_run, "measure", lambda plan, device: measured.append(plan) or 0.1)
    plan = shapes_plan("default")
    stages = tuple(stage.model_copy(update={"attention": False}) for stage in plan.stages)
    return planned(plan.model_copy(update={"median_shape": (32, 24, 16), "stages": stages})), measured


def test_a_patch_with_room_grows_to_the_median_case_and_is_measured_again(roomy):
    plan, measured = roomy
    fitted, note = dry_run.fit_to_memory(plan, CPU)
    assert fitted.patch == (32, 24, 16), "the whole median case, and no more"
    assert (fitted.stages, fitted.batch) == (plan.stages, 2)
    assert [one.patch for one in measured] == [plan.patch, fitted.patch]
    assert fitted.reasons[-1].name == "grown"
    assert "patch 16 x 16 x 16 to 32 x 24 x 16" in fitted.reasons[-1].reason
    assert "the patch grew to (32, 24, 16)" in note
    values = fitted.latent.channels * prod(fitted.latent_shape)
    assert fitted.diffusion.min_log_snr == pytest.approx(2 - log(values))


def test_a_larger_patch_is_taken_only_if_its_own_step_fits(roomy, monkeypatch):
    plan, _ = roomy
    sizes = iter([0.1, 3.7, None, 3.5])  # of 4 GB, of which 3.6 may be used
    tried = []
    monkeypatch.setattr(dry_run, "measure", lambda one, device: tried.append(one.patch) or next(sizes))
    fitted, note = dry_run.fit_to_memory(plan, CPU)
    assert fitted.patch == tried[-1] != plan.patch
    assert [prod(patch) for patch in tried[1:]] == sorted((prod(patch) for patch in tried[1:]), reverse=True)
    assert "A training step takes 3.50 GB" in note
    monkeypatch.setattr(dry_run, "measure", lambda one, device: 0.1 if one.patch == plan.patch else None)
    assert dry_run.fit_to_memory(plan, CPU)[0] == plan


def test_a_gpu_with_room_may_take_more_than_the_budget(roomy, monkeypatch):
    plan, _ = roomy
    monkeypatch.setattr(dry_run, "measure", lambda one, device: 5.0)
    monkeypatch.setattr(dry_run, "free_on", lambda device: 80e9)
    fitted, _ = dry_run.fit_to_memory(plan, torch.device("cuda"))
    assert fitted == plan, "4 GB are the budget"


@pytest.mark.parametrize(
    "change",
    [
        {"patch": (8, 16, 16)},  # edited by hand: the estimate belongs to another patch
        {"batch": 3},
        {"device": "gpu"},  # trained on a CPU
        {"median_shape": (16, 16, 16)},
    ],
)
def test_other_plans_keep_their_patch(roomy, change):
    plan, measured = roomy
    plan = plan.model_copy(update=change)
    if "device" in change:
        plan = planned(plan)
    assert dry_run.fit_to_memory(plan, CPU)[0] == plan
    assert len(measured) == 1


def test_a_cpu_s_work_limit_holds_for_a_larger_patch(roomy, monkeypatch):
    plan, _ = roomy
    work = plan.batch * macs(network_of(plan), plan.patch) / 1e9
    monkeypatch.setattr(budget, "GMACS_PER_CORE", 1.6 * work / 2)  # a budget of 4 GB is that of two cores
    fitted, _ = dry_run.fit_to_memory(plan, CPU)
    assert fitted.patch == (24, 16, 16), "half more work, not three times as much"


def test_a_patch_grows_only_while_attention_is_affordable(roomy):
    """With 8 channels at most 104 positions, at stride 4: 24 x 16 x 16 voxels have 96, 32 x 16 x 16 have 128."""
    plan, _ = roomy
    *fine, last = plan.stages
    attending = plan.model_copy(update={"stages": (*fine, last.model_copy(update={"attention": True}))})
    assert dry_run.fit_to_memory(planned(attending), CPU)[0].patch == (24, 16, 16)


def test_a_batch_above_the_smallest_shrinks_as_the_patch_grows(roomy):
    """The share of the data set that a batch may hold is not exceeded."""
    plan = planned(roomy[0].model_copy(update={"batch": 7}))
    fitted, _ = dry_run.fit_to_memory(plan, CPU)
    assert (fitted.patch, fitted.batch) == ((32, 24, 16), 2)
    assert fitted.batch * prod(fitted.patch) <= plan.batch * prod(plan.patch)
