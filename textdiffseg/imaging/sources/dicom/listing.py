"""The scans among DICOM files. Listing reads the first kB of a few files, never pixels."""

from collections.abc import Mapping
from pathlib import Path

from plans.errors import UserError, listed
from plans.file_names import is_archive_name, is_slice_name
from plans.raw.dataset import MAX_ID_BYTES
from textdiffseg.files import hash_text
from textdiffseg.imaging.sources.dicom.files import DicomFile, is_slice, with_folders_below
from textdiffseg.imaging.sources.dicom.instances import Instance, read_instance
from textdiffseg.imaging.sources.dicom.parts import joined_folders
from textdiffseg.imaging.sources.dicom.reading import has_series, largest_series, series_in
from textdiffseg.imaging.sources.dicom.series import Series, described

_HASH_LETTERS = 8
_MAX_LETTERS = 100  # of an id that would be too long


def scans_of_slices(folder: Path, beside_scans: bool) -> list[tuple[str, Path]]:
    """The scans of DICOM slices in a folder and in all folders below: (id, folder or file).

    The id is the folder's path below `folder`, with _ between its parts. Multi-frame files of several studies in one
    folder are one scan each. Folders that hold the slices of one series are one scan, if these are a regular stack. It
    is then the folder above them, or their first slice if others lie below that folder, too. A folder that only has
    localizers and colour pictures, such as dose reports, is left out unless there is nothing else.

    Args:
        folder: to search.
        beside_scans: whether the folder itself holds other scans. Each series of its slices is then one scan, given by
            its first slice.
    """
    found, aside = list[tuple[str, Path]](), list[tuple[str, Path]]()
    folders = [path for path in with_folders_below(folder) if has_series(path)]
    joined = joined_folders(folders)
    above = {part: path for path, parts in joined.items() for part in parts}
    for path in dict.fromkeys(above.get(path, path) for path in folders):
        if path == folder and beside_scans and path not in joined:
            found += _loose_series(folder)
            continue
        place = place_of(path)
        case = "" if place == folder else _id_of(place.relative_to(folder))
        if path in joined:
            found.append((case or folder.resolve().name, path))
            continue
        scans = _of_one_folder(path, case)
        (aside if _has_no_scan(path) else found).extend(scans)
    return found or aside


def place_of(scan: Path) -> Path:
    """The folder of a slice that stands for its scan; else the path itself, of a folder or a multi-frame file."""
    if scan.is_dir():
        return scan
    try:
        instance = read_instance(DicomFile(scan))
    except UserError:  # reported when it is read
        return scan
    return scan.parent if instance is not None and instance.count == 1 else scan


def scan_of_slice(file: Path) -> str:
    """The id of the scan of a DICOM file: its folder's name for a slice, its own name for a multi-frame file."""
    return _stem(file) if place_of(file) == file else file.resolve().parent.name


def first_slices_of(uid: str, scans: Mapping[str, tuple[Path, ...]], folder: Path) -> dict[str, tuple[Path, ...]]:
    """The scans that hold a series, each given by its first slice. Raises `UserError` if no scan does.

    A multi-frame file is read alone. So a series of several such files is given by its folder.

    If a scan holds several series, the UID is added to its id. So no series replaces the masks of another one.
    """
    found, others = dict[str, tuple[Path, ...]](), list[str]()
    for case, (path, *_) in scans.items():
        if not (path.is_dir() or is_archive_name(path.name) or is_slice(path)):
            continue
        series = series_in(path)
        if uid not in series:
            others += [described(series.values())]
            continue
        if is_archive_name(path.name):
            raise UserError(f"{path} holds series {uid}. A series cannot be chosen in a zip: unpack it.")
        found[case if len(series) == 1 else _shortened(f"{case}_{uid}")] = (_path_of(series[uid], path),)
    if not found:
        advice = f"Found: {listed(others)}." if others else "It holds no DICOM series, so leave the UID out."
        raise UserError(f"{folder}: no series {uid!r:.80}. {advice}")
    return found


def _path_of(series: Series, source: Path) -> Path:
    """What stands for a series: its first slice, its multi-frame file, or the folder of its multi-frame files."""
    first = Path(series.instances[0].source.name)
    if any(Path(instance.source.name).parent != first.parent for instance in series.instances):
        return source  # above the folders of its slices
    if len(series.instances) == 1 or all(instance.count == 1 for instance in series.instances):
        return first
    if source.is_dir() and largest_series(source) != series.uid:
        raise UserError(
            f"{source}: series {series.uid} has several multi-frame files, beside a larger series. Put them into a "
            "folder of their own, and give that folder."
        )
    return source


def _has_no_scan(folder: Path) -> bool:
    """Whether all slices of a folder are localizers or colour pictures. Another slice ends the search."""
    try:
        instances = (read_instance(DicomFile(path)) for path in sorted(folder.iterdir()) if is_slice(path))
        return all(one is not None and (one.is_localizer or one.is_colour) for one in instances)
    except (UserError, OSError):  # reported when the folder is read
        return False


def _of_one_folder(folder: Path, case: str) -> list[tuple[str, Path]]:
    name = case or folder.resolve().name
    try:
        apart = _multi_frame_studies(folder)
    except (UserError, OSError):  # reported when the folder is read
        return [(name, folder)]
    return [(f"{case}_{_stem(path)}" if case else _stem(path), path) for path in apart] or [(name, folder)]


def _multi_frame_studies(folder: Path) -> list[Path]:
    """The files of a folder, if they are multi-frame files of several studies, else none."""
    found: list[Instance] = []
    for path in sorted(folder.iterdir()):
        instance = read_instance(DicomFile(path)) if is_slice(path) else None
        if instance is not None and instance.count == 1:
            return []
        found += [instance] if instance is not None else []
    several = len({instance.study for instance in found}) > 1
    return [Path(instance.source.name) for instance in found] if several else []


def _loose_series(folder: Path) -> list[tuple[str, Path]]:
    name = folder.resolve().name
    try:
        series = [one for one in series_in(folder).values() if not one.instances[0].is_localizer]
    except UserError:  # reported when the slice is read
        return [(name, next(path for path in sorted(folder.iterdir()) if is_slice(path)))]
    paths = [Path(one.instances[0].source.name) for one in series]
    return [(name if len(paths) == 1 else f"{name}_series{number}", path) for number, path in enumerate(paths, start=1)]


def _id_of(path: Path) -> str:
    """The id of a folder, by its relative path."""
    return _shortened("_".join(path.parts))


def _shortened(case: str) -> str:
    """The id itself. A long one is cut, with a hash of the whole."""
    if len(case.encode(errors="replace")) <= MAX_ID_BYTES:
        return case
    return f"{case[:_MAX_LETTERS]}_{hash_text(case)[:_HASH_LETTERS]}"


def _stem(file: Path) -> str:
    return file.stem if is_slice_name(file.name) else file.name
