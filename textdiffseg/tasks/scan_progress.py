"""The progress of a run over scans, weighted by their windows, and the forecast of its duration."""

from collections.abc import Collection, Mapping
from pathlib import Path

from textdiffseg.inference.memory import shape_on_plan
from textdiffseg.inference.segmenting import PreparedModel
from textdiffseg.pace import Forecast
from textdiffseg.progress import OnProgress, ProgressEvent, Report


class RunProgress:
    """Converts the progress of single scans into the progress of the run."""

    def __init__(
        self,
        prepared: PreparedModel,
        scans: Mapping[str, tuple[Path, ...]],
        complete: Collection[str],
        progress: OnProgress,
        report: Report,
    ):
        """`complete`: the scans that seem to need no work."""
        self._progress, self._cases = progress, list(scans)
        windows = {case: _windows(prepared, paths) for case, paths in scans.items() if case not in complete}
        counts = [count for count in windows.values() if count]
        usual = sum(counts) / len(counts) if counts else 1.0  # for headers without a shape
        self._weights = {case: (windows[case] or usual) if case in windows else 0.0 for case in scans}
        self._total = sum(self._weights.values())
        count = len(windows)
        self._forecast = Forecast(f"Predicting {count} scan{'' if count == 1 else 's'}", report)

    def of(self, case: str) -> OnProgress:
        """The callback for the progress of one scan."""
        number = self._cases.index(case)
        before = sum(self._weights[case] for case in self._cases[:number])

        def within(event: ProgressEvent) -> None:
            count, share = len(self._cases), event.done / event.total
            detail = f"{case}, {number + 1} of {count}"
            if not self._weights[case]:  # it was not complete
                self._progress(ProgressEvent(event.stage, number + share, count, "scan", detail))
                return
            done = before + self._weights[case] * share
            self._progress(ProgressEvent(event.stage, count * done / self._total, count, "scan", detail))
            if event.done:
                self._forecast(done, self._total)

        return within


def _windows(prepared: PreparedModel, paths: tuple[Path, ...]) -> int | None:
    """The number of windows of a scan, from its header; None if the header gives no shape."""
    from textdiffseg.imaging.sources.files import read_geometry

    geometry = read_geometry(paths[0])
    shape = None if geometry is None else shape_on_plan(geometry, prepared.plan)
    return None if shape is None else prepared.mask_predictor.predictor.windows(shape)
