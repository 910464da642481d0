"""Decompression by GDCM, in a process of its own: GDCM may crash on damaged data, and a run must go on.

This file is also that process. It reads messages from its standard input: a length and a limit, then a DICOM file. It
answers with the type and the length of the values, then the values. If they cannot be decompressed, the type is empty,
and a reason follows. The limit is on memory: a compressed picture may be larger than its DICOM header declares.
"""

import os
import re
import struct
import subprocess
import sys
from contextlib import suppress
from types import TracebackType
from typing import IO, BinaryIO

import numpy as np

_HEAD, _ANSWER = struct.Struct("<QQ"), struct.Struct("<4sQ")  # length and limit of a message; type and length
_BASE_BYTES, _WORK_RATIO = 1 << 30, 32  # memory of the decoder: fixed, and per byte of values
_ADDRESS = re.compile(r" ?\(0x[0-9a-fA-F]+\)")
_SECONDS = 5.0  # until the process is ended by force


class CannotDecompress(Exception):
    """The reason why a file cannot be decompressed."""


class Decompressor:
    """A process that decompresses. It starts with the first file, and ends with the context."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Decompressor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def values(self, content: bytes, size: int) -> np.ndarray:
        """All values of a DICOM file, in one dimension. Raises `CannotDecompress`.

        Args:
            content: of the file.
            size: bytes of values that it declares. They limit the memory.
        """
        if self._process is None:
            command = [sys.executable, "-P", __file__]  # -P: modules beside this file are not top-level modules
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        source, target = self._process.stdout, self._process.stdin
        assert source is not None
        assert target is not None
        try:
            target.write(_HEAD.pack(len(content), _BASE_BYTES + _WORK_RATIO * size) + content)
            target.flush()
            kind, length = _ANSWER.unpack(_exactly(source, _ANSWER.size))
            answer = _exactly(source, length)
        except (BrokenPipeError, EOFError):
            self._end()
            raise CannotDecompress("the decoder crashed") from None
        if not kind.strip():
            raise CannotDecompress(answer.decode(errors="replace"))
        return np.frombuffer(answer, kind.decode().strip())

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(BrokenPipeError, subprocess.TimeoutExpired):
            process.communicate(timeout=_SECONDS)  # it ends when its input does
        process.kill()
        process.wait()


def _exactly(source: IO[bytes], count: int) -> bytes:
    found = source.read(count)
    if len(found) < count:
        raise EOFError
    return found


def _serve(source: BinaryIO, target: BinaryIO) -> None:
    """Answer messages until the input ends."""
    while head := source.read(_HEAD.size):
        length, limit = _HEAD.unpack(head)
        kind, answer = _decompressed(source.read(length), limit)
        target.write(_ANSWER.pack(kind, len(answer)) + answer)
        target.flush()


def _limit_memory(further: int) -> None:
    """Let this process take at most so many further bytes of memory."""
    import resource

    with open("/proc/self/statm", "rb") as sizes:  # in pages; the first is that of the address space
        now = int(sizes.read().split()[0]) * resource.getpagesize()
    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    if most == resource.RLIM_INFINITY or now + further < most:
        resource.setrlimit(resource.RLIMIT_AS, (now + further, most))


def _decompressed(content: bytes, limit: int) -> tuple[bytes, bytes]:
    """The type and the bytes of the values; an empty type and a reason if GDCM fails."""
    import SimpleITK as sitk

    _limit_memory(limit)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    file = os.memfd_create("slice")  # in memory, as scans are data on patients
    try:
        with os.fdopen(file, "wb", closefd=False) as stream:
            stream.write(content)
        reader.SetFileName(f"/proc/self/fd/{file}")
        values = sitk.GetArrayFromImage(reader.Execute())
        return f"{values.dtype.str:4}".encode(), values.tobytes()
    except MemoryError:
        return b" " * 4, b"it needs much more memory than the declared pixels"
    except RuntimeError as error:
        return b" " * 4, _reason(str(error)).encode()
    finally:
        os.close(file)


def _reason(message: str) -> str:
    """The last line of a message of ITK, without addresses in memory."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return _ADDRESS.sub("", lines[-1]) if lines else "unknown format"


if __name__ == "__main__":
    _serve(sys.stdin.buffer, sys.stdout.buffer)
