"""The data set in plots: spacing, sizes, intensities and volumes of labels, from the stored fingerprints."""

from collections.abc import Sequence

import numpy as np

from plans.fingerprint import CaseFingerprint, Fingerprint
from plans.plan import Plan
from textdiffseg.pictures import label_colour, shorten, write_plainly
from textdiffseg.report.page import Html, Section, figure, folded, join, notes, paragraphs, table, tiles
from textdiffseg.report.plots import ROW_INCHES, draw_boxes, image, name_rows, new_figure, scale_axis, tidy

AXES = ("z (D)", "y (H)", "x (W)")


def dataset_section(fingerprint: Fingerprint, plan: Plan) -> Section:
    """The section on the data set."""
    cases = fingerprint.cases
    sizes = np.array([case.shape for case in cases]) * fingerprint.spacings()
    middle = " x ".join(f"{size:.0f}" for size in np.median(sizes, axis=0))
    body = join(
        (
            tiles(
                (
                    (str(len(cases)), "training cases"),
                    (str(len(plan.labels)), "labels"),
                    (", ".join(channel.name for channel in plan.channels), "channels"),
                    (f"{middle} mm", "size of a median scan (z, y, x)"),
                )
            ),
            _grids(fingerprint, plan),
            _intensities(fingerprint, plan),
            _volumes(cases, plan),
            _labels_table(cases, plan),
            _notes(fingerprint),
        )
    )
    return Section("data", "Data set", body)


def _notes(fingerprint: Fingerprint) -> Html:
    found = fingerprint.notes()
    return folded(f"{len(found)} notes on the scans", notes(found)) if found else Html("")


def _grids(fingerprint: Fingerprint, plan: Plan) -> Html:
    """Spacings, and sizes on the plan's grid, along each axis."""
    drawn = new_figure(2.6)
    left, right = drawn.subplots(1, 2)
    shapes = np.array([case.shape_at(plan.spacing) for case in fingerprint.cases], dtype=float)
    panels = (
        (left, fingerprint.spacings(), plan.spacing, "Voxel size (mm)", "plan"),
        (right, shapes, plan.patch, "Size on the plan's grid (voxels)", "patch"),
    )
    for axes, values, marks, title, mark in panels:
        draw_boxes(axes, range(3), [*values.T], label_colour(0), 0.8)
        axes.plot(marks, range(3), "D", color=label_colour(1), markersize=7, label=mark)
        name_rows(axes, AXES)
        axes.set_title(title, fontsize=10)
        axes.set_xlim(left=0)
        axes.legend(fontsize="small", loc="best")
        tidy(axes, "x")
    caption = (
        "Each dot is a case. A box holds the middle half of the cases, and its thick line is the median. The diamonds "
        "are the voxel size to which all cases are resampled, and the patch that the network sees at once."
    )
    return figure(image(drawn, "Box plots of voxel sizes and of sizes along each axis"), caption)


def _intensities(fingerprint: Fingerprint, plan: Plan) -> Html:
    drawn = new_figure(2.6)
    panels = drawn.subplots(1, len(plan.channels), squeeze=False)[0]
    for number, (axes, channel) in enumerate(zip(panels, plan.channels, strict=True)):
        values = fingerprint.intensities(number)
        if len(values):
            axes.hist(values, bins=80, range=_middle(values), color=label_colour(0), alpha=0.75)
        if channel.scheme == "ct":
            for edge in (channel.low, channel.high):
                axes.axvline(edge, color=label_colour(1), linestyle="--")
        axes.set_yticks([])
        unit = "HU" if channel.scheme == "ct" else "the files' own units"
        write_plainly(axes.set_xlabel(""), f"{shorten(channel.name)} ({unit})")
        tidy(axes, "x")
    clipped = " The dashed lines are the limits at which the plan clips." if _has_ct(plan) else ""
    caption = f"Intensities of a random sample of labelled voxels, all cases together, without far values.{clipped}"
    return figure(image(drawn, "Histograms of intensities"), caption)


def _middle(values: np.ndarray) -> tuple[float, float]:
    """A range without the few values that lie far from the others."""
    first, median, third = np.percentile(values, (25, 50, 75))
    reach = 5 * max(third - first, 1e-6)
    return max(float(values.min()), median - reach), min(float(values.max()), median + reach)


def _has_ct(plan: Plan) -> bool:
    return any(channel.scheme == "ct" for channel in plan.channels)


def _by_label(cases: Sequence[CaseFingerprint], plan: Plan, field: str) -> list[np.ndarray]:
    """The values of a field of `LabelFingerprint` for each label, over the cases that have it."""
    found: list[list[float]] = [[] for _ in plan.labels]
    for case in cases:
        for label in case.labels:
            found[label.label - 1].append(getattr(label, field))
    return [np.array(values) for values in found]


def _volumes(cases: Sequence[CaseFingerprint], plan: Plan) -> Html:
    names, volumes = [label.name for label in plan.labels], _by_label(cases, plan, "volume_mm3")
    drawn = new_figure(1 + ROW_INCHES * len(names))
    axes = drawn.subplots()
    for row, one in enumerate(volumes):
        draw_boxes(axes, [row], [one / 1000], label_colour(row), 0.8)
    name_rows(axes, names)
    axes.set_xlabel(f"volume (ml){scale_axis(axes, 'x', np.concatenate(volumes) / 1000)}")
    tidy(axes, "x")
    return figure(image(drawn, "Box plots of the volume of each label"), "Volume of each label. Each dot is a case.")


def _labels_table(cases: Sequence[CaseFingerprint], plan: Plan) -> Html:
    found = zip(plan.labels, _by_label(cases, plan, "volume_mm3"), _by_label(cases, plan, "thickness_mm"), strict=True)
    rows = [
        (label.name, f"{len(volumes)} of {len(cases)}", *_median(volumes / 1000), _median(thickness)[0])
        for label, volumes, thickness in found
    ]
    head = ("label", "in cases", "median volume (ml)", "middle half (ml)", "median thickness (mm)")
    return join((table(head, rows), paragraphs("A label that is in few cases is learned from few examples.")))


def _median(values: np.ndarray) -> tuple[str, str]:
    """The median and the range of the middle half, as text."""
    if not len(values):
        return "-", "-"
    low, middle, high = np.percentile(values, (25, 50, 75))
    return f"{middle:.3g}", f"{low:.3g} to {high:.3g}"
