"""The log of a training run: `log.jsonl`, one line per epoch, and its picture `progress.png`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from plans.errors import UserError
from plans.records import Fields, Record, Upgrades, read_text
from textdiffseg.files import write_atomically
from textdiffseg.pictures import add_legend, label_colour, save_figure, shorten, write_plainly

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_LEGEND_LINES = 16  # more would fill the picture
LOSS_NAMES = {  # in progress.png, by their keys in log.jsonl
    "estimate": "predicted mask",
    "reconstruction": "decoded true latent",
    "latent": "noise of the latent",
    "residual": "residual of the latent",
}


def _named_reconstruction(old: Fields) -> Fields:
    """In version 1 the key of `latent_dice` was `reconstruction_dice`."""
    return {"latent_dice" if name == "reconstruction_dice" else name: value for name, value in old.items()}


class EpochLog(Record):
    """Losses and scores of one epoch. Losses are means over its iterations; one that lacks a loss counts as 0."""

    upgrades: ClassVar[Upgrades] = {1: _named_reconstruction, 2: dict}  # version 3 times iterations
    version: Literal[3] = 3
    epoch: int
    iteration: int  # iterations done at its end
    learning_rate: float
    losses: dict[str, float]
    dice: dict[str, float]  # by label: of the mask on the fixed validation patches, averaged weights
    latent_dice: dict[str, float]  # by label: of decoded true latents; empty while no decoder of latents is trained
    seconds: float  # training time so far
    iteration_seconds: float | None = None  # mean of an iteration; None: written by an older version
    data_seconds: float | None = None  # of them, the wait for the batch

    @property
    def mean_dice(self) -> float:
        """The mean Dice over labels; 0 if no validation patch holds a label."""
        return sum(self.dice.values()) / len(self.dice) if self.dice else 0.0


def read_log(path: Path) -> list[EpochLog]:
    """All epochs in the log. `UserError` if the file is damaged."""
    if not path.exists():
        return []
    try:
        lines = enumerate(read_text(path).split("\n"), start=1)
        return [EpochLog.parse_json(line, f"{path}, line {number}") for number, line in lines if line.strip()]
    except UserError as error:
        raise error.with_advice("Delete it: training then resumes without the curve so far.") from None


def write_log(path: Path, epochs: list[EpochLog]) -> None:
    """Replace the log. A run that resumes thus removes the epochs after its checkpoint."""
    write_atomically(path, "".join(epoch.model_dump_json() + "\n" for epoch in epochs))


def draw_progress(path: Path, epochs: Sequence[EpochLog], title: str) -> None:
    """Write progress.png: losses, Dice and learning rate over the epochs."""
    from matplotlib.figure import Figure

    x = [epoch.epoch + 1 for epoch in epochs]
    figure = Figure(figsize=(15, 5.5), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    _draw_dice(left, x, epochs)
    names = list(dict.fromkeys(name for epoch in epochs for name in epoch.losses))
    losses = [middle.plot(x, [epoch.losses.get(name, np.nan) for epoch in epochs], ".-")[0] for name in names]
    middle.set(title="Training losses (lower is better)", ylabel="mean over the epoch", yscale="log")
    _legend_below(middle, dict(zip((LOSS_NAMES.get(name, name) for name in names), losses, strict=True)))
    right.plot(x, [epoch.learning_rate for epoch in epochs], ".-", color="black")
    right.set(title="Learning rate", ylabel="step size of the optimiser")
    for axes in (left, middle, right):
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    done = f"{epochs[-1].iteration:,} iterations in {epochs[-1].seconds / 60:.1f} minutes"
    write_plainly(figure.suptitle(""), f"{shorten(title)}: {done}")
    save_figure(figure, path, dpi=90)


def _draw_dice(axes: "Axes", x: list[int], epochs: Sequence[EpochLog]) -> None:
    """Plot the Dice of each label, and of decoded true latents.

    With many labels, the legend names only the means.
    """
    names = list(epochs[-1].dice)
    lines = {}
    many = len(names) > MAX_LEGEND_LINES
    for position, name in enumerate(names):
        dice = [epoch.dice.get(name, np.nan) for epoch in epochs]
        (line,) = axes.plot(x, dice, ".-", lw=0.6 if many else 1.5, color=label_colour(position))
        if not many:
            lines[name] = line
    if many:
        means = [epoch.mean_dice for epoch in epochs]
        lines[f"mean of {len(names)} labels (thin: each)"] = axes.plot(x, means, ".-", color="black", lw=2.5)[0]
    if epochs[-1].latent_dice:
        means = [float(np.mean(list(epoch.latent_dice.values() or [np.nan]))) for epoch in epochs]
        lines["true masks through the latent (mean)"] = axes.plot(x, means, "--", color="gray")[0]
    axes.set(title="Overlap with the reference (patches of validation cases)", ylabel="Dice (1 is perfect)")
    axes.set_ylim(-0.02, 1.02)
    _legend_below(axes, lines)


def _legend_below(axes: "Axes", lines: Mapping[str, Any]) -> None:
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.13)}
    add_legend(axes, list(lines.values()), map(shorten, lines), fontsize="small", ncols=2, frameon=False, **below)
