"""The validation cases: the worst, the median and the best as pictures, and all of them as a table."""

from collections.abc import Sequence

from textdiffseg.evaluation.metrics import BOTH_EMPTY, CaseScores
from textdiffseg.report.page import Html, folded, table
from textdiffseg.report.scores import UNDEFINED, number

CHOSEN = ("Worst case", "Median case", "Best case")


def by_dice(cases: Sequence[CaseScores]) -> list[CaseScores]:
    """The cases with a mean Dice, the lowest first."""
    scored = [(case.mean_dice, case.case, case) for case in cases if case.mean_dice is not None]
    return [case for *_, case in sorted(scored, key=lambda scored_case: scored_case[:2])]


def chosen(cases: Sequence[CaseScores]) -> dict[str, CaseScores]:
    """The worst, the median and the best case, by these names. Two cases have no median, one is the worst."""
    ordered = by_dice(cases)
    if len(ordered) < len(CHOSEN):
        return dict(zip((CHOSEN[0], CHOSEN[-1]), ordered, strict=False))
    return dict(zip(CHOSEN, (ordered[0], ordered[len(ordered) // 2], ordered[-1]), strict=True))


def sentence(case: CaseScores) -> str:
    """The scores of a chosen case."""
    defined = [(one.dice, label) for label, one in case.labels.items() if one.dice is not None]
    shown = ", ".join(f"{label} {dice:.2f}" for dice, label in sorted(defined)[:8])
    more = f" and {len(defined) - 8} more" if len(defined) > 8 else ""
    return f"Mean Dice {number(case.mean_dice)}. Lowest label first: {shown}{more}."


def cases_table(cases: Sequence[CaseScores]) -> Html:
    """All cases, the lowest mean Dice first, with their lowest label and what one of the masks lacks."""
    ordered = by_dice(cases)
    rows = []
    for case in ordered:
        dice, label = min((one.dice, label) for label, one in case.labels.items() if one.dice is not None)
        remarks = (f"{label} {one.note}" for label, one in case.labels.items() if one.note not in ("", BOTH_EMPTY))
        rows.append((case.case, label, "; ".join(remarks) or UNDEFINED, number(case.mean_dice), number(dice)))
    head = ("case", "lowest label", "remarks", "mean Dice", "its Dice")
    return folded(f"All {len(rows)} cases, the lowest Dice first", table(head, rows, names=3))
