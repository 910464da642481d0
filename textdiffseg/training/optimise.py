"""One optimiser step, and its learning rate."""

import math

import torch

from plans.plan import TrainingPlan
from textdiffseg.data.loader import Batch
from textdiffseg.diffusion.schedule import Schedule
from textdiffseg.text.bank import TextBank
from textdiffseg.training.checkpoint import TrainingState
from textdiffseg.training.precision import autocast
from textdiffseg.training.step import draw_for, losses, targets

CLIP_NORM = 12.0  # of the gradient, nnU-Net's


def train_step(state: TrainingState, bank: TextBank, schedule: Schedule, batch: Batch) -> dict[str, float]:
    """One optimiser step; returns the losses."""
    iteration, training = state.progress.iteration, state.model.plan.training
    device = next(state.model.parameters()).device
    queries = bank.queries(batch.queries, batch.told)
    slots = targets(state.model.plan, batch.labels, queries)
    generator = torch.Generator().manual_seed(state.progress.seed * 2**32 + iteration)
    draws = draw_for(state.model, len(batch.image), generator)
    queries = bank.varied(queries, generator)
    for group in state.optimiser.param_groups:
        group["lr"] = learning_rate(training, iteration, state.progress.total)
    state.optimiser.zero_grad(set_to_none=True)
    with autocast(device):
        parts = losses(
            state.model,
            schedule,
            batch.image.to(device, non_blocking=True),
            slots.to(device, non_blocking=True),
            queries.to(device),
            draws and draws.to(device),
        )
    parts.total.backward()
    torch.nn.utils.clip_grad_norm_(state.model.parameters(), CLIP_NORM)
    state.optimiser.step()
    state.average(training.ema)
    values = dict(zip(parts.named(), torch.stack(list(parts.named().values())).tolist(), strict=True))
    if not math.isfinite(sum(values.values())):
        raise FloatingPointError(f"the loss is not finite at iteration {iteration} ({values}), cases {batch.cases}")
    return values


def learning_rate(plan: TrainingPlan, iteration: int, total: int) -> float:
    """Linear warm-up over `plan.warmup` of all iterations, then half a cosine down to 0."""
    warm = max(1, round(plan.warmup * total))
    if iteration < warm:
        return plan.learning_rate * (iteration + 1) / warm
    return plan.learning_rate * 0.5 * (1 + math.cos(math.pi * (iteration - warm) / max(1, total - warm)))
