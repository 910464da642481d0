"""`log.jsonl`, one line an epoch, and `progress.png`, drawn from it."""

from io import BytesIO
from pathlib import Path
from typing import Literal

from plans.errors import UserError
from plans.records import Record, read_text
from textdiffseg.files import write_atomically

LEGEND_LINES = 16  # more would crowd the picture out


class EpochLog(Record):
    """What one epoch brought; losses are means over its iterations."""

    version: Literal[1] = 1
    epoch: int
    iteration: int  # iterations done at its end
    learning_rate: float
    losses: dict[str, float]
    dice: dict[str, float]  # by label: one-step estimate on the fixed validation patches, averaged weights
    reconstruction_dice: dict[str, float]  # by label: decoder(z_0) with the skips zeroed; empty for preset unet
    seconds: float  # training time so far

    @property
    def mean_dice(self) -> float:
        """Mean over labels; 0 where no validation patch holds any label."""
        return sum(self.dice.values()) / len(self.dice) if self.dice else 0.0


def read_log(path: Path) -> list[EpochLog]:
    """All epochs logged so far; `UserError` where the file is damaged."""
    if not path.exists():
        return []
    try:
        return [EpochLog.parse_json(line, str(path)) for line in read_text(path).split("\n") if line.strip()]
    except UserError as error:
        advice = "Delete it: training goes on without the curve so far."
        raise UserError(*(f"{line} {advice}" for line in error.lines)) from None


def write_log(path: Path, epochs: list[EpochLog]) -> None:
    """Replace the log; a run that resumes drops the epochs after its checkpoint this way."""
    write_atomically(path, "".join(epoch.model_dump_json() + "\n" for epoch in epochs))


def draw_progress(path: Path, epochs: list[EpochLog], title: str) -> None:
    """Losses, validation Dice and learning rate over the epochs, as one picture."""
    from matplotlib.figure import Figure

    x = [epoch.epoch + 1 for epoch in epochs]
    figure = Figure(figsize=(15, 5), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for name in epochs[-1].losses:
        left.plot(x, [epoch.losses.get(name) for epoch in epochs], label=name)
    left.set(title="training losses", xlabel="epoch", ylabel="mean over the epoch", yscale="log")
    for name in epochs[-1].dice:
        (line,) = middle.plot(x, [epoch.dice.get(name) for epoch in epochs], label=name)
        if name in epochs[-1].reconstruction_dice:
            values = [epoch.reconstruction_dice.get(name) for epoch in epochs]
            middle.plot(x, values, "--", color=line.get_color(), label=f"{name}, latent alone")
    middle.set(title="Dice on fixed validation patches", xlabel="epoch", ylim=(0, 1))
    right.plot(x, [epoch.learning_rate for epoch in epochs], color="black")
    right.set(title=f"learning rate ({epochs[-1].seconds / 60:.1f} min of training)", xlabel="epoch")
    for axes in (left, middle, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        if 0 < len(axes.get_legend_handles_labels()[1]) <= LEGEND_LINES:
            axes.legend(fontsize="x-small", loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2, frameon=False)
    figure.suptitle(title)
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=90)
    write_atomically(path, picture.getvalue())
