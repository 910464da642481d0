"""Safetensors files with hashes of their content, which are checked when a file is read.

The metadata field `hashes` has the SHA-256 of each tensor and of the other metadata. Files without this field are read
unchecked; earlier versions and other programs wrote them.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from plans.errors import UserError
from plans.records import Record
from textdiffseg.files import hash_parts, write_atomically

KEY = "hashes"


class DamagedError(Exception):
    """A file is damaged or was changed. The message states the fault."""


class TensorHashes(Record):
    """The record in `hashes`."""

    metadata: str  # of all other metadata
    tensors: dict[str, str]  # by name


@dataclass(frozen=True)
class TensorContent:
    """The tensors and the metadata that were read from a file."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def write_tensor_file(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata with their hashes. The file is complete or unchanged."""
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    hashes = TensorHashes(
        metadata=_hash_metadata(metadata), tensors={name: _hash_tensor(value) for name, value in plain.items()}
    )
    # serialised here, as safetensors' own writer does not report a full disk
    content = serialise(plain, metadata={**metadata, KEY: hashes.model_dump_json()})
    write_atomically(path, *_in_order(content))


def read_tensor_file(path: Path, names: Collection[str] | None = None) -> TensorContent:
    """The metadata, and all tensors or the named ones. Raises `DamagedError` if a hash or a name does not fit."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata, stored_names = file.metadata() or {}, set(file.keys())
            wanted = stored_names if names is None else set(names)
            if missing := sorted(wanted - stored_names):
                raise DamagedError(f"it has no tensor {missing[0]!r}")
            tensors = {name: file.get_tensor(name) for name in sorted(wanted)}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise DamagedError(str(error)) from None
    if KEY in metadata:
        _check(tensors, stored_names, metadata)
    for name, value in tensors.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise DamagedError(f"tensor {name!r} holds numbers that are not finite")
    return TensorContent(tensors, {name: text for name, text in metadata.items() if name != KEY})


def read_tensor_metadata(path: Path) -> dict[str, str]:
    """The metadata alone, with the checks of `read_tensor_file`."""
    return read_tensor_file(path, ()).metadata


def _in_order(content: bytes) -> tuple[bytes, memoryview]:
    """The file's header with sorted metadata, and the rest. The order in safetensors differs between processes.

    A file begins with the length of its header (eight bytes, little-endian) and the header, which is JSON.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight
    return len(text).to_bytes(8, "little") + text, memoryview(content)[end:]


def _check(tensors: Mapping[str, Tensor], stored_names: Collection[str], metadata: Mapping[str, str]) -> None:
    """Raise `DamagedError` if a tensor or the metadata changed since the file was written."""
    try:
        hashes = TensorHashes.parse_json(metadata[KEY], KEY)
    except UserError as error:
        raise DamagedError(str(error)) from None
    if set(stored_names) != hashes.tensors.keys():
        raise DamagedError("its tensors have other names than when it was written")
    if _hash_metadata({name: text for name, text in metadata.items() if name != KEY}) != hashes.metadata:
        raise DamagedError("its metadata is not what was written")
    for name, value in tensors.items():
        if _hash_tensor(value) != hashes.tensors[name]:
            raise DamagedError(f"tensor {name!r} is not what was written")


def _hash_tensor(value: Tensor) -> str:
    content = value.reshape(-1).view(torch.uint8).numpy().data
    return hash_parts([f"{value.dtype} {tuple(value.shape)}".encode(), content])


def _hash_metadata(metadata: Mapping[str, str]) -> str:
    return hash_parts(text.encode() for pair in sorted(metadata.items()) for text in pair)
