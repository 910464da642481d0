"""A training step on random numbers: does the plan fit into memory, or is there room for a larger patch?

The fitted plan is stored next to the plan. All folds of a plan are thus trained with the same patch.
"""

import os
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Literal

import torch

from plans.choices import Preset
from plans.errors import UserError
from plans.layout import PreprocessedFolder
from plans.plan import Plan
from plans.planning.budget import Budget
from plans.planning.memory import FIXED_BYTES, GB, TOKENS_PER_LABEL
from plans.planning.refit import larger_patches, refit, with_host_memory
from plans.records import Record
from textdiffseg.data.batch import batch_keys
from textdiffseg.data.store import list_cases, read_record
from textdiffseg.files import hash_text, write_record
from textdiffseg.folds.lock import one_at_a_time
from textdiffseg.folds.plans import plan_of_dataset
from textdiffseg.networks.model import SegmentationNetwork, build_model
from textdiffseg.overview import blank
from textdiffseg.precision import autocast
from textdiffseg.progress import Report
from textdiffseg.queries import Queries
from textdiffseg.resources import free_memory, free_on, is_out_of_memory
from textdiffseg.text.encoder import MAX_TEXT_TOKENS
from textdiffseg.training.objectives import objective_of

MAX_GROWN_SHARE = 0.9  # of the budget, or of a GPU's free memory; fragmentation and validation need the rest
MAX_GROWTH_STEPS = 3  # training steps measured to find a larger patch


class FittedPlan(Record):
    """A plan that was fitted to the memory of a training step (`fitted_plan.json`)."""

    version: Literal[1] = 1
    of: str  # hash of the plan that was fitted
    plan: Plan


def fitted_plan(source: PreprocessedFolder, preset: Preset, device: torch.device, report: Report) -> Plan:
    """The preset's plan, fitted to the memory. `UserError` if a stored fitted plan does not fit here.

    The first fold fits the plan and stores it. Folds that start at the same time wait for each other.
    """
    path = source.fitted_plan(preset)
    plan = plan_of_dataset(source, preset)
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
        if fitted.patch != plan.patch:
            transforms = (read_record(source.path, case).transform for case in list_cases(source.path))
            shapes = ((transform.shape, transform.original_shape) for transform in transforms)
            fitted = with_host_memory(fitted, shapes)
        if writable:
            write_record(path, FittedPlan(of=key, plan=fitted))
        elif fitted != plan:
            report(f"Note: {source.path} is read-only, so other folds may get another patch.")
        return fitted


def _read_fitted(path: Path) -> FittedPlan | None:
    return FittedPlan.read(path, "Delete the file: the next training fits the plan again.") if path.is_file() else None


def _refuse_too_large(plan: Plan, device: torch.device, path: Path, report: Report) -> None:
    """Raise `UserError` if a training step of a stored fitted plan does not fit into memory."""
    measured = measure(plan, device)
    free = free_memory() / GB
    if measured is None or (device.type == "cpu" and measured > free):
        step = "runs out of memory" if measured is None else f"takes {measured:.2f} GB, and {free:.2f} GB are free"
        raise UserError(
            f"{path}: a training step of this plan {step}. All folds of a plan have one patch. Free "
            "memory, or delete this file and train all folds again with a smaller patch."
        )
    report(f"A training step takes {measured:.2f} GB (estimate {plan.memory.training_gb:.2f}).")


def fit_to_memory(plan: Plan, device: torch.device) -> tuple[Plan, str]:
    """The plan, fitted to its budget by measured training steps, and a note with the measurements.

    A plan that does not fit is made smaller. If the first step leaves room, the patch grows, but only to a size whose
    own step fits. On a CPU, free memory is a limit, too. On a GPU with more free memory than the budget, a step may
    take more: its fastest kernels use what is there. `UserError` if no smaller plan exists.
    """
    limit, notes = plan.memory.budget_gb, []
    most = limit
    if device.type == "cpu":
        most = limit = min(limit, free_memory() / GB)
    elif device.type == "cuda":
        most = max(limit, MAX_GROWN_SHARE * free_on(device) / GB)
    while (measured := measure(plan, device)) is None or measured > most:
        size = "out of memory" if measured is None else f"{measured:.2f} GB"
        smaller = limit * 0.9 if measured is None else limit * limit / measured
        refitted = refit(plan, Budget(device=plan.device, memory_gb=smaller))
        notes.append(
            f"A training step took {size} with batch {plan.batch} of {plan.patch}, over the budget of {limit:.1f} GB: "
            f"refitted to batch {refitted.batch} of {refitted.patch}."
        )
        plan = refitted
    if not notes:
        plan, measured, notes = _grown(plan, device, measured, limit)
    notes.append(
        f"A training step takes {measured:.2f} GB (estimate {plan.memory.training_gb:.2f}, budget {limit:.1f})."
    )
    return plan, " ".join(notes)


def _grown(plan: Plan, device: torch.device, measured: float, limit: float) -> tuple[Plan, float, list[str]]:
    """The plan with the largest patch that fits, the GB of its training step, and a note if the patch has grown.

    A plan for another device keeps its patch.
    """
    if (plan.device == "gpu") == (device.type == "cuda"):
        for larger in islice(larger_patches(plan, measured, MAX_GROWN_SHARE * limit), MAX_GROWTH_STEPS):
            larger_measured = measure(larger, device)
            if larger_measured is not None and larger_measured <= MAX_GROWN_SHARE * limit:
                note = (
                    f"A training step took {measured:.2f} GB with batch {plan.batch} of {plan.patch}: the patch grew "
                    f"to {larger.patch}, batch {larger.batch}."
                )
                return larger, larger_measured, [note]
    return plan, measured, []


def measure(plan: Plan, device: torch.device) -> float | None:
    """The memory of a training step in GB, or None if the device runs out of memory.

    Preset `default` trains masks, then its sampler: the larger of the two counts. On CUDA it is the allocator's peak
    and the memory of libraries. Elsewhere it is the size of the weights and of all tensors that autograd saves. Nothing
    is compiled: compiled modules are expected to save less.
    """
    with torch.random.fork_rng(devices=[]):  # does not change the caller's random numbers
        torch.default_generator.manual_seed(0)
        model = build_model(plan)
    try:
        model.to(device)
        return max(_step_bytes(model, device, samples) for samples in (False, True)[: 1 + bool(plan.diffusion)]) / GB
    except RuntimeError as error:
        if is_out_of_memory(error):
            return None
        raise


def _step_bytes(model: SegmentationNetwork, device: torch.device, samples: bool) -> float:
    """The memory of a training step in bytes; with `samples`, of a step that trains the sampler."""
    if device.type == "cuda":
        _loss(model, device, samples).backward()  # cuDNN searches its fastest kernels, which may take all memory
        model.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        _loss(model, device, samples).backward()
        peak = torch.cuda.max_memory_allocated(device)
        return peak + FIXED_BYTES["gpu"] + sum(_optimiser_bytes(model))
    saved: dict[int, int] = {}  # bytes by address

    def save(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        loss = _loss(model, device, samples)
    loss.backward()
    for weight in model.parameters():
        saved[weight.untyped_storage().data_ptr()] = 4 * weight.numel() * (1 + (weight.grad is not None))
    return sum(saved.values()) + sum(_optimiser_bytes(model))


def _optimiser_bytes(model: SegmentationNetwork) -> Iterator[int]:
    """The bytes of moments and averaged weights, which do not exist before training. Call it after a backward pass."""
    moments = 1 if model.plan.training.optimiser == "muon" else 2
    for weight in model.parameters():
        yield 4 * weight.numel() * (1 + moments * (weight.grad is not None))


def _loss(model: SegmentationNetwork, device: torch.device, samples: bool) -> torch.Tensor:
    plan, generator = model.plan, torch.Generator().manual_seed(0)
    batch, n_labels, width = plan.batch, len(plan.labels), plan.text.width
    labels = torch.arange(1, n_labels + 1).expand(batch, n_labels)
    length = TOKENS_PER_LABEL * n_labels + (MAX_TEXT_TOKENS if plan.reads_texts else 0)
    tokens = torch.randn(batch, length, width, generator=generator)
    vectors = torch.randn(batch, n_labels, width, generator=generator)
    channels, overview_plan = len(plan.channels), plan.overview
    overview = blank(batch, channels, overview_plan.edge, overview_plan.cells) if overview_plan else None
    queries = Queries(labels, vectors, tokens, torch.ones(batch, length, dtype=torch.bool), overview).to(device)
    image = torch.randn(batch, channels, *plan.patch, generator=generator).to(device)
    highest = max(map(max, plan.value_numbers))  # in a label map
    targets = torch.randint(0, highest + 1, (batch, *plan.patch), generator=generator).to(device)
    objective = objective_of(model, samples)
    draws = objective.draw(0, batch_keys(0, 0, batch))
    draws = None if draws is None else draws.to(device)
    with autocast(device):
        return objective.losses(image, targets, queries, draws, done=0.0).total
