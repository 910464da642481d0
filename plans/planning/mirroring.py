"""Which axes training samples and predictions are mirrored along, and the reason."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from plans.choices import Preset
from plans.geometry import AXIS_NAMES
from plans.plan import Decision, LabelPlan
from plans.planning.recipes import RECIPES
from plans.raw.directions import named_axes
from plans.raw.prompts import Prompts, names_sides

Axis = Literal[0, 1, 2]
AXES: tuple[Axis, ...] = (0, 1, 2)


@dataclass(frozen=True)
class Mirroring:
    """The axes of a plan."""

    axes: tuple[Axis, ...]  # of all samples, and of predictions
    text_axes: tuple[Axis, ...]  # of samples that do not read their case's text
    row: Decision  # of the table of reasons


def mirroring_of(
    labels: Sequence[LabelPlan], prompts: Prompts | None, texts: Collection[str], preset: Preset, wanted: bool
) -> Mirroring:
    """The axes for a data set. The presets of the publication mirror in any case, others if it is `wanted`.

    Without mirroring, networks learn faster: scans have one orientation (docs/method.md). With it, axis W is left out
    if labels or phrasings name sides. Each axis is left out whose directions a case's text names. In both cases,
    samples that do not read their text are mirrored there: otherwise the network remembers what texts say.
    """
    phrases = [phrase for label in (prompts.labels.values() if prompts else ()) for phrase in label]
    sided = names_sides([label.name for label in labels]) or names_sides(phrases)
    directed = named_axes(texts if RECIPES[preset].reads_words else ())
    able = tuple(axis for axis in AXES if not (axis == 2 and sided))
    text_axes = tuple(axis for axis in able if axis in directed)
    reasons = []
    if wanted or RECIPES[preset].paper is not None:
        axes = tuple(axis for axis in able if axis not in directed)
        if sided:
            reasons.append("two labels differ by left and right, so the left-right axis W is left out")
    else:
        axes = ()
        reasons.append("networks learn faster without, as all scans are brought to one orientation (--mirroring)")
    if directed:
        left_out = ", ".join(AXIS_NAMES[axis] for axis in directed)
        reasons.append(
            f"texts of cases name directions along {left_out}, which mirroring would reverse; samples without text are "
            "mirrored there"
        )
    reason = "; ".join(reasons) or "no two labels differ by left and right alone"
    value = ", ".join(AXIS_NAMES[axis] for axis in axes) or "none"
    return Mirroring(axes, text_axes, Decision(name="mirroring", value=value, reason=reason))
