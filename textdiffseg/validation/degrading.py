"""Predictions of degraded validation scans, to fit the expected Dice.

They show what soft Dice is worth where a mask is poor. Without them, the fit would only see scans like those of the
training.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from textdiffseg.data.store import open_case, read_record
from textdiffseg.degradations import DEGRADATIONS
from textdiffseg.inference.predictor import Predictor
from textdiffseg.progress import StepProgress, share_of_case
from textdiffseg.text.bank import TextBank
from textdiffseg.validation.cases import evenly_spaced, predict_case
from textdiffseg.validation.evidence import MIN_CASES, Evidence
from textdiffseg.validation.timing import Deadline, OutOfTime

DEGRADED_SHARE = 0.25  # of the time in which the validation cases were predicted and scored
MIN_DEGRADED_SECONDS = 2.0  # small scans take less
MAX_DEGRADED_SCANS = 64


def add_degraded(
    evidence: Evidence,
    predictor: Predictor,
    bank: TextBank,
    preprocessed: Path,
    case_ids: Sequence[str],
    deadline: Deadline,
    progress: StepProgress | None = None,
) -> None:
    """Predict degraded scans of the cases in `evidence` and add them, until `deadline`.

    With fewer than `MIN_CASES` cases nothing is fitted, so none is predicted.

    Args:
        evidence: of the cases that were added in the order of `case_ids`.
        predictor: of the fold, with the setting of `evidence`.
        bank: the fold's words.
        preprocessed: the folder of the preprocessed data set.
        case_ids: the validation cases.
        deadline: the time limit. The scan in which it passes is left out.
        progress: called with (scans done, all scans).
    """
    if len(evidence.voxels) < MIN_CASES:
        return
    present = [case_id for case_id in case_ids if read_record(preprocessed, case_id).present]
    drawn = list(pairs(len(present)))
    for done, (index, name) in enumerate(drawn):
        case_progress = deadline.limit(share_of_case(progress, done, len(drawn)))
        if deadline.left < 0:
            break
        case = open_case(preprocessed, present[index], evidence.plan)
        try:
            slabs = predict_case(predictor, case, bank, progress=case_progress, degradation=(name, index))
            evidence.add_degraded(index, slabs, case)
        except OutOfTime:
            break
    if progress and drawn:
        progress(len(drawn), len(drawn))


def pairs(cases: int) -> Iterator[tuple[int, str]]:
    """The index of a case and the name of a degradation, for at most `MAX_DEGRADED_SCANS` scans.

    The first pairs already have different cases of both halves and different degradations.
    """
    names = list(DEGRADATIONS)
    order = evenly_spaced(range(cases), min(cases, MAX_DEGRADED_SCANS))
    for turn in range(min(len(names), MAX_DEGRADED_SCANS // max(1, len(order)))):
        for position, index in enumerate(order):
            yield index, names[(position * 3 + turn) % len(names)]  # 3 and 8 have no common divisor
