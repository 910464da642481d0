"""The files of each case for a new data set: found in two folders, or listed in a CSV file."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from plans.errors import UserError, listed
from plans.file_names import FILE_ENDINGS, is_archive_name, split_ending
from plans.raw.pair_list import read_pairs
from plans.raw.pairing import is_mask_name, pair
from textdiffseg.imaging.sources.dicom import series_in
from textdiffseg.imaging.sources.dicom.drawings import Drawing, drawing_kind, read_drawing
from textdiffseg.imaging.sources.dicom.files import with_folders_below
from textdiffseg.imaging.sources.dicom.listing import place_of, scans_of_slices
from textdiffseg.imaging.sources.dicom.parts import lines_on_split_series
from textdiffseg.imaging.sources.nrrd import segment_values
from textdiffseg.imaging.sources.unread import unread_images, unread_line

MAX_SHOWN = 3  # names in an error


@dataclass(frozen=True)
class CaseSource:
    """The files of a case."""

    case: str
    images: tuple[Path, ...]  # one per channel, or one with all channels; a folder of DICOM slices
    mask: Path
    drawing: Drawing | None = None  # if the mask is a DICOM object
    structure_files: Mapping[str, Path] = field(default_factory=dict)  # if each structure has a file: its name -> file
    segments: tuple[tuple[str, int], ...] = ()  # if the mask's file names them: names and values

    @property
    def is_joined(self) -> bool:
        """Whether the mask is joined from structures with names. If not, it is a label map."""
        return self.drawing is not None or bool(self.structure_files) or bool(self.segments)

    @property
    def mask_files(self) -> set[Path]:
        """The mask, or the files of all structures."""
        return {self.mask, *self.structure_files.values()}

    @property
    def series(self) -> str | None:
        """UID of the DICOM series on which the mask was drawn."""
        return self.drawing.series if self.drawing is not None and self.images[0].is_dir() else None


@dataclass(frozen=True)
class Sources:
    """The cases, and lines on files that belong to none."""

    cases: tuple[CaseSource, ...]
    images: tuple[str, ...] = ()  # without a mask
    masks: tuple[str, ...] = ()  # without a scan
    doubtful: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()  # lines on images and archives that are not read


def listed_sources(path: Path) -> Sources:
    """The cases that a CSV file lists."""
    rows = read_pairs(path)
    cases = (CaseSource(row.case, row.images, row.mask, _drawing(row.mask)) for row in rows)
    split = lines_on_split_series(sorted({image for row in rows for image in row.images}))
    return Sources(tuple(map(_with_segments, cases)), doubtful=tuple(split))


def found_sources(images: Path, masks: Path) -> Sources:
    """The cases of two folders, which may be the same one. Raises `UserError` if no scan has a mask."""
    for folder, what in ((images, "scans"), (masks, "masks")):
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder. Give the folder of the {what}, or one CSV file for both.")
    files = {folder: _files(folder) for folder in (images, masks)}
    (scans, twice), (drawn, also) = _scans(images, files[images]), _masks(masks, files[masks])
    scans = {name: path for name, path in scans.items() if name not in twice}
    unread = _unread(list(dict.fromkeys((*files[images], *files[masks]))))
    if same := images.resolve() == masks.resolve():
        scans = {name: path for name, path in scans.items() if not is_mask_name(name)}
        drawn = {name: path for name, path in drawn.items() if is_mask_name(name) or drawing_kind(path)}
    for folder, names, what in ((images, scans, "scan"), (masks, drawn, "mask")):
        if not names:
            advice = "In a folder of both, masks have a word such as _seg or _mask in their names. " if same else ""
            raise UserError(
                f"{folder} holds no {what}. {advice}Expected files that end with {', '.join(FILE_ENDINGS)}, or DICOM"
                + (" slices." if what == "scan" else " segmentations or structure sets."),
                *unread,
            )
    drawings, damaged = _drawings(drawn)
    drawn = {name: path for name, path in drawn.items() if name not in damaged}
    pairing = pair(scans, drawn, _by_series(drawings, scans))
    doubtful = (*dict.fromkeys((*twice.values(), *also.values())), *damaged.values(), *_crowded(drawings))
    doubtful = (*doubtful, *pairing.doubtful, *lines_on_split_series(sorted(scans.values())))
    found = Sources((), pairing.images, pairing.masks, doubtful, unread)
    if (parts := _parts(scans, drawn)) and len(parts.cases) > len(pairing.pairs):
        found = replace(parts, doubtful=(*doubtful, *parts.doubtful), unread=unread)
    else:
        for matched in pairing.pairs:
            channels = tuple(scans[name] for name in matched.images)
            case = CaseSource(matched.case, channels, drawn[matched.mask], drawings.get(matched.mask))
            found = replace(found, cases=(*found.cases, _with_segments(case)))
    doubled = {drawn[name] for name in also if name in drawn}  # which of two files is right is not known
    found = replace(found, cases=tuple(case for case in found.cases if not doubled & case.mask_files))
    if not found.cases:
        raise UserError(_without_pairs(images, scans, masks, drawn, found.doubtful))
    return found


def _unread(files: Sequence[Path]) -> tuple[str, ...]:
    """Lines on images and archives that are not read, and on zips."""
    others = unread_images([path for path in files if not is_archive_name(path.name)])
    zips = (f"{path}: zips are not read here. Unpack it." for path in files if is_archive_name(path.name))
    return (*map(unread_line, others), *zips)


def _parts(scans: Mapping[str, Path], drawn: Mapping[str, Path]) -> Sources | None:
    """The cases if each has a folder with one mask per structure: `patient1/liver`, `patient1/spleen`, ...

    None if no scan belongs to such a folder, if no structure is in two of them, or if most of them hold a single mask.
    """
    folders: dict[str, dict[str, Path]] = {}
    for name, path in drawn.items():
        folder, _, structure = name.rpartition("/")
        if split_ending(path.name)[1] and folder:
            folders.setdefault(folder, {})[" ".join(structure.replace("_", " ").split())] = path
    pairing = pair(scans, folders)
    names = [structure for matched in pairing.pairs for structure in folders[matched.mask]]
    single = [matched for matched in pairing.pairs if len(folders[matched.mask]) == 1]
    if len(set(names)) == len(names) or 2 * len(single) > len(pairing.pairs):
        return None
    cases = tuple(
        CaseSource(
            matched.case,
            tuple(scans[name] for name in matched.images),
            next(iter(folders[matched.mask].values())).parent,
            structure_files=folders[matched.mask],
        )
        for matched in pairing.pairs
    )
    return Sources(cases, pairing.images, pairing.masks, pairing.doubtful)


def _with_segments(source: CaseSource) -> CaseSource:
    """The case with the names that 3D Slicer wrote into its mask (`.seg.nrrd`)."""
    if source.mask.is_file() and split_ending(source.mask.name)[1] == ".nrrd":
        with suppress(OSError):  # reported when it is read
            return replace(source, segments=segment_values(source.mask))
    return source


def _drawing(path: Path) -> Drawing | None:
    return read_drawing(path) if path.is_file() and drawing_kind(path) else None


def _drawings(drawn: Mapping[str, Path]) -> tuple[dict[str, Drawing], dict[str, str]]:
    """The DICOM objects among the masks by name, and a line for each damaged one."""
    found, damaged = dict[str, Drawing](), dict[str, str]()
    for name, path in drawn.items():
        try:
            if drawing := _drawing(path):
                found[name] = drawing
        except UserError as error:
            damaged[name] = " ".join(error.lines)
    return found, damaged


def _scans(folder: Path, paths: Sequence[Path]) -> tuple[dict[str, Path], dict[str, str]]:
    """The scans by name, files of images and folders of DICOM slices, and lines on those of one name."""
    files = [(_name(path, folder), path) for path in paths if split_ending(path.name)[1]]
    slices = [
        (_name(place, folder) if place != folder else place.resolve().name, path)
        for path in dict.fromkeys(path for _, path in scans_of_slices(folder, beside_scans=False))
        for place in [place_of(path)]
    ]
    return _by_name((*files, *slices))


def _masks(folder: Path, paths: Sequence[Path]) -> tuple[dict[str, Path], dict[str, str]]:
    """The masks by name, label maps and DICOM objects, and lines on those of one name."""
    files = [path for path in paths if split_ending(path.name)[1] or drawing_kind(path)]
    return _by_name((_name(path, folder), path) for path in files)


def _by_name(named: Iterable[tuple[str, Path]]) -> tuple[dict[str, Path], dict[str, str]]:
    """The first path of each name, and by name a line for each name of several paths."""
    paths: dict[str, list[Path]] = {}
    for name, path in named:
        paths.setdefault(name, []).append(path)
    doubled = {name: own for name, own in paths.items() if len(own) > 1}
    lines = {name: f"{listed(own, MAX_SHOWN)} would be one case: keep one." for name, own in doubled.items()}
    return {name: own[0] for name, own in paths.items()}, lines


def _files(folder: Path) -> list[Path]:
    """The files in a folder and in the folders below. Hidden ones are left out."""
    with_folders = (path for inner in with_folders_below(folder) for path in sorted(_readable(inner)))
    return [path for path in with_folders if not path.name.startswith(".") and not path.is_dir()]


def _readable(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # another user's
        return []


def _name(path: Path, folder: Path) -> str:
    """The path below a folder, without its ending."""
    relative = path.relative_to(folder)
    stem, ending = split_ending(relative.name)
    if not ending and path.is_file():
        stem = relative.stem if relative.suffix.lower() == ".dcm" else relative.name
    return relative.with_name(stem).as_posix()


def _by_series(drawings: Mapping[str, Drawing], scans: Mapping[str, Path]) -> dict[str, str]:
    """mask -> scan, for masks whose DICOM series is that of one scan. A series with two masks is left out."""
    if not drawings:
        return {}
    owners = {uid: name for name, path in scans.items() if not split_ending(path.name)[1] for uid in _series_in(path)}
    found = {name: owners[one.series] for name, one in drawings.items() if one.series in owners}
    return {name: scan for name, scan in found.items() if [*found.values()].count(scan) == 1}


def _series_in(scan: Path) -> tuple[str, ...]:
    with suppress(UserError):  # a damaged slice is reported when the scan is read
        return tuple(series_in(scan))
    return ()


def _crowded(drawings: Mapping[str, Drawing]) -> Iterator[str]:
    """A line for each series that several DICOM objects name."""
    by_series: dict[str, list[str]] = {}
    for name, one in drawings.items():
        if one.series is not None:
            by_series.setdefault(one.series, []).append(name)
    for names in by_series.values():
        if len(names) > 1:
            yield f"{listed(names, MAX_SHOWN)} belong to one series: join their structures in one object, or keep one."


def _without_pairs(
    images: Path, scans: Mapping[str, Path], masks: Path, drawn: Mapping[str, Path], doubtful: Sequence[str]
) -> str:
    line = (
        f"No scan in {images} ({listed([*scans], MAX_SHOWN)}) has a mask of its name in {masks} "
        f"({listed([*drawn], MAX_SHOWN)})."
    )
    more = f" {doubtful[0]}" if doubtful else ""
    return f"{line}{more} Rename them alike, or give a CSV file with the columns case, image and mask."
