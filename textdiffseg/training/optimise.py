"""One optimiser step, and its learning rate."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from plans.plan import Plan, TrainingPlan
from textdiffseg.data.loader import Batch
from textdiffseg.precision import autocast
from textdiffseg.queries import Queries
from textdiffseg.text.bank import TextBank
from textdiffseg.training.checkpoint import TrainingState
from textdiffseg.training.compiling import Compiled
from textdiffseg.training.draws import Draws, draw_for
from textdiffseg.training.objectives import Losses

CLIP_NORM = 12.0  # of the gradient, nnU-Net's


@dataclass(frozen=True)
class StepLosses:
    """The losses of one step, still on the device: to read them is to wait for it."""

    iteration: int
    cases: tuple[str, ...]
    names: tuple[str, ...]
    values: Tensor  # (n,), one a name

    def read(self) -> dict[str, float]:
        """By name. Raises `FloatingPointError` where one is not finite."""
        values = dict(zip(self.names, self.values.tolist(), strict=True))
        if not math.isfinite(sum(values.values())):
            raise FloatingPointError(
                f"the loss is not finite at iteration {self.iteration} ({values}), cases {self.cases}"
            )
        return values


@dataclass(frozen=True)
class Inputs:
    """What a step reads, on the host until it is sent."""

    batch: Batch
    queries: Queries
    draws: Draws | None

    def to(self, device: torch.device) -> "Inputs":
        """The same inputs on another device."""
        return Inputs(self.batch.to(device), self.queries.to(device), self.draws and self.draws.to(device))

    def of_one_size(self, plan: Plan) -> "Inputs":
        """The same inputs in shapes that do not change from batch to batch, up to the length of texts."""
        draws = self.draws
        if draws is not None and plan.diffusion is not None:
            draws = draws.of_one_size(plan.diffusion)
        return Inputs(self.batch, self.queries.padded(len(plan.labels)), draws)


def train_step(state: TrainingState, bank: TextBank, batch: Batch, compiled: Compiled) -> StepLosses:
    """One optimiser step; nothing in it waits for the device."""
    iteration, training = state.progress.iteration, state.model.plan.training
    draws = draw_for(state.model.plan, state.progress.seed, batch.keys)
    inputs = Inputs(batch, bank.queries(batch.queries, batch.told), draws)
    rate = learning_rate(training, *state.progress.schedule)
    for optimiser in state.optimisers:
        for group in optimiser.param_groups:
            group["lr"] = rate
    parts = compiled.run(lambda: gradients(state, inputs, compiled.one_size))
    torch.nn.utils.clip_grad_norm_(state.model.parameters(), CLIP_NORM)
    for optimiser in state.optimisers:
        optimiser.step()
    state.average(training.ema)
    named = parts.named()
    return StepLosses(iteration, batch.cases, tuple(named), torch.stack(list(named.values())).detach())


def gradients(state: TrainingState, inputs: Inputs, one_size: bool) -> Losses:
    """Losses, and their gradients in place of the last step's."""
    model, objective = state.model, state.objective
    device = next(model.parameters()).device
    inputs = (inputs.of_one_size(model.plan) if one_size else inputs).to(device)
    targets = objective.readout.targets(inputs.batch.labels, inputs.queries)
    model.zero_grad(set_to_none=True)
    with autocast(device):
        parts = objective.losses(inputs.batch.image, targets, inputs.queries, inputs.draws)
    parts.total.backward()
    return parts


def learning_rate(plan: TrainingPlan, iteration: int, total: int) -> float:
    """Linear warm-up over `plan.warmup` of all iterations, then half a cosine down to 0."""
    warm = max(1, round(plan.warmup * total))
    if iteration < warm:
        return plan.learning_rate * (iteration + 1) / warm
    return plan.learning_rate * 0.5 * (1 + math.cos(math.pi * (iteration - warm) / max(1, total - warm)))
