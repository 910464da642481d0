"""What training reports of the time to come: at its start, and where the machine becomes slower."""

from textdiffseg.folds.progress import TrainingProgress
from textdiffseg.pace import MIN_SLOWDOWN, Forecast, Pace, duration
from textdiffseg.progress import Report


class TrainingForecast:
    """Call `update` now and then. A run with a number of epochs takes longer on a slow machine, one with a limit in
    minutes makes fewer iterations."""

    def __init__(self, report: Report):
        self._report, self._pace, self._forecast = report, Pace(), Forecast("The training", report)
        self._planned: tuple[int, float] | None = None  # iterations of the run, and seconds each may take

    def update(self, position: TrainingProgress) -> None:
        """Report what has changed since the last call, where that is worth a word."""
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
        if seconds > MIN_SLOWDOWN * planned:
            fitting = position.iteration + int(left[1] / seconds)
            self._report(
                f"The machine has become slower: an iteration takes {seconds:.3g} s, {planned:.3g} s were planned. "
                f"About {fitting} iterations will fit into {duration(position.limit_seconds)}, not {position.total}."
            )
            self._planned = position.total, seconds
