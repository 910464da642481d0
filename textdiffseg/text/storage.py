"""Files of text vectors: one safetensors file with one record as JSON in its metadata."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from plans.errors import UserError
from plans.records import Record
from textdiffseg.files import write_atomically

Header = TypeVar("Header", bound=Record)


@dataclass(frozen=True)
class TensorFile(Generic[Header]):
    """One kind of file: the type of its record, and the texts of its error messages."""

    noun: str  # the file's name in messages
    header: type[Header]
    key: str  # of the record in the metadata
    missing: str  # advice if the file does not exist
    damaged: str  # advice if the file cannot be read

    def write(self, path: Path, header: Header, tensors: Mapping[str, Tensor]) -> None:
        """Write the file whole or not at all."""
        plain = {name: value.contiguous() for name, value in tensors.items()}
        # serialised here, as the error of safetensors' own writer does not name the file when the disk is full
        write_atomically(path, serialise(plain, metadata={self.key: header.model_dump_json()}))

    def read(self, path: Path, wanted: Callable[[Header], Collection[str]]) -> tuple[Header, dict[str, Tensor]]:
        """The record, and the tensors with the names that `wanted(record)` returns.

        Raises `UserError` if the file is missing or damaged, or if its kind or version is unknown.
        """
        if not Path(path).is_file():
            raise UserError(f"{path} does not exist: {self.missing}")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if self.key not in metadata:
                    raise UserError(f"{path} is not a {self.noun}: its header has no {self.key!r}. {self.damaged}")
                header = self.header.parse_json(metadata[self.key], f"{path}, header")
                return header, {name: file.get_tensor(name) for name in wanted(header)}
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path} is not a readable {self.noun} ({error}). {self.damaged}") from None
