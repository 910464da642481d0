"""The time to predict stored cases: estimated from a few windows, and limited by a deadline."""

import time

from plans.geometry import triple
from textdiffseg.data.store import StoredCase
from textdiffseg.folds.sampling import PredictionSettings
from textdiffseg.inference.predictor import Predictor
from textdiffseg.progress import StepProgress
from textdiffseg.text.bank import TextBank
from textdiffseg.validation.cases import predict_case


class OutOfTime(Exception):
    """The deadline has passed."""


class Deadline:
    """A time limit. It ends a prediction after the group of windows in which it passes."""

    def __init__(self, seconds: float):
        self._seconds, self._began = seconds, time.perf_counter()

    @property
    def left(self) -> float:
        """Seconds that are left; negative after the deadline."""
        return self._seconds - (time.perf_counter() - self._began)

    def limit(self, progress: StepProgress | None) -> StepProgress:
        """A callback that calls `progress`, and raises `OutOfTime` if the deadline has passed before the end."""

        def check(done: float, total: float) -> None:
            if progress:
                progress(done, total)
            if done < total and self.left < 0:
                raise OutOfTime

        return check


def seconds_of(
    predictor: Predictor, case: StoredCase, bank: TextBank, settings: PredictionSettings | None = None
) -> float:
    """The seconds to predict a case, from one timed group of windows. `settings`: other than the predictor's."""
    group = _group_seconds(predictor, case, bank)
    groups = -(-predictor.windows(triple(case.record.shape)) // predictor.room.windows)
    return group * groups * (settings or predictor.settings).passes / predictor.settings.passes


def _group_seconds(predictor: Predictor, case: StoredCase, bank: TextBank) -> float:
    """The seconds of one group of windows, after one group to warm up."""
    for _ in range(2):
        began = time.perf_counter()
        for _ in predict_case(predictor, case, bank, first_window=True):
            pass
    return time.perf_counter() - began
