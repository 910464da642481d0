"""The calibration of the folds: probabilities, intervals of volumes, and the expected Dice."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from textdiffseg.folds.calibration import CalibrationFit
from textdiffseg.folds.expected_dice import KNOTS
from textdiffseg.pictures import Colour, add_legend, label_colour
from textdiffseg.report.page import Html, Section, figure, folded, join, paragraphs, table
from textdiffseg.report.plots import ROW_INCHES, image, name_rows, new_figure, tidy
from textdiffseg.report.results import PresetResults
from textdiffseg.report.scores import UNDEFINED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

TARGET = 0.9  # share of true volumes inside a 90% interval


def calibration_section(preset: PresetResults) -> Section | None:
    """The section on calibration; None if no fold is calibrated."""
    fits = [(fold.name, fit) for fold in preset.folds for fit in (fold.calibration.fits if fold.calibration else ())]
    if not fits:
        return None
    details = (
        _table(fits),
        _curves([(name, fit) for name, fit in fits if fit.expected_dice]),
        _coverage([(name, fit) for name, fit in fits if fit.widening]),
    )
    return Section("calibration", "Calibration", join((paragraphs(_in_words(fits)), folded("Details", *details))))


def _in_words(fits: Sequence[tuple[str, CalibrationFit]]) -> str:
    """What the calibration is worth, for a reader of reports on new scans."""
    held = [share for _, fit in fits if fit.widening for share in fit.widening.coverage_after.values()]
    errors = [fit.expected_dice.error for _, fit in fits if fit.expected_dice]
    sentences = ["How far the estimates for new scans can be trusted, by the validation cases."]
    if errors:
        sentences.append(f"The expected Dice was off by {np.mean(errors):.2f} on average.")
    if held:
        sentences.append(f"The 90% intervals of volumes held the true volume in {np.mean(held):.0%} of the cases.")
    return " ".join(sentences)


def _setting(fit: CalibrationFit) -> str:
    made = "mask in one pass" if fit.steps == 0 else f"samples: {fit.samples} of {fit.steps} steps"
    return f"{made}, mirrored" if fit.mirroring else made


def _table(fits: Sequence[tuple[str, CalibrationFit]]) -> Html:
    rows = []
    for name, fit in fits:
        dice = fit.expected_dice
        before_after = (fit.ece_before, fit.ece_after, fit.brier_before, fit.brier_after)
        error = UNDEFINED if dice is None else f"{dice.error:.3f}"
        factor = UNDEFINED if fit.widening is None else f"{fit.widening.factor:.2f}"
        shares = (f"{value:.3f}" for value in before_after)
        rows.append((name, _setting(fit), str(fit.cases), f"{fit.temperature:.2f}", *shares, factor, error))
    head = ("fold", "predictions", "cases", "temperature", "ECE before", "after", "Brier before", "after")
    explained = (
        "The calibration is fitted on the validation cases. Its scores are cross-fitted: each case is scored with a "
        "fit to other cases. ECE is the mean gap between probability and share of correct voxels near the structures. "
        "ECE and the Brier score are 0 at best. The intervals of volumes are scaled by the factor. The last column is "
        "the mean error of the expected Dice."
    )
    return join((table((*head, "interval factor", "error of expected Dice"), rows, names=2), paragraphs(explained)))


def _curves(fits: Sequence[tuple[str, CalibrationFit]]) -> Html:
    """The curve from soft Dice to expected Dice of each fold, and the threshold of a check."""
    if not fits:
        return Html("")
    drawn = new_figure(3.2)
    axes = drawn.subplots()
    lines, names = [], []
    for position, (name, fit) in enumerate(fits):
        assert fit.expected_dice is not None
        lines.append(axes.plot(KNOTS, fit.expected_dice.curve, color=label_colour(position))[0])
        axes.axhline(fit.expected_dice.threshold, color=label_colour(position), linestyle="--", linewidth=1)
        names.append(f"fold {name}: check below {fit.expected_dice.threshold:.2f}")
    add_legend(axes, lines, names, fontsize="small")
    axes.set(xlabel="soft Dice (from the probabilities alone)", ylabel="expected Dice", xlim=(0, 1), ylim=(0, 1))
    tidy(axes)
    scans, degraded = (sum(getattr(fit.expected_dice, field) for _, fit in fits) for field in ("scans", "degraded"))
    caption = (
        "What a mask is worth, judged without a reference. A mask whose expected Dice lies below the dashed line "
        f"should be checked. Fitted on {scans} predictions, {degraded} of them of degraded scans."
    )
    return figure(image(drawn, "Expected Dice as a function of soft Dice"), caption)


def _coverage(fits: Sequence[tuple[str, CalibrationFit]]) -> Html:
    """The share of true volumes inside the intervals, for each label. Several folds: their mean."""
    if not fits:
        return Html("")
    found = [fit.widening for _, fit in fits if fit.widening]
    names = list(dict.fromkeys(name for one in found for name in one.coverage_after))
    drawn = new_figure(1 + ROW_INCHES * len(names))
    axes = drawn.subplots()
    sets = ([one.coverage_before for one in found], [one.coverage_after for one in found])
    handles = [_dots(axes, one, names, label_colour(position)) for position, one in enumerate(sets)]
    axes.axvline(TARGET, color="gray", linestyle="--", linewidth=1)
    name_rows(axes, names)
    axes.set(xlim=(-0.02, 1.02), xlabel="share of true volumes inside the 90% interval")
    add_legend(axes, handles, ("before calibration", "after"), fontsize="small", loc="lower left")
    tidy(axes, "x")
    caption = "The dashed line is the target. With few cases the shares are rough: each case moves them much."
    return figure(image(drawn, "Coverage of the intervals of volumes"), caption)


def _dots(axes: "Axes", shares: Sequence[dict[str, float]], names: Sequence[str], colour: Colour) -> "Line2D":
    means = [np.mean([one[name] for one in shares if name in one] or [np.nan]) for name in names]
    return axes.plot(means, range(len(names)), "o", color=colour)[0]
