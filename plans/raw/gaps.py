"""Gaps: labels that some masks lack. Either nobody drew the label there, or the scan does not contain it.

Masks do not show which. A label counts as an *organ* if its volume differs little between the cases that hold it: the
90th percentile is at most `MAX_SPREAD` times the 10th. A case without it was probably not annotated for it. Lesions
differ more. A case without one counts as a case without a lesion, as in nnU-Net.

Of the labels that we measured, organs of the head and neck had 2 to 9. A wrong "not annotated" costs training data. A
wrong "absent" would teach that the organ is background.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from plans.choices import Missing

MAX_SPREAD = 10.0  # of an organ's volume, 90th to 10th percentile
MIN_CASES = 5  # that hold a label, before its volume counts as known


@dataclass(frozen=True)
class LabelGap:
    """A label, and what it means that some masks lack it."""

    name: str
    value: int
    cases: int  # that hold it
    missing: int  # of which it is not known whether somebody looked for it
    median_ml: float | None
    spread: float | None  # 90th to 10th percentile of its volume; None: too few cases
    annotated: bool  # False: a case without it was not annotated for it


def gaps_of(
    labels: Mapping[str, int], volumes: Mapping[str, Mapping[int, float]], missing: Missing = "auto"
) -> tuple[LabelGap, ...]:
    """The gaps of each label.

    Args:
        labels: name -> value.
        volumes: case -> value -> volume in ml. 0: somebody looked for it, and found nothing.
        missing: what a missing label means; auto: see above.
    """
    found = []
    for name, value in labels.items():
        own = [volume[value] for volume in volumes.values() if volume.get(value)]
        missing_in = sum(value not in volume for volume in volumes.values())
        spread = None
        if len(own) >= MIN_CASES:
            low, high = np.percentile(own, (10, 90))
            spread = float(high / low)
        organ = spread is not None and spread <= MAX_SPREAD
        annotated = missing == "absent" or (missing == "auto" and not organ) or not missing_in
        median = float(np.median(own)) if own else None
        found.append(LabelGap(name, value, len(own), missing_in, median, spread, annotated))
    return tuple(found)


def annotated_labels(
    gaps: Sequence[LabelGap], volumes: Mapping[str, Mapping[int, float]]
) -> dict[str, tuple[str, ...]]:
    """The labels that each case was annotated for. Cases that were annotated for all labels are left out."""
    lists = {
        case: tuple(gap.name for gap in gaps if gap.annotated or gap.value in held) for case, held in volumes.items()
    }
    return {case: names for case, names in lists.items() if len(names) < len(gaps)}
