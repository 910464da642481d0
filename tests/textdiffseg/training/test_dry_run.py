import pytest
import torch

from plans.errors import UserError
from textdiffseg.training import dry_run

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


def test_a_device_that_is_full_already_is_out_of_memory(shapes_plan, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch.nn.Module, "to", full)
    assert dry_run.measure(shapes_plan("default"), CPU) is None


def test_a_plan_that_cannot_fit_is_refused(shapes_plan):
    with pytest.raises(UserError, match="does not fit"):
        dry_run.fit_to_memory(with_budget(shapes_plan("default"), 0.001), CPU)
