"""How vectors of words lie on disk: one safetensors file, with one record as JSON in its metadata."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from torch import Tensor

from plans.errors import UserError
from plans.records import Record
from textdiffseg.tensors import DamagedError, read_tensor_file, read_tensor_metadata, write_tensor_file

Header = TypeVar("Header", bound=Record)


@dataclass(frozen=True)
class TensorFile(Generic[Header]):
    """One kind of file: its record, and how messages speak of it."""

    noun: str
    header: type[Header]
    key: str  # of the record in the metadata
    missing: str  # what to do where there is no such file
    damaged: str  # what to do where it cannot be read

    def write(self, path: Path, header: Header, tensors: Mapping[str, Tensor]) -> None:
        """Write the file whole or not at all."""
        write_tensor_file(path, tensors, {self.key: header.model_dump_json()})

    def read(self, path: Path, wanted: Callable[[Header], Collection[str]]) -> tuple[Header, dict[str, Tensor]]:
        """The record, and the tensors that `wanted` names.

        Raises `UserError` where the file is missing, damaged, of another kind or of a version that is not read.
        """
        if not Path(path).is_file():
            raise UserError(f"{path} does not exist: {self.missing}")
        try:
            metadata = read_tensor_metadata(path)
            if self.key not in metadata:
                raise UserError(f"{path} is not a {self.noun}: its header has no {self.key!r}. {self.damaged}")
            header = self.header.parse_json(metadata[self.key], f"{path}, header")
            return header, read_tensor_file(path, wanted(header)).tensors
        except DamagedError as error:
            raise UserError(f"{path} is not a readable {self.noun} ({error}). {self.damaged}") from None
