"""The files of each case for a new data set: found in two folders, or listed in a CSV file."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from plans.errors import UserError, listed
from plans.file_names import FILE_ENDINGS, is_archive_name, split_ending
from plans.raw.pair_list import read_pairs
from plans.raw.pairing import is_mask_name, pair
from textdiffseg.imaging.sources.dicom import series_in
from textdiffseg.imaging.sources.dicom.drawings import Drawing, drawing_kind, read_drawing
from textdiffseg.imaging.sources.dicom.listing import scans_of_slices
from textdiffseg.imaging.sources.nrrd import segment_values
from textdiffseg.imaging.sources.scans import unread_images

MAX_SHOWN = 3  # names in an error


@dataclass(frozen=True)
class CaseSource:
    """The files of a case."""

    case: str
    images: tuple[Path, ...]  # one per channel, or one with all channels; a folder of DICOM slices
    mask: Path
    drawing: Drawing | None = None  # if the mask is a DICOM object
    parts: Mapping[str, Path] = field(default_factory=dict)  # if each structure has a file: its name -> file
    segments: Mapping[str, int] = field(default_factory=dict)  # if the mask's file names them: its name -> value

    @property
    def is_joined(self) -> bool:
        """Whether the mask is joined from structures with names. If not, it is a label map."""
        return self.drawing is not None or bool(self.parts) or bool(self.segments)

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
    unread: tuple[str, ...] = ()  # lines on images in a format that is not read, and on zips


def listed_sources(path: Path) -> Sources:
    """The cases that a CSV file lists."""
    cases = (CaseSource(one.case, one.images, one.mask, _drawing(one.mask)) for one in read_pairs(path))
    return Sources(tuple(map(_with_segments, cases)))


def found_sources(images: Path, masks: Path) -> Sources:
    """The cases of two folders, which may be the same one. Raises `UserError` if no scan has a mask."""
    for folder, what in ((images, "scans"), (masks, "masks")):
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder. Give the folder of the {what}, or one CSV file for both.")
    scans, drawn = _scans(images), _masks(masks)
    if images.resolve() == masks.resolve():
        scans = {name: path for name, path in scans.items() if not is_mask_name(name)}
        drawn = {name: path for name, path in drawn.items() if is_mask_name(name) or drawing_kind(path)}
    for folder, names, what in ((images, scans, "scan"), (masks, drawn, "mask")):
        if not names:
            raise UserError(
                f"{folder} holds no {what}. Expected files that end with {', '.join(FILE_ENDINGS)}, or DICOM"
                + (" slices." if what == "scan" else " segmentations or structure sets.")
            )
    drawings = {name: found for name, path in drawn.items() if (found := _drawing(path))}
    pairing = pair(scans, drawn, _by_series(drawings, scans))
    pairing = replace(pairing, doubtful=(*_crowded(drawings), *pairing.doubtful))
    if not pairing.pairs and (parts := _parts(scans, drawn)):
        return parts
    if not pairing.pairs:
        raise UserError(_without_pairs(images, scans, masks, drawn, pairing.doubtful))
    cases = tuple(
        _with_segments(
            CaseSource(one.case, tuple(scans[name] for name in one.images), drawn[one.mask], drawings.get(one.mask))
        )
        for one in pairing.pairs
    )
    both = dict.fromkeys((images, masks))
    unread = [f"{path}. Its format is not read; convert it to .nii.gz." for one in both for path in unread_images(one)]
    zips = [path for one in both for path in _files(one) if is_archive_name(path.name)]
    unread += [f"{path}. Zips are not read here; unpack it." for path in zips]
    return Sources(cases, pairing.images, pairing.masks, pairing.doubtful, tuple(unread))


def _parts(scans: Mapping[str, Path], drawn: Mapping[str, Path]) -> Sources | None:
    """The cases if each has a folder with one mask per structure: `patient1/liver`, `patient1/spleen`, ...

    None if no scan belongs to such a folder, or if no structure is in two of them.
    """
    folders: dict[str, dict[str, Path]] = {}
    for name, path in drawn.items():
        folder, _, structure = name.rpartition("/")
        if split_ending(path.name)[1] and folder:
            folders.setdefault(folder, {})[" ".join(structure.replace("_", " ").split())] = path
    pairing = pair(scans, folders)
    names = [structure for one in pairing.pairs for structure in folders[one.mask]]
    if len(set(names)) == len(names):
        return None
    cases = tuple(
        CaseSource(
            one.case,
            tuple(scans[name] for name in one.images),
            next(iter(folders[one.mask].values())).parent,
            parts=folders[one.mask],
        )
        for one in pairing.pairs
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


def _scans(folder: Path) -> dict[str, Path]:
    """The scans by name: files of images, and folders of DICOM slices."""
    found = {_name(path, folder): path for path in _files(folder) if split_ending(path.name)[1]}
    for _, path in scans_of_slices(folder, beside_scans=False):
        found.setdefault(_name(path, folder) if path != folder else path.resolve().name, path)
    return found


def _masks(folder: Path) -> dict[str, Path]:
    """The masks by name: label maps, and DICOM objects."""
    return {_name(path, folder): path for path in _files(folder) if split_ending(path.name)[1] or drawing_kind(path)}


def _files(folder: Path) -> Iterator[Path]:
    """The files in a folder and in the folders below. Hidden ones are left out."""
    for inner, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(inner, name) for name in sorted(names) if not name.startswith("."))


def _name(path: Path, folder: Path) -> str:
    """The path below a folder, without its ending."""
    relative = path.relative_to(folder)
    stem, ending = split_ending(relative.name)
    if not ending and path.is_file():
        stem = relative.stem if relative.suffix.lower() == ".dcm" else relative.name
    return relative.with_name(stem).as_posix()


def _by_series(drawings: Mapping[str, Drawing], scans: Mapping[str, Path]) -> dict[str, str]:
    """mask -> scan, for masks whose DICOM series is in one folder. A series with two masks is left out."""
    if not drawings:
        return {}
    owners = {uid: name for name, path in scans.items() if path.is_dir() for uid in series_in(path)}
    found = {name: owners[one.series] for name, one in drawings.items() if one.series in owners}
    return {name: scan for name, scan in found.items() if [*found.values()].count(scan) == 1}


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
