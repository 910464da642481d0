"""One optimiser step, and the learning-rate schedule."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from plans.errors import UserError
from plans.plan import TrainingPlan
from textdiffseg.data.batch import Batch
from textdiffseg.precision import autocast
from textdiffseg.queries import Queries
from textdiffseg.text.bank import TextBank
from textdiffseg.training.checkpoint import TrainingState
from textdiffseg.training.compiling import Compiled
from textdiffseg.training.draws import NoiseDraws
from textdiffseg.training.objectives import Losses

MAX_GRADIENT_NORM = 12.0  # nnU-Net's


@dataclass(frozen=True)
class StepLosses:
    """The losses of one step, on the device."""

    iteration: int
    cases: tuple[str, ...]
    names: tuple[str, ...]
    values: Tensor  # (n + 1,), in the order of `names`, then the norm of the gradients

    def read(self) -> dict[str, float]:
        """The losses by name. This waits for the device. Raises `UserError` if one or a gradient is not finite."""
        *losses, norm = self.values.tolist()
        values = dict(zip(self.names, losses, strict=True))
        if not math.isfinite(sum((norm, *losses))):
            lost = ", ".join(f"{name} {value:g}" for name, value in {**values, "gradient": norm}.items())
            raise UserError(
                f"The loss is not finite at iteration {self.iteration} ({lost}), cases {', '.join(self.cases)}. Lower "
                "training.learning_rate in the data set's plan.json, and train anew with --restart."
            )
        return values


@dataclass(frozen=True)
class Inputs:
    """The inputs of a training step. They are on the host until `to` copies them."""

    batch: Batch
    queries: Queries
    draws: NoiseDraws | None

    def to(self, device: torch.device) -> "Inputs":
        """The same inputs on another device."""
        draws = None if self.draws is None else self.draws.to(device)
        return Inputs(self.batch.to(device), self.queries.to(device), draws)

    def of_one_size(self, labels: int) -> "Inputs":
        """The same inputs with `labels` slots, so that shapes are the same in all batches. Texts' length may differ."""
        return replace(self, queries=self.queries.padded(labels))


def train_step(state: TrainingState, bank: TextBank, batch: Batch, compiled: Compiled) -> StepLosses:
    """The losses of one optimiser step. It does not wait for the device."""
    iteration, training = state.position.iteration, state.model.plan.training
    draws = state.objective.draw(state.position.seed, batch.keys)
    inputs = Inputs(batch, batch.read(bank), draws)
    rate = learning_rate(training, *state.position.schedule)
    for optimiser in state.optimisers:
        for group in optimiser.param_groups:
            group["lr"] = rate
    # Compiling the sampler's step takes nearly as long as the masks', for a twentieth of the time.
    losses = compiled.run(lambda: gradients(state, inputs, compiled.one_size), eager=state.position.trains_sampler)
    norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), MAX_GRADIENT_NORM)
    for optimiser in state.optimisers:
        optimiser.step()
    state.average(training.ema)
    named = losses.named()
    values = torch.stack([*(loss.detach().float() for loss in named.values()), norm.float()])
    return StepLosses(iteration, batch.cases, tuple(named), values)


def gradients(state: TrainingState, inputs: Inputs, one_size: bool) -> Losses:
    """The losses of a batch. Their gradients replace those of the previous step in the model."""
    model, objective = state.model, state.objective
    done, total = state.position.schedule
    device = next(model.parameters()).device
    inputs = (inputs.of_one_size(len(model.plan.labels)) if one_size else inputs).to(device)
    targets = objective.readout.targets(inputs.batch.labels, inputs.queries)
    model.zero_grad(set_to_none=True)
    with autocast(device):
        losses = objective.losses(inputs.batch.image, targets, inputs.queries, inputs.draws, done / max(1, total))
    losses.total.backward()
    return losses


def learning_rate(plan: TrainingPlan, iteration: int, total: int) -> float:
    """The learning rate of an iteration: linear warm-up over the share `plan.warmup`, then half a cosine to 0."""
    warm = max(1, round(plan.warmup * total))
    if iteration < warm:
        return plan.learning_rate * (iteration + 1) / warm
    return plan.learning_rate * 0.5 * (1 + math.cos(math.pi * (iteration - warm) / max(1, total - warm)))
