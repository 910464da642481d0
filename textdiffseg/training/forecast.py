"""Forecasts of the training time: at its start, and when the machine becomes slower."""

from textdiffseg.folds.position import TrainingPosition
from textdiffseg.pace import MIN_CHANGE, Forecast, Pace, duration
from textdiffseg.progress import Report


class TrainingForecast:
    """Reports the time that is left. Call `update` regularly.

    On a slow machine a run takes longer. A run with a time limit has fewer iterations instead.
    """

    def __init__(self, report: Report):
        self._report, self._pace, self._forecast = report, Pace(), Forecast("The training", report)
        self._planned: tuple[int, float] | None = None  # iterations of the run, and planned seconds per iteration

    def update(self, position: TrainingPosition) -> None:
        """Report the forecast if it has changed much since the last report."""
        if position.limit_seconds is None:
            self._forecast(position.iteration, position.total)
            return
        left = position.total - position.iteration, position.limit_seconds - position.seconds
        if min(left) <= 0:
            return
        if self._planned is None or self._planned[0] != position.total:
            self._planned = position.total, left[1] / left[0]
        if not self._pace.measure(position.iteration) or self._pace.seconds is None:
            return
        planned, seconds = self._planned[1], self._pace.seconds
        if seconds > MIN_CHANGE * planned:
            fitting = position.iteration + int(left[1] / seconds)
            self._report(
                f"The machine has become slower: an iteration takes {seconds:.3g} s, {planned:.3g} s were planned. "
                f"About {fitting} iterations will fit into {duration(position.limit_seconds)}, not {position.total}."
            )
            self._planned = position.total, seconds
