"""The files that may be slices: those of a folder, or the members of a zip. Members are not written to disk."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from plans.errors import UserError
from plans.file_names import is_slice_name, split_ending
from textdiffseg.imaging.sources.dicom.elements import PREAMBLE_BYTES, is_dicom
from textdiffseg.imaging.sources.formats import START_BYTES
from textdiffseg.imaging.sources.streams import Damaged, zip_faults_as_damage

MAX_MEMBERS = 100_000
MAX_OPENED_FILES = 200  # of a zip, to find slices among them
_INDEX = "DICOMDIR"  # lists the files of a medium
_INDEX_CLASS = b"\x02\0\x02\0UI\x14\x001.2.840.10008.1.3.10"  # the element (0002,0002)
_ENCRYPTED = 1  # flag of a member


class DicomSource(Protocol):
    """A file, or a member of a zip."""

    @property
    def name(self) -> str:
        """The path, for messages."""

    @property
    def size(self) -> int:
        """In bytes, as declared. Reading stops there."""

    def open(self) -> "BinaryIO":
        """The content, from its start. It can be read forward."""


@dataclass(frozen=True)
class DicomFile:
    """A file on disk."""

    path: Path

    @property
    def name(self) -> str:
        """The path, for messages."""
        return str(self.path)

    @property
    def size(self) -> int:
        """In bytes."""
        return self.path.stat().st_size

    def open(self) -> BinaryIO:
        """The content."""
        return self.path.open("rb")


@dataclass(frozen=True)
class DicomMember:
    """A member of an open zip."""

    archive: zipfile.ZipFile
    member: zipfile.ZipInfo

    @property
    def name(self) -> str:
        """The zip and the member, for messages."""
        return f"{self.archive.filename}, {self.member.filename[-80:]}"

    @property
    def size(self) -> int:
        """In bytes, as declared. Reading stops there."""
        return self.member.file_size

    def open(self) -> BinaryIO:
        """The content. It is decompressed while it is read. Raises `Damaged`."""
        with zip_faults_as_damage():
            return self.archive.open(self.member)  # type: ignore[return-value]


def is_slice(path: Path) -> bool:
    """Whether a file seems to be DICOM, by its name or its first bytes."""
    if split_ending(path.name)[1] or path.name.startswith(".") or is_index(path) or not path.is_file():
        return False
    return is_slice_name(path.name) or _is_dicom(DicomFile(path))


def is_index(path: Path) -> bool:
    """Whether a file has the name of the list of a medium's files."""
    return path.name.upper() == _INDEX and not path.is_dir()


def index_line(path: Path) -> str:
    """The line for a list of a medium's files that is given in place of a scan."""
    return (
        f"{path} is a DICOMDIR: it lists the files of a CD or an export, and holds no image. Give the folder of the "
        f"slices, or {path.absolute().parent}, where all folders below are searched."
    )


def has_index_class(path: Path) -> bool:
    """Whether a DICOM file is the list of a medium's files by its class, as it may have another name."""
    with path.open("rb") as file:
        return _INDEX_CLASS in file.read(START_BYTES)


def has_slices(folder: Path) -> bool:
    """Whether a folder itself holds a DICOM file. False for a folder that cannot be read."""
    try:
        return any(is_slice(path) for path in sorted(folder.iterdir()))
    except OSError:
        return False


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, without hidden ones. [] for a folder that cannot be read."""
    try:
        return sorted(one for one in folder.iterdir() if not one.name.startswith(".") and one.is_dir())
    except OSError:  # another user's
        return []


def with_folders_below(folder: Path) -> Iterator[Path]:
    """The folder and all folders below. Links to folders are followed, each folder is searched once."""
    waiting, seen = [folder], set[Path]()
    while waiting:
        path = waiting.pop()
        if (real := path.resolve()) in seen:
            continue
        seen.add(real)
        yield path
        waiting += reversed(folders_in(path))


@contextmanager
def slices_of(source: Path) -> Iterator[list[DicomSource]]:
    """The DICOM files of a zip, which stays open inside the context. Raises `UserError`, `Damaged`."""
    with _opened(source) as archive:
        members = _members(archive)
        if len(members) > MAX_MEMBERS:
            raise UserError(f"{source}: expected at most {MAX_MEMBERS} files in it, found {len(members)}. Unpack it.")
        if any(member.flag_bits & _ENCRYPTED for member in members):
            raise UserError(f"{source} is protected by a password. Unpack it, and give the folder.")
        in_order = sorted(members, key=lambda member: member.filename)
        files = [DicomMember(archive, member) for member in in_order]
        yield [file for file in files if is_slice_name(file.member.filename) or _is_dicom(file)]


def is_zip_of_slices(path: Path) -> bool:
    """Whether a file in a zip is a slice, or whether the zip is damaged, to be reported.

    All names are read, and the first bytes of about `MAX_OPENED_FILES` files, as slices often lie beside a viewer.
    """
    try:
        with _opened(path) as archive:
            members = _members(archive)
            spread = members[:: max(1, len(members) // MAX_OPENED_FILES)]
            return any(is_slice_name(one.filename) for one in members) or any(
                _is_dicom(DicomMember(archive, one)) for one in spread
            )
    except (UserError, Damaged, OSError):
        return True


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    with zip_faults_as_damage():
        archive = zipfile.ZipFile(path)
    with archive:
        yield archive


def _members(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The files of a zip, without hidden ones."""
    return [member for member in archive.infolist() if not member.is_dir() and not _is_hidden(member.filename)]


def _is_dicom(source: DicomSource) -> bool:
    with source.open() as file, zip_faults_as_damage():
        return is_dicom(file.read(PREAMBLE_BYTES))


def _is_hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in name.split("/") if part not in (".", ".."))
