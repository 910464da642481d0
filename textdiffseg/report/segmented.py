"""The sections on segmented scans without references: what to check first, and volumes with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from textdiffseg.folds.expected_dice import ExpectedDice
from textdiffseg.inference.volumes import VolumeInterval
from textdiffseg.pictures import label_colour, shorten, write_plainly
from textdiffseg.report.page import Html, Section, figure, folded, join, notes, paragraphs, table, tiles
from textdiffseg.report.plots import image, new_figure, tidy
from textdiffseg.report.scores import UNDEFINED, number

COLUMNS = 3  # plots beside each other


@dataclass(frozen=True)
class SegmentedScan:
    """What a prediction has noted about a scan."""

    name: str
    volumes: tuple[VolumeInterval, ...]
    expected: ExpectedDice | None
    notes: tuple[str, ...]

    @property
    def is_empty(self) -> bool:
        """Whether no label was found."""
        return not any(volume.volume_ml for volume in self.volumes)

    @property
    def order(self) -> tuple[float, str]:
        """The place in the list of scans to check: empty masks, then a low expected Dice, then unknown ones."""
        mean = None if self.expected is None else self.expected.mean
        return (-1.0 if self.is_empty else 2.0 if mean is None else mean), self.name

    @property
    def advice(self) -> str:
        """Why the mask should be checked, or an empty text."""
        if self.is_empty:
            return "The mask is empty."
        if self.expected is None:
            return ""
        if self.expected.note:
            return self.expected.note
        poor = [f"{name} (expected Dice {self.expected.labels[name]:.2f})" for name in self.expected.poor_labels]
        return f"Check {', '.join(poor)}." if poor else ""


def check_section(scans: Sequence[SegmentedScan]) -> Section:
    """The section on what to check first. `scans` are in this order."""
    urgent = [scan for scan in scans if scan.advice]
    known = [scan.expected.mean for scan in scans if scan.expected and scan.expected.mean is not None]
    numbers = [(str(len(scans)), "scans"), (str(len(urgent)), "to check first")]
    if known:
        numbers.append((f"{np.mean(known):.2f}", "mean expected Dice"))
    rows = [
        (scan.name, scan.advice or UNDEFINED, number(scan.expected.mean if scan.expected else None, 2))
        for scan in scans
    ]
    unknown = [] if known else ["The expected Dice is not known: the model was not calibrated for these settings."]
    remarks = list(dict.fromkeys(f"{scan.name}: {note}" for scan in scans for note in scan.notes))
    body = (
        tiles(numbers),
        paragraphs(
            "The expected Dice estimates, without a reference, how well the mask agrees with an expert's. Look at the "
            "first rows first."
        ),
        notes(unknown),
        table(("scan", "advice", "expected Dice"), rows, names=2),
        folded(f"{len(remarks)} notes on the scans", notes(remarks)) if remarks else Html(""),
    )
    return Section("check", "What to check first", join(body))


def volumes_section(scans: Sequence[SegmentedScan]) -> Section:
    """The section on volumes. `scans` are in the order of the check."""
    names = list(dict.fromkeys(volume.label for scan in scans for volume in scan.volumes))
    rows = []
    for scan in scans:
        expected = {} if scan.expected is None else scan.expected.labels
        for volume in scan.volumes:
            interval = UNDEFINED
            if volume.low_ml is not None and volume.high_ml is not None:
                interval = f"{volume.low_ml:.2f} to {volume.high_ml:.2f}"
            dice = number(expected.get(volume.label), 2)
            rows.append((scan.name, volume.label, f"{volume.volume_ml:.2f}", interval, dice))
    head = ("scan", "label", "volume (ml)", "90% interval (ml)", "expected Dice")
    caption = (
        "Each dot is a scan, in the order of the list above; the line is the 90% interval of its volume. A long line "
        "is an uncertain volume. A dot far from the others is worth a look."
    )
    body = (figure(_plot(scans, names), caption), folded(f"Table of {len(rows)} volumes", table(head, rows, names=2)))
    return Section("volumes", "Volumes", join(body))


def _plot(scans: Sequence[SegmentedScan], names: Sequence[str]) -> Html:
    """One small plot per label: volumes and intervals of all scans."""
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in names}
    for place, scan in enumerate(scans):
        for volume in scan.volumes:
            interval = (np.nan, np.nan)
            if volume.low_ml is not None and volume.high_ml is not None:
                interval = (volume.low_ml, volume.high_ml)
            found[volume.label].append((place, volume.volume_ml, *interval))
    rows = -(-len(names) // COLUMNS)
    drawn = new_figure(2.1 * rows + 0.3)
    panels = drawn.subplots(rows, COLUMNS, squeeze=False).ravel()
    for position, (axes, name) in enumerate(zip(panels, names, strict=False)):
        colour = label_colour(position)
        places, volumes, lows, highs = np.array(found[name]).T
        axes.plot(places, volumes, "o", color=colour, markersize=4)
        axes.vlines(places, lows, highs, color=colour, linewidth=1.6, alpha=0.7)
        write_plainly(axes.set_title("", fontsize=9), shorten(name))
        axes.set(ylim=(0, None), xlim=(-0.6, len(scans) - 0.4), xticks=[], ylabel="ml")
        tidy(axes, "y")
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    return image(drawn, "Volumes of each label with intervals")
