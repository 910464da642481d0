"""Mean scores over many cases, and the record of `summary.json`."""

import csv
import io
from collections.abc import Sequence
from typing import ClassVar, Literal

from plans.names import spreadsheet_text
from plans.records import Note, Record, Upgrades
from textdiffseg.evaluation.comparison import Comparison
from textdiffseg.evaluation.lesions import LESION_RULE, LesionScores, mean_over_cases
from textdiffseg.evaluation.means import mean_of_defined
from textdiffseg.evaluation.metrics import (
    BOTH_EMPTY,
    EMPTY_RULE,
    HD95_DEFINITION,
    NSD_DEFINITION,
    PREDICTION_EMPTY,
    REFERENCE_EMPTY,
    CaseScores,
    LabelScores,
    surfaces_available,
)
from textdiffseg.evaluation.raters import GED_RULE, RATER_RULE

COLUMNS = {  # column of the CSV file -> field of `LabelScores`
    "dice": "dice",
    "nsd": "nsd",
    "hd95_mm": "hd95",
    "volume_ml": "volume_ml",
    "reference_ml": "reference_ml",
    "note": "note",
}
RATER_COLUMNS = {"best_dice": "best_dice", "ged2": "ged2"}
LESION_COLUMNS = {  # column of the CSV file -> field of `LesionScores`
    "lesion_dice": "dice",
    "lesion_precision": "precision",
    "lesion_recall": "recall",
    "lesion_f1": "f1",
    "lesions_predicted": "predicted",
    "lesions_reference": "reference",
    "lesions_matched": "matched",
}
NO_SURFACES = "NSD and HD95 were not measured: surface-distance is not installed (pip install surface-distance)."


class MeanScores(Record):
    """Mean scores, each over the cases in which the score is defined."""

    dice: float | None
    nsd: float | None
    hd95: float | None  # mm
    volume_ml: float | None = None
    reference_ml: float | None = None
    scored: int  # cases with a Dice
    both_empty: int  # cases where the label is absent from both masks; left out of the means
    one_empty: int  # cases where only one of the two masks has the label: Dice 0, HD95 undefined
    several: int = 0  # cases with several references
    best_dice: float | None = None  # over these cases: Dice with the nearest reference
    ged2: float | None = None  # over these cases: squared energy distance of samples to the references
    lesions: LesionScores | None = None  # means of the scores, sums of the counts; if they were requested


class Summary(Record):
    """The record of `summary.json`."""

    version: Literal[3] = 3
    upgrades: ClassVar[Upgrades] = {1: dict, 2: dict}  # the new fields have defaults
    tolerance_mm: float
    empty_rule: str = EMPTY_RULE
    nsd_definition: str = NSD_DEFINITION
    hd95_definition: str = HD95_DEFINITION
    rater_rule: str | None = None  # if some cases have several references
    ged_rule: str | None = None  # if samples were compared with them
    lesion_rule: str | None = None  # if lesions were scored
    notes: tuple[Note, ...] = ()
    mean: MeanScores  # over the labels' means; every label has the same weight
    labels: dict[str, MeanScores]
    cases: tuple[CaseScores, ...]
    comparison: Comparison | None = None  # with other segmentations of the same cases


def summarise(cases: Sequence[CaseScores], tolerance_mm: float = 1.0, notes: Sequence[str] = ()) -> Summary:
    """The mean scores of each label over the cases, and the mean of these over the labels.

    Args:
        cases: in any order; the summary sorts them by case id.
        tolerance_mm: of NSD.
        notes: sentences for the user, e.g. about cases that were left out.
    """
    names = dict.fromkeys(name for case in cases for name in case.labels)
    labels = {name: _label_mean([case.labels[name] for case in cases if name in case.labels]) for name in names}
    means = labels.values()
    mean = MeanScores(
        dice=mean_of_defined(label.dice for label in means),
        nsd=mean_of_defined(label.nsd for label in means),
        hd95=mean_of_defined(label.hd95 for label in means),
        scored=sum(label.scored for label in means),
        both_empty=sum(label.both_empty for label in means),
        one_empty=sum(label.one_empty for label in means),
        several=max((label.several for label in means), default=0),
        best_dice=mean_of_defined(label.best_dice for label in means),
        ged2=mean_of_defined(label.ged2 for label in means),
        lesions=mean_over_cases(label.lesions for label in means),
    )
    if not surfaces_available():
        notes = (*notes, NO_SURFACES)
    ordered = tuple(sorted(cases, key=lambda case: case.case))
    return Summary(
        tolerance_mm=tolerance_mm,
        notes=tuple(notes),
        rater_rule=RATER_RULE if mean.several else None,
        ged_rule=GED_RULE if mean.ged2 is not None else None,
        lesion_rule=LESION_RULE if mean.lesions is not None else None,
        mean=mean,
        labels=labels,
        cases=ordered,
    )


def _label_mean(scores: Sequence[LabelScores]) -> MeanScores:
    return MeanScores(
        dice=mean_of_defined(score.dice for score in scores),
        nsd=mean_of_defined(score.nsd for score in scores),
        hd95=mean_of_defined(score.hd95 for score in scores),
        volume_ml=mean_of_defined(score.volume_ml for score in scores),
        reference_ml=mean_of_defined(score.reference_ml for score in scores),
        scored=sum(score.dice is not None for score in scores),
        both_empty=sum(score.note == BOTH_EMPTY for score in scores),
        one_empty=sum(score.note in (PREDICTION_EMPTY, REFERENCE_EMPTY) for score in scores),
        several=sum(bool(score.rater_dice) for score in scores),
        best_dice=mean_of_defined(score.best_dice for score in scores),
        ged2=mean_of_defined(score.ged2 for score in scores),
        lesions=mean_over_cases(score.lesions for score in scores),
    )


def to_csv(summary: Summary) -> str:
    """The scores of all cases as CSV, one row per case and label. An undefined score is an empty cell.

    Scores against several references have columns only if some case has several. So have lesion scores, if requested.
    """
    columns = COLUMNS | (RATER_COLUMNS if summary.mean.several else {})
    lesions = LESION_COLUMNS if summary.mean.lesions is not None else {}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("case", "label", *columns, *lesions))
    for case in summary.cases:
        for name, scores in case.labels.items():
            lesion_scores = (getattr(scores.lesions, field, None) for field in lesions.values())
            texts = spreadsheet_text(case.case), spreadsheet_text(name)
            writer.writerow((*texts, *(getattr(scores, field) for field in columns.values()), *lesion_scores))
    return text.getvalue()
