"""What moves the weights: Muon those that are matrices, AdamW the rest (or all of them where the plan says so).

Muon moves a weight along the orthogonal matrix nearest to its momentum, so that every direction of a layer learns at
one pace, the rare ones, too (K. Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024). Of a
convolution's weight the first axis makes the rows, all others the columns. What it gains: docs/method.md.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import overload

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from plans.plan import TrainingPlan

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan's: singular values come to lie within 0.7 to 1.2
ROUNDS = 5
UPDATE = 0.6  # root mean square of an update, of the learning rate; AdamW's is 1 at first, 0.2 to 0.4 later


def optimisers_of(model: Module, training: TrainingPlan) -> tuple[torch.optim.Optimizer, ...]:
    """The optimisers of all parameters; their learning rates are set at each step."""
    weights = list(model.parameters())
    rate, decay = training.learning_rate, training.weight_decay
    fused = weights[0].device.type == "cuda" or None  # a few kernels for all weights
    if training.optimiser == "adamw":
        return (torch.optim.AdamW(weights, rate, weight_decay=decay, fused=fused),)
    matrices, others = [one for one in weights if one.ndim > 1], [one for one in weights if one.ndim < 2]
    return Muon(matrices, rate, decay), torch.optim.AdamW(others, rate, weight_decay=decay, fused=fused)


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov's momentum and decoupled weight decay, for parameters of two axes or more.

    The update's size does not depend on a weight's shape, so that one learning rate fits AdamW beside it (J. Liu et
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
        """One step of all weights that have a gradient.

        As in torch's own optimisers, a `closure` makes the gradients first. It returns the loss, and so does the step.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            gradients = [weight.grad for weight in weights]
            if weights:
                self._move(weights, gradients, group["lr"], group["weight_decay"], group["momentum"])
        return loss

    def _move(self, weights: list[Tensor], gradients: list[Tensor], rate: float, decay: float, momentum: float) -> None:
        averages = [self._average(weight) for weight in weights]
        torch._foreach_lerp_(averages, gradients, 1 - momentum)
        ahead = torch._foreach_lerp(gradients, averages, momentum)
        updates = orthogonal([one.flatten(1) for one in ahead])
        torch._foreach_mul_(updates, [-rate * UPDATE * max(one.shape) ** 0.5 for one in updates])
        torch._foreach_mul_(weights, 1 - rate * decay)
        torch._foreach_add_(weights, [one.view_as(weight) for one, weight in zip(updates, weights, strict=True)])

    def _average(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if "exp_avg" not in state:
            state["exp_avg"] = torch.zeros_like(weight)
        return state["exp_avg"]


def orthogonal(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Each (rows, columns) with all singular values near 1, its singular vectors kept; zeros stay zeros.

    All whose shorter sides are equal go through the iteration together, which spares a GPU launches.
    """
    wide = [one if one.shape[0] <= one.shape[1] else one.mT for one in matrices]
    sides: dict[int, list[int]] = {}
    for index, one in enumerate(wide):
        sides.setdefault(len(one), []).append(index)
    found = list(matrices)
    for indices in sides.values():
        factors = newton_schulz(torch.stack([wide[index] @ wide[index].mT for index in indices]))
        for index, factor in zip(indices, factors.unbind(), strict=True):
            matrix = matrices[index]
            found[index] = factor @ matrix if matrix is wide[index] else matrix @ factor
    return found


def newton_schulz(square: Tensor) -> Tensor:
    """square (n, s, s), the X X^T of some X -> P (n, s, s) such that P X has singular values near 1.

    The iteration is X <- (a + b A + c A^2) X with A = X X^T. Its factors are polynomials of the first A and commute, so
    they are multiplied on this square alone, and X once by the caller: a quarter of the time on a CPU.
    """
    a, b, c = NEWTON_SCHULZ
    scale = 1 / (square.diagonal(dim1=1, dim2=2).sum(1).sqrt() + 1e-12).view(-1, 1, 1)  # 1 over X's Frobenius norm
    square = square * scale.square()
    product = torch.eye(square.shape[1], device=square.device) * scale
    for left in reversed(range(ROUNDS)):
        factor = torch.baddbmm(square, square, square, beta=b, alpha=c)  # without a
        product = torch.baddbmm(product, factor, product, beta=a)
        for _ in range(2 if left else 0):
            square = torch.baddbmm(square, factor, square, beta=a)
    return product
