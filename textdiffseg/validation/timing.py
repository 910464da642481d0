"""Time that predictions of stored cases take: known from single windows before, and limited while they run."""

import time

from plans.geometry import triple
from textdiffseg.data.store import StoredCase
from textdiffseg.folds.sampling import Setting, settings_of
from textdiffseg.inference.predictor import Predictor
from textdiffseg.text.bank import TextBank
from textdiffseg.validation.cases import WindowProgress, predict_case


class OutOfTime(Exception):
    """The work has used up its share of the time."""


class Deadline:
    """Ends work that would take longer than it may, at the next window."""

    def __init__(self, seconds: float):
        self._seconds, self._began = seconds, time.perf_counter()

    @property
    def left(self) -> float:
        """Seconds that are left, negative when there are none."""
        return self._seconds - (time.perf_counter() - self._began)

    def follow(self, progress: WindowProgress | None) -> WindowProgress:
        """`progress`, which raises `OutOfTime` once the time is used up before the end."""

        def after(done: float, total: float) -> None:
            if progress:
                progress(done, total)
            if done < total and self.left < 0:
                raise OutOfTime

        return after


def seconds_of(predictor: Predictor, case: StoredCase, bank: TextBank, setting: Setting | None = None) -> float:
    """Seconds to predict a case, from one timed group of windows. `setting`: with another one, by what it costs."""
    group = _group_seconds(predictor, case, bank)
    settings = predictor.settings if setting is None else settings_of(predictor.plan, setting)
    groups = -(-predictor.windows(triple(case.record.shape)) // predictor.batch)
    return group * groups * settings.passes / predictor.settings.passes


def _group_seconds(predictor: Predictor, case: StoredCase, bank: TextBank) -> float:
    """Seconds of one group of windows. The first one is not counted: it warms up."""
    for _ in range(2):
        began = time.perf_counter()
        predict_case(predictor, case, bank, first_window=True)
    return time.perf_counter() - began
