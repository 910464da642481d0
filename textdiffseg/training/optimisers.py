"""The optimisers: Muon for matrices and AdamW for all other weights, or AdamW for all if the plan requires it.

Muon updates a weight along the orthogonal matrix nearest to its momentum, so all directions of a layer learn equally
fast (K. Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024). A convolution's weight is a
matrix whose rows are its first axis and whose columns are all other axes. docs/history.md has the measured gain.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import overload

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from plans.plan import TrainingPlan

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan's coefficients: singular values end between 0.7 and 1.2
NEWTON_SCHULZ_STEPS = 5
UPDATE_RMS = 0.6  # of an update, times the learning rate; AdamW's is 1 at first and 0.2 to 0.4 later


def optimisers_of(model: Module, training: TrainingPlan) -> tuple[torch.optim.Optimizer, ...]:
    """The optimisers of all parameters. The training step sets their learning rates."""
    weights = list(model.parameters())
    rate, decay = training.learning_rate, training.weight_decay
    fused = weights[0].device.type == "cuda" or None  # few kernel launches for all weights
    if training.optimiser == "adamw":
        return (torch.optim.AdamW(weights, rate, weight_decay=decay, fused=fused),)
    matrices = [weight for weight in weights if weight.ndim > 1]
    others = [weight for weight in weights if weight.ndim < 2]
    return Muon(matrices, rate, decay), torch.optim.AdamW(others, rate, weight_decay=decay, fused=fused)


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov's momentum and decoupled weight decay, for parameters of two axes or more.

    The update's size does not depend on a weight's shape, so Muon and AdamW can share one learning rate (J. Liu et
    al., Muon is scalable for LLM training, 2025).
    """

    def __init__(self, params: Iterable[Parameter], lr: float, weight_decay: float, momentum: float = 0.9):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update all weights that have a gradient. Returns the closure's loss, or None without a closure.

        As in torch's own optimisers, a `closure` computes the gradients first and returns the loss.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            gradients = [weight.grad for weight in weights]
            if weights:
                self._update(weights, gradients, group["lr"], group["weight_decay"], group["momentum"])
        return loss

    def _update(
        self, weights: list[Tensor], gradients: list[Tensor], rate: float, decay: float, momentum: float
    ) -> None:
        averages = [self._average(weight) for weight in weights]
        torch._foreach_lerp_(averages, gradients, 1 - momentum)
        directions = torch._foreach_lerp(gradients, averages, momentum)
        updates = orthogonal([direction.flatten(1) for direction in directions])
        torch._foreach_mul_(updates, [-rate * UPDATE_RMS * max(update.shape) ** 0.5 for update in updates])
        torch._foreach_mul_(weights, 1 - rate * decay)
        torch._foreach_add_(weights, [update.view_as(weight) for update, weight in zip(updates, weights, strict=True)])

    def _average(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if "exp_avg" not in state:
            state["exp_avg"] = torch.zeros_like(weight)
        return state["exp_avg"]


def orthogonal(matrices: Sequence[Tensor]) -> list[Tensor]:
    """The matrices (rows, columns) with the same singular vectors and all singular values near 1. Zeros stay zeros.

    Matrices with equal shorter sides are processed together, which reduces kernel launches on a GPU.
    """
    wide = [matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT for matrix in matrices]
    by_side: dict[int, list[int]] = {}
    for index, matrix in enumerate(wide):
        by_side.setdefault(len(matrix), []).append(index)
    results = list(matrices)
    for indices in by_side.values():
        factors = newton_schulz(torch.stack([wide[index] @ wide[index].mT for index in indices]))
        for index, factor in zip(indices, factors.unbind(), strict=True):
            matrix = matrices[index]
            results[index] = factor @ matrix if matrix is wide[index] else matrix @ factor
    return results


def newton_schulz(square: Tensor) -> Tensor:
    """square = X X^T (n, s, s) for some X -> P (n, s, s) such that P X has singular values near 1.

    The iteration is X <- (a + b A + c A^2) X with A = X X^T. Its factors are polynomials of the first A, so they
    commute. Only these s x s factors are multiplied here, and the caller multiplies X once. On a CPU this takes a
    quarter of the time.
    """
    a, b, c = NEWTON_SCHULZ
    scale = 1 / (square.diagonal(dim1=1, dim2=2).sum(1).sqrt() + 1e-12).view(-1, 1, 1)  # 1 / Frobenius norm of X
    square = square * scale.square()
    product = torch.eye(square.shape[1], device=square.device) * scale
    for steps_left in reversed(range(NEWTON_SCHULZ_STEPS)):
        factor = torch.baddbmm(square, square, square, beta=b, alpha=c)  # b A + c A^2
        product = torch.baddbmm(product, factor, product, beta=a)
        for _ in range(2 if steps_left else 0):
            square = torch.baddbmm(square, factor, square, beta=a)
    return product
