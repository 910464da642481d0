"""Series whose slices lie in several folders, as exports with a limited number of files per folder make them."""

from collections.abc import Collection, Iterable
from os.path import commonpath
from pathlib import Path

from plans.errors import UserError, listed
from textdiffseg.imaging.sources.dicom.copies import copies_among, refuse_contradictions
from textdiffseg.imaging.sources.dicom.files import DicomFile, folders_in, has_slices, is_slice
from textdiffseg.imaging.sources.dicom.instances import PATIENT_ID, POSITION, Instance, read_instance
from textdiffseg.imaging.sources.dicom.series import group
from textdiffseg.imaging.sources.dicom.stack import stack
from textdiffseg.imaging.sources.streams import Damaged

MAX_PARTS = 100  # folders of one series. Where more have one UID, it identifies nothing, as in some anonymous data
IN_PARTS = "Its slices were read from {count} folders: {names}."
SPLIT = (
    "Slices of series {uid} lie in several folders, and each folder is a scan of its own: {folders}. If they are one "
    "scan, put them into one folder."
)

Key = tuple[str, str, str]
"""The UIDs of a study and a series, and the number of the patient."""


def joined_folders(folders: Collection[Path]) -> dict[Path, tuple[Path, ...]]:
    """Folders whose slices are one scan, by the path that stands for the scan.

    It is the folder above them, if no other slices lie below it. If others do, and the folders lie beside each other,
    it is their first slice. Together the slices must be one regular stack. So copies of a whole scan stay separate
    scans. So do phases, as their positions are the same.

    Args:
        folders: all folders with slices.
    """
    by_key: dict[Key, list[Path]] = {}
    for folder in folders:
        if (key := _first_key(folder)) is not None:
            by_key.setdefault(key, []).append(folder)
    found = {}
    for parts in by_key.values():
        if not 1 < len(parts) <= MAX_PARTS:
            continue
        above = Path(commonpath(parts))
        below = [folder for folder in folders if folder.is_relative_to(above)]
        if above not in parts and below == parts:
            if _are_one_scan(parts):
                found[above] = tuple(parts)
        elif parts_beside(parts[0]) == parts:
            found[_first_slice(parts[0])] = tuple(parts)
    return found


def parts_beside(folder: Path) -> list[Path]:
    """The folders whose slices are one scan with those of a folder, itself included. [] if there are none.

    They lie in the folder above, which has `MAX_PARTS` folders at most. Their first slices belong to one series.
    """
    beside = folders_in(folder.parent)
    parts = _of_same_series(folder, beside) if len(beside) <= MAX_PARTS else []
    return parts if len(parts) > 1 and _are_one_scan(parts) else []


def parts_of(folder: Path, below: Iterable[Path]) -> list[Path]:
    """The folders below a folder that hold the slices of one series. [] if it has own slices, and for several series.

    Only the first slice of each folder is read. `below`: the folder itself and all folders below.
    """
    parts, keys = list[Path](), set[Key | None]()
    for path in below:
        if path == folder and has_slices(path):
            return []
        if not _has_image(path):  # nor a damaged one
            continue
        parts.append(path)
        keys.add(_first_key(path))
        if len(keys) > 1 or None in keys or len(parts) > MAX_PARTS:
            return []
    return parts


def note_on_parts(instances: Collection[Instance]) -> tuple[str, ...]:
    """A note if the slices of a scan, which are files, were read from several folders; else ()."""
    parts = list(dict.fromkeys(Path(instance.source.name).parent for instance in instances))
    if len(parts) == 1:
        return ()
    above = commonpath(parts)
    return (IN_PARTS.format(count=len(parts), names=listed([path.relative_to(above) for path in parts])),)


def beside_with_slices_of(folder: Path) -> list[Path]:
    """The folders beside a folder with slices of its own that hold slices of the same series. [] for other paths."""
    if not folder.is_dir():
        return []
    folder = folder.absolute()
    return [path for path in _of_same_series(folder, folders_in(folder.parent)[:MAX_PARTS]) if path != folder]


def lines_on_split_series(paths: Iterable[Path]) -> list[str]:
    """A line for each series of which several scans hold different slices.

    Scans of the same positions are copies or phases, and have no line.

    Args:
        paths: of the scans: folders, and slices in the place of theirs. Others are left out.
    """
    held: dict[Key, dict[Path, frozenset[str]]] = {}  # the positions of the slices in each folder
    folders = (path if path.is_dir() else path.parent for path in paths if path.is_dir() or is_slice(path))
    for folder in dict.fromkeys(folders):
        for key, positions in _sampled(folder).items():
            held.setdefault(key, {})[folder] = positions
    return [
        SPLIT.format(uid=key[1], folders=listed([f"{path} ({_count(path)} files)" for path in of_series]))
        for key, of_series in held.items()
        if len(set(of_series.values())) > 1
    ]


def _are_one_scan(folders: Iterable[Path]) -> bool:
    """Whether the slices of folders are one regular stack, and no folder has all of them."""
    instances, most = list[Instance](), 0
    try:
        for folder in folders:
            found = [read_instance(DicomFile(path)) for path in sorted(folder.iterdir()) if is_slice(path)]
            own = [instance for instance in found if instance is not None]
            most = max(most, sum(instance.count for instance in own))
            instances += own
        copies = {*copies_among(instances)}
        (series,) = group(one for number, one in enumerate(instances) if number not in copies).values()
        refuse_contradictions(series.instances, "")
        return not series.instances[0].is_localizer and len(stack(series, "").frames) > most
    except (UserError, Damaged, OSError, ValueError):  # ValueError: several series; faults are reported when it is read
        return False


def _sampled(folder: Path) -> dict[Key, frozenset[str]]:
    """The keys of the first and the last slice of a folder, each with the positions of these slices."""
    try:
        paths = sorted(folder.iterdir())
    except OSError:
        return {}
    found: dict[Key, frozenset[str]] = {}
    for instance in (_first_image(paths), _first_image(reversed(paths))):
        if instance is not None and instance.count == 1:
            found[_key(instance)] = found.get(_key(instance), frozenset()) | {instance.text(POSITION)}
    return found


def _count(folder: Path) -> int:
    return sum(map(is_slice, folder.iterdir()))


def _has_image(folder: Path) -> bool:
    """Whether a folder itself holds an image, or a damaged one."""
    try:
        return any(read_instance(DicomFile(path)) for path in sorted(folder.iterdir()) if is_slice(path))
    except UserError:
        return True
    except OSError:
        return False


def _first_key(folder: Path) -> Key | None:
    """The key of the first image in a folder; None if there is none, or if it cannot be read."""
    try:
        first = _first_image(sorted(folder.iterdir()))
    except OSError:
        return None
    return None if first is None else _key(first)


def _of_same_series(folder: Path, folders: Iterable[Path]) -> list[Path]:
    """Those of some folders whose first image belongs to the same series as that of `folder`. [] if it has none."""
    key = _first_key(folder)
    return [] if key is None else [path for path in folders if path == folder or _first_key(path) == key]


def _first_image(paths: Iterable[Path]) -> Instance | None:
    """The first image among some files; None if there is none, or if it cannot be read."""
    try:
        found = (read_instance(DicomFile(path)) for path in paths if is_slice(path))
        return next((instance for instance in found if instance is not None), None)
    except (UserError, OSError):  # reported when it is read
        return None


def _first_slice(folder: Path) -> Path:
    """The first image in a folder that has one."""
    first = _first_image(sorted(folder.iterdir()))
    assert first is not None, f"expected an image in {folder}"
    return Path(first.source.name)


def _key(instance: Instance) -> Key:
    return instance.study, instance.series, instance.text(PATIENT_ID)
