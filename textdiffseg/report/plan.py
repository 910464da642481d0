"""The plan with its reasons, and the curves of training."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from plans.plan import Plan
from plans.planning.rules import sizes_text
from textdiffseg.pace import duration
from textdiffseg.pictures import add_legend, label_colour, shorten
from textdiffseg.report.page import Section, element, figure, folded, join, paragraphs, table
from textdiffseg.report.plots import image, new_figure, tidy
from textdiffseg.report.results import FoldResults, PresetResults
from textdiffseg.training.log import LOSS_NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D


def plan_section(plan: Plan) -> Section:
    """The section on the plan."""
    rows = [(decision.name, decision.value, decision.reason) for decision in plan.reasons]
    listed = table(("decision", "value", "reason"), rows, names=3)
    body = (
        paragraphs(
            f"Preset {plan.preset}, planned for a {plan.device.upper()}: patches of {sizes_text(plan.patch)} voxels of "
            f"{sizes_text(plan.spacing)} mm (axes D, H, W), {plan.batch} per iteration."
        ),
        folded("All decisions with their reasons", element("div", listed, class_="reasons")),
    )
    return Section("plan", "Plan", join(body))


def training_section(presets: Sequence[PresetResults]) -> Section | None:
    """The section on training; None if no fold has a log. The first preset is the one of the report."""
    logged = [(preset, [fold for fold in preset.folds if fold.log]) for preset in presets]
    logged = [(preset, folds) for preset, folds in logged if folds]
    if not logged:
        return None
    drawn = new_figure(3.4)
    left, right = drawn.subplots(1, 2)
    lines = [_dice_lines(left, folds, number) for number, (_, folds) in enumerate(logged)]
    add_legend(left, lines, [shorten(preset.name) for preset, _ in logged], fontsize="small", loc="lower right")
    left.set(title="Mean Dice on patches of validation cases", xlabel="minutes of training", ylim=(-0.02, 1.02))
    _draw_losses(right, logged[0][1])
    for axes in (left, right):
        axes.title.set_fontsize(10)
        tidy(axes)
    ends = [fold.log[-1] for fold in logged[0][1]]
    iterations = " to ".join(dict.fromkeys(f"{extreme(end.iteration for end in ends):,}" for extreme in (min, max)))
    times = " to ".join(dict.fromkeys(duration(extreme(end.seconds for end in ends)) for extreme in (min, max)))
    last = ends[-1]
    speed = "" if last.iteration_seconds is None else f" An iteration took {last.iteration_seconds:.2g} s."
    caption = (
        "Left: one line per fold. These Dice values come from patches, and differ a little from the scores of whole "
        f"cases. Right: losses of {logged[0][0].name}. {iterations} iterations per fold, in {times}.{speed}"
    )
    return Section("training", "Training", figure(image(drawn, "Dice and losses during training"), caption))


def _dice_lines(axes: "Axes", folds: Sequence[FoldResults], number: int) -> "Line2D":
    for fold in folds:
        minutes = [epoch.seconds / 60 for epoch in fold.log]
        (line,) = axes.plot(minutes, [epoch.mean_dice for epoch in fold.log], color=label_colour(number), lw=1.5)
    return line


def _draw_losses(axes: "Axes", folds: Sequence[FoldResults]) -> None:
    names = list(dict.fromkeys(name for fold in folds for epoch in fold.log for name in epoch.losses))
    lines = []
    for number, name in enumerate(names):
        for fold in folds:
            values = [epoch.losses.get(name) or np.nan for epoch in fold.log]
            minutes = [epoch.seconds / 60 for epoch in fold.log]
            (line,) = axes.plot(minutes, values, ".-", color=label_colour(number + 2))
        lines.append(line)
    add_legend(axes, lines, [LOSS_NAMES.get(name, name) for name in names], fontsize="small")
    axes.set(title="Training losses", xlabel="minutes of training", yscale="log")
