"""What the scans of a new data set show: the kinds of their channels, and a few pictures."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path

from plans.errors import UserError
from plans.file_names import picture_file, split_ending
from plans.layout import RawFolder
from plans.planning.rules import scheme_of
from plans.raw.header import IGNORE
from textdiffseg.extras import require
from textdiffseg.imaging.kinds import CT, kind_of
from textdiffseg.imaging.sources.files import read_labels, read_volume
from textdiffseg.tasks.new.cases import TakenCase
from textdiffseg.tasks.new.sources import CaseSource

MAX_SCANS = 8  # whose intensities are read
MAX_PICTURES = 4


def channel_count(cases: Sequence[CaseSource]) -> int:
    """The number of channels in the first scan that can be read; 1 if none can be."""
    for case in cases[:MAX_SCANS]:
        with suppress(UserError):
            return len(read_volume(case.images[:1], series=case.series).array)
    return 1


def guess_channels(taken: Sequence[TakenCase]) -> tuple[str, ...]:
    """The kind of each channel that most of the scans show, with a number where several would be `MRI`.

    Raises `UserError` if no scan can be read.
    """
    found: list[tuple[str, ...]] = []
    fault = UserError("No scan can be read.")
    for case in _spread(taken, MAX_SCANS):
        try:
            found.append(tuple(kind_of(channel) for channel in read_volume(case.images).array))
        except UserError as error:
            fault = error
    if not found:
        raise fault
    return _numbered(Counter(found).most_common(1)[0][0])


def _numbered(kinds: Sequence[str]) -> tuple[str, ...]:
    """The names with numbers: `MRI 1`, `MRI 2`. CT has none, as only the plain name means Hounsfield units."""
    numbers = {kind: count(1) for kind, times in Counter(kinds).items() if times > 1 and kind != CT}
    return tuple(f"{kind} {next(numbers[kind])}" if kind in numbers else kind for kind in kinds)


def usual_ending(taken: Sequence[TakenCase]) -> str:
    """The ending that most scans have."""
    return Counter(split_ending(case.images[0].name)[1] for case in taken).most_common(1)[0][0]


def draw_first_cases(
    taken: Sequence[TakenCase], names: Mapping[str, int], raw: RawFolder, channels: Sequence[str]
) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """The pictures of a few cases with their labels, and notes on pictures that cannot be drawn."""
    try:
        require("report", "Pictures of the masks", "matplotlib")
    except UserError as error:
        return (), error.lines
    from textdiffseg.imaging.planes import draw_planes

    labels = {value: name for name, value in names.items() if name.casefold() != IGNORE}
    pictures, notes = [], list[str]()
    raw.overlays.mkdir(exist_ok=True)
    for case in _spread(taken, MAX_PICTURES):
        try:
            scan = read_volume(case.images)
            mask = read_labels(case.label)
        except UserError as error:
            notes += error.lines
            continue
        path = raw.overlays / picture_file(case.case)
        draw_planes(path, scan, mask.array[0], labels, case.case, scheme_of(channels[0]) == "ct")
        pictures.append(path)
    return tuple(pictures), tuple(notes)


def _spread(taken: Sequence[TakenCase], most: int) -> list[TakenCase]:
    """At most `most` cases, evenly spread."""
    if len(taken) <= most:
        return list(taken)
    return [taken[round(place * (len(taken) - 1) / (most - 1))] for place in range(most)]
