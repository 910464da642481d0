"""Atomic writing, hashes, and temporary names. No other module makes a hash or a temporary name."""

import errno
import hashlib
import os
import platform
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, BinaryIO

from pydantic import Field

from plans.errors import UserError
from plans.records import Record, faults_of

MAX_TEMPORARY_BYTES = 100  # of the name that a temporary name holds; file systems allow 255 in all
_CHUNK_BYTES = 1 << 20
_BLOCK_BYTES = 1 << 12  # of a file system; a full one may still take an empty file
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TEMPORARY = re.compile(r"\..+\.([0-9a-f]{8})-([0-9]{1,10})-[0-9a-f]{16}\.tmp", re.DOTALL)


class FileHash(Record):
    """The size and the SHA-256 of a file. They are stored when it is written, and checked when it is read."""

    size: int = Field(ge=0)  # bytes
    sha256: str

    @classmethod
    def of(cls, content: bytes) -> "FileHash":
        """The size and the hash of a file's content."""
        return cls(size=len(content), sha256=hashlib.sha256(content).hexdigest())

    def fault_of(self, path: Path) -> str | None:
        """The difference between the file at `path` and the written content; None if there is no difference.

        Each file is read once per process, unless it changes. Raises `OSError` if it cannot be read.
        """
        state = Path(path).stat()
        if state.st_size != self.size:
            return f"it has {state.st_size} bytes, expected {self.size}"
        return None if hash_once(path) == self.sha256 else "its content is not what was written"


def write_atomically(path: Path, *parts: str | bytes | memoryview) -> None:
    """Write text or bytes to `path`. The file is complete or unchanged. Raises `OSError` as `replacing` does."""
    with replacing(path) as temporary, open(temporary, "xb", opener=open_no_link) as file:
        for part in parts:
            file.write(part.encode() if isinstance(part, str) else part)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The path of a temporary file in the same folder, which replaces `path` at the end of the context.

    Its name is random. Open it as a new file, so that nobody can place a link there. After an error `path` is
    unchanged.

    Raises:
        OSError: `path` is a folder, a device, a pipe, or below /dev or /proc. A rename would replace the last three
            for all programs.
    """
    path = Path(path)
    _refuse_special(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(temporary_name(path.name))
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        written = error.filename2 or error.filename  # of a copy, the second one is written
        if error.errno is None or written not in (None, str(temporary)):  # of a file that the context reads
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # the temporary name would confuse
    finally:
        with suppress(OSError):  # a folder that cannot be written
            temporary.unlink(missing_ok=True)


def check_place(path: Path) -> None:
    """Make the folder of a file. Raises `OSError` if `replacing` would raise one after the work."""
    _refuse_special(path)
    check_folder(path.parent)


def check_folder(folder: Path) -> None:
    """Make a folder. Raises `OSError` with the folder's name unless a file can be written in it."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with TemporaryFile(dir=folder) as file:
            file.write(bytes(_BLOCK_BYTES))
            file.flush()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error


@contextmanager
def new_folders(folder: Path) -> Iterator[None]:
    """Make a folder and its parents. After an error those that were made are deleted again, if they are empty."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for path in missing:
            with suppress(OSError):  # it holds files, or it was not made
                path.rmdir()
        raise


def copy_parts(source: IO[bytes], target: IO[bytes], copied: Callable[[int], None]) -> None:
    """Copy an open file to another one in parts. `copied` is called with the number of bytes of each part."""
    while chunk := source.read(_CHUNK_BYTES):
        target.write(chunk)
        copied(len(chunk))


def _refuse_special(path: Path) -> None:
    """Raise `OSError` for the place of a folder, a device or a pipe."""
    if path.is_dir():  # also "." and "/", which have no name
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if _is_special(path):
        raise FileExistsError(errno.EEXIST, "not the place of a plain file", str(path))


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give the error of a full disk the name of `path`, which the context writes. The system names no file then."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno not in _FULL:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_record(path: Path, record: Record) -> None:
    """Write a record as JSON. The file is complete or unchanged. Raises `UserError` if it could not be read back."""
    if faults := [f"{path}: {fault}" for fault in faults_of(record)]:
        raise UserError(*faults)
    write_atomically(path, record.model_dump_json(indent=1) + "\n")


def temporary_name(name: str) -> str:
    """A random hidden name for a file or folder that is being written. It contains its `TemporaryOwner`."""
    short = os.fsencode(name)[:MAX_TEMPORARY_BYTES].decode(errors="ignore")
    return f".{short}.{machine_tag()}-{os.getpid()}-{secrets.token_hex(8)}.tmp"


@dataclass(frozen=True)
class TemporaryOwner:
    """The machine and the process that made a temporary name."""

    machine: str  # its `machine_tag`
    process: int

    @classmethod
    def of(cls, name: str) -> "TemporaryOwner | None":
        """The owner in a name; None if `temporary_name` did not make it."""
        match = _TEMPORARY.fullmatch(name)
        return None if match is None else cls(match[1], int(match[2]))


@cache
def machine_tag() -> str:
    """A hash of the machine's name, its last start, and the namespace of its process numbers."""
    known = [platform.node()]
    for source in (Path("/proc/sys/kernel/random/boot_id").read_text, lambda: os.readlink("/proc/self/ns/pid")):
        with suppress(OSError):  # not on Linux
            known.append(source())
    return hash_text(" ".join(known))[:8]


@contextmanager
def temporary_folder(beside: Path) -> Iterator[Path]:
    """A temporary folder beside the file `beside`. It is deleted when the context ends."""
    folder = beside.with_name(temporary_name(beside.name))
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def hash_files(paths: Sequence[Path]) -> str:
    """SHA-256 over the contents of files, in the given order."""
    digest = hashlib.sha256()
    for path in paths:
        with Path(path).open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


def hash_next(file: BinaryIO, size: int) -> str:
    """SHA-256 of the next `size` bytes of an open file, or of those that it has. They are read in parts."""
    digest = hashlib.sha256()
    while chunk := file.read(min(size, _CHUNK_BYTES)):
        digest.update(chunk)
        size -= len(chunk)
    return digest.hexdigest()


def hash_once(path: Path) -> str:
    """SHA-256 of a file. A process reads each file once, unless it changes."""
    version = file_version(path)
    if version not in _hashes:
        _hashes[version] = hash_files([path])
    return _hashes[version]


FileVersion = tuple[str, int, int, int]
_hashes: dict[FileVersion, str] = {}


def file_version(path: Path) -> FileVersion:
    """The path, inode, time and size of a file, which differ once it is written again."""
    state = Path(path).stat()
    return str(path), state.st_ino, state.st_mtime_ns, state.st_size


def hash_each(paths: Sequence[Path]) -> str:
    """SHA-256 of the files' own hashes. Moving bytes from one file to the next changes it."""
    return hash_text(" ".join(hash_files([path]) for path in paths))


def hash_parts(parts: Iterable[bytes | memoryview]) -> str:
    """SHA-256 of the hashes of byte strings. Moving bytes from one string to the next changes it."""
    return hash_text(" ".join(hashlib.sha256(part).hexdigest() for part in parts))


def hash_text(text: str) -> str:
    """SHA-256 of a text, e.g. of the JSON with everything that a result depends on."""
    return hashlib.sha256(text.encode()).hexdigest()


def _is_special(path: Path) -> bool:
    """Whether a path is a device or a pipe, or may lead to one."""
    system = path.absolute().parts[1:2] in (("dev",), ("proc",)) and path.absolute().parts[2:3] != ("shm",)
    return system or (path.exists() and not path.is_file() and not path.is_dir())


def open_no_link(path: str, flags: int) -> int:
    """An opener for `open`. It fails where `path` is a link, which would lead to a file of somebody else."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)
