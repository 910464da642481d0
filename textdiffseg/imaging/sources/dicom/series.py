"""The series of a folder or a zip, and the choice of one of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

from plans.errors import UserError, listed, printable
from textdiffseg.imaging.sources.dicom.instances import MODALITY, SERIES_NUMBER, Frame, Instance


@dataclass(frozen=True)
class Series:
    """The images of one series, without localizers."""

    uid: str
    instances: tuple[Instance, ...]

    @property
    def frames(self) -> tuple[Frame, ...]:
        """All frames, in the order of the files."""
        return tuple(frame for instance in self.instances for frame in instance.frames)

    @property
    def voxels(self) -> int:
        """The number of voxels."""
        return sum(instance.count * prod(instance.shape) for instance in self.instances)

    @property
    def slices(self) -> int:
        """The number of slices."""
        return sum(instance.count for instance in self.instances)

    def describe(self) -> str:
        """The series in words, without data on the patient. Free texts are left out, as they may hold such data."""
        first, uid = self.instances[0], printable(self.uid, 200)
        number, (rows, columns) = first.text(SERIES_NUMBER), first.shape
        words = [first.text(MODALITY)[:16], *([f"number {number[:12]}"] if number else [])]
        shown = printable(", ".join([*words, f"{self.slices} slices of {columns}x{rows}"]))
        return f"{uid or 'without UID'} ({shown})"


@dataclass(frozen=True)
class Choice:
    """The series that is read, and notes for the user."""

    series: Series
    notes: tuple[str, ...]


def group(instances: Iterable[Instance]) -> dict[str, Series]:
    """The series by UID. Localizers are left out, unless a series has nothing else."""
    by_uid: dict[str, list[Instance]] = {}
    for instance in instances:
        by_uid.setdefault(instance.series, []).append(instance)
    series = {}
    for uid, of_series in sorted(by_uid.items()):
        scans = [instance for instance in of_series if not instance.is_localizer]
        series[uid] = Series(uid, tuple(scans or of_series))
    return series


def choose(instances: Sequence[Instance], source: str, uid: str | None = None) -> Choice:
    """The series `uid`, by default the largest one that can be a 3D image. Notes name the others.

    `source` is the folder in messages. Raises `UserError` if there is none.
    """
    series = group(instances)
    if uid is not None and uid not in series:
        raise UserError(f"{source}: no series {uid!r:.80}. Choose one of {described(series.values())}.")
    scouts = [candidate for candidate in series.values() if candidate.instances[0].is_localizer]
    whole = [candidate for candidate in series.values() if candidate not in scouts]
    if uid is None and not whole:
        raise UserError(f"{source}: it holds localizers only, on which scans are planned. Give the slices of the scan.")
    chosen = series[uid] if uid is not None else max(whole, key=_rank)
    others = [candidate for candidate in whole if candidate is not chosen]
    notes = []
    if others and uid is None:
        notes.append(
            f"Its largest series was read, {chosen.describe()}. Others: {described(others)}. --series chooses by UID."
        )
    if others and uid is not None:
        notes.append(f"The series that was chosen was read, {chosen.describe()}. Others: {described(others)}.")
    localizers, kept = (sum(instance.is_localizer for instance in some) for some in (instances, chosen.instances))
    left_out = localizers - kept
    if left_out:
        notes.append(f"Localizers were left out: {left_out}.")
    return Choice(chosen, tuple(notes))


def described(series: Iterable[Series]) -> str:
    """The series in words, the largest first."""
    return listed([scan.describe() for scan in sorted(series, key=_rank, reverse=True)])


def _rank(series: Series) -> tuple[bool, int, float]:
    """3D images first, then by size, then by number: the lowest is the most."""
    first, number = series.instances[0], series.instances[0].text(SERIES_NUMBER)
    in_space = series.slices > 1 and all(
        frame.position is not None and frame.orientation is not None for frame in first.frames
    )
    return in_space, series.voxels, -float(number) if number.isdecimal() else float("-inf")
