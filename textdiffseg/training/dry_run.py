"""A training step on random numbers: does the plan fit into memory?

The fitted plan is stored next to the plan. All folds of a plan are thus trained with the same patch.
"""

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import torch

from plans.budget import Budget
from plans.errors import UserError
from plans.layout import PreprocessedFolder
from plans.memory import BYTES_PER_WEIGHT, GB, TOKENS_PER_LABEL
from plans.plan import Plan
from plans.planner import refit
from plans.presets import Preset
from plans.records import Record
from textdiffseg.data.batch import batch_keys
from textdiffseg.files import hash_text, write_record
from textdiffseg.folds.lock import one_at_a_time
from textdiffseg.networks.model import SegmentationNetwork, build_model
from textdiffseg.precision import autocast
from textdiffseg.progress import Report
from textdiffseg.queries import Queries
from textdiffseg.resources import free_memory
from textdiffseg.text.encoder import MAX_TEXT_TOKENS
from textdiffseg.training.objectives import objective_of


class FittedPlan(Record):
    """A plan that was fitted to the memory of a training step (`fitted_plan.json`)."""

    version: Literal[1] = 1
    of: str  # hash of the plan that was fitted
    plan: Plan


def fitted_plan(source: PreprocessedFolder, preset: Preset, device: torch.device, report: Report) -> Plan:
    """The preset's plan, fitted to the memory. `UserError` if a stored fitted plan does not fit here.

    The first fold fits the plan and stores it. Folds that start at the same time wait for each other.
    """
    path, plan = source.fitted_plan(preset), Plan.read(source.plan(preset))
    key = hash_text(plan.model_dump_json())
    writable = os.access(source.path, os.W_OK)
    with one_at_a_time(source.fitting_lock) if writable else nullcontext():
        stored = _read_fitted(path)
        if stored is not None and stored.of == key:
            if stored.plan != plan:
                report(f"The patch is {stored.plan.patch}, as an earlier fold fitted it ({path}).")
            _refuse_too_large(stored.plan, device, path, report)
            return stored.plan
        fitted, note = fit_to_memory(plan, device)
        report(note)
        if writable:
            write_record(path, FittedPlan(of=key, plan=fitted))
        elif fitted != plan:
            report(f"Note: {source.path} is read-only, so other folds may get another patch.")
        return fitted


def _read_fitted(path: Path) -> FittedPlan | None:
    if not path.is_file():
        return None
    try:
        return FittedPlan.read(path)
    except UserError as error:
        raise UserError(
            *(f"{line} Delete the file: the next training fits the plan again." for line in error.lines)
        ) from None


def _refuse_too_large(plan: Plan, device: torch.device, path: Path, report: Report) -> None:
    """Raise `UserError` if a training step of a stored fitted plan does not fit into memory."""
    measured, free = measure(plan, device), free_memory() / GB
    if measured is None or (device.type == "cpu" and measured > free):
        step = "runs out of memory" if measured is None else f"takes {measured:.2f} GB, and {free:.2f} GB are free"
        raise UserError(
            f"{path}: a training step of this plan {step}. All folds of a plan have one patch. Free "
            "memory, or delete this file and train all folds again with a smaller patch."
        )
    report(f"A training step takes {measured:.2f} GB (estimate {plan.memory.training_gb:.2f}).")


def fit_to_memory(plan: Plan, device: torch.device) -> tuple[Plan, str]:
    """The plan, made smaller until a training step fits into its budget, and a note with the measurements.

    On a CPU, free memory is a limit, too. `UserError` if no smaller plan exists.
    """
    limit, notes = plan.memory.budget_gb, []
    if device.type == "cpu":
        limit = min(limit, free_memory() / GB)
    while True:
        measured = measure(plan, device)
        size = "out of memory" if measured is None else f"{measured:.2f} GB"
        if measured is not None and measured <= limit:
            notes.append(f"A training step takes {size} (estimate {plan.memory.training_gb:.2f}, budget {limit:.1f}).")
            return plan, " ".join(notes)
        smaller = limit * 0.9 if measured is None else limit * limit / measured
        refitted = refit(plan, Budget(device=plan.device, memory_gb=smaller))
        notes.append(
            f"A training step took {size} with batch {plan.batch} of {plan.patch}, over the budget of {limit:.1f} GB: "
            f"refitted to batch {refitted.batch} of {refitted.patch}."
        )
        plan = refitted


def measure(plan: Plan, device: torch.device) -> float | None:
    """The memory of a training step in GB, or None if the device runs out of memory.

    On CUDA it is the allocator's peak. Elsewhere it is the size of the weights and of all tensors that autograd saves.
    Nothing is compiled: compiled modules are expected to save less.
    """
    with torch.random.fork_rng(devices=[]):  # does not change the caller's random numbers
        torch.manual_seed(0)
        model = build_model(plan)
    weights = sum(parameter.numel() for parameter in model.parameters()) * BYTES_PER_WEIGHT
    saved: dict[int, int] = {}  # bytes by address

    def save(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    try:
        model.to(device)
        if device.type == "cuda":
            _loss(model, device).backward()  # cuDNN searches its fastest kernels, which may take all memory
            model.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
            total = _loss(model, device)
        total.backward()
    except torch.cuda.OutOfMemoryError:
        return None
    if device.type == "cuda":
        optimiser = weights * 3 // 5  # moments and averaged weights, which do not exist yet
        return (torch.cuda.max_memory_allocated(device) + optimiser) / GB
    return (weights + sum(saved.values())) / GB


def _loss(model: SegmentationNetwork, device: torch.device) -> torch.Tensor:
    plan, generator = model.plan, torch.Generator().manual_seed(0)
    batch, count, width = plan.batch, len(plan.labels), plan.text.width
    labels = torch.arange(1, count + 1).expand(batch, count)
    length = TOKENS_PER_LABEL * count + (MAX_TEXT_TOKENS if plan.reads_texts else 0)
    tokens = torch.randn(batch, length, width, generator=generator)
    vectors = torch.randn(batch, count, width, generator=generator)
    queries = Queries(labels, vectors, tokens, torch.ones(batch, length, dtype=torch.bool)).to(device)
    image = torch.randn(batch, len(plan.channels), *plan.patch, generator=generator).to(device)
    highest = max(map(max, plan.parts))  # in a label map
    targets = torch.randint(0, highest + 1, (batch, *plan.patch), generator=generator).to(device)
    objective = objective_of(model)
    draws = objective.draw(0, batch_keys(0, 0, batch))
    with autocast(device):
        return objective.losses(image, targets, queries, draws and draws.to(device)).total
