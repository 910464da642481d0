"""The folder of a new data set, and its `dataset.json`, which names the scans and masks that it was made from.

The field `sources` of `dataset.json` is ours: the two sources, and the files that are not links.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from plans.errors import UserError
from plans.file_names import safe_name
from plans.layout import RawFolder, tree
from plans.raw.folders import parts_of
from plans.records import read_json

SOURCES = "sources"  # a field of dataset.json that other readers ignore
WRITTEN = "written"  # in it: the files that are not links
_NO_TITLE = re.compile(r"(?:images?|imgs?|scans?|volumes?|ct|mri?|dicom|raw|data|nifti|tr|ts)*", re.IGNORECASE)
MAX_TITLE_BYTES = 60


@dataclass(frozen=True)
class NewHeader:
    """The origin of a data set."""

    images: Path
    masks: Path | None

    @property
    def sources(self) -> dict[str, str]:
        """The absolute paths of both."""
        paths = {"images": self.images} | ({} if self.masks is None else {"masks": self.masks})
        return {kind: str(path.resolve()) for kind, path in paths.items()}

    def content(self, folder: Path, files: Iterable[Path], **fields: object) -> str:
        """The text of `dataset.json`. files: of the data set in `folder`."""
        written = sorted(path.relative_to(folder).as_posix() for path in files if not path.is_symlink())
        sources = self.sources | ({WRITTEN: written} if written else {})
        whole = {name: value for name, value in fields.items() if value} | {SOURCES: sources}
        return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"

    def is_of(self, folder: Path) -> bool:
        """Whether a data set was made from the same scans and masks."""
        found = _sources_of(folder)
        return {kind: found.get(kind) for kind in self.sources} == self.sources and ("masks" in found) == bool(
            self.masks
        )


def _sources_of(folder: Path) -> dict[str, object]:
    """The field `sources` of a data set; {} if it has none."""
    header = RawFolder(folder).header
    try:
        found = read_json(header) if header.is_file() else None
    except UserError:
        return {}
    sources = found.get(SOURCES) if isinstance(found, dict) else None
    return sources if isinstance(sources, dict) else {}


def clear(raw: RawFolder) -> None:
    """Remove the files of an earlier run: all links, and the files that it copied or converted."""
    listed = _sources_of(raw.path).get(WRITTEN)
    written = {raw.path / str(name) for name in listed} if isinstance(listed, list) else set()
    for folder in (raw.images("Tr"), raw.labels("Tr")):
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.is_symlink() or path in written:
                path.unlink()


def choose_folder(
    header: NewHeader, root: Path, folder: Path | None, name: str | None, number: int | None, overwrite: bool
) -> tuple[RawFolder, bool]:
    """The folder of the data set, and whether it is complete. Arguments: see `new_dataset`.

    An earlier folder of the same scans and masks is taken again. Raises `UserError` if another data set is there.
    """
    raw = RawFolder(folder if folder is not None else _below_root(header, root, name, number))
    for path in filter(None, (header.images, header.masks)):
        if path.is_dir() and path.resolve().is_relative_to(raw.path.resolve()):
            raise UserError(
                f"{path} lies in the data set's own folder, {raw.path}. Choose another folder with -o, or write "
                f"{raw.header.name} there yourself (docs/data.md)."
            )
    if not raw.header.exists():
        return raw, False
    if not header.is_of(raw.path):
        raise UserError(
            f"{raw.path} holds another data set already. Choose another folder with -o, --name or --id, or move it "
            "away."
        )
    return raw, not overwrite


def _below_root(header: NewHeader, root: Path, name: str | None, number: int | None) -> Path:
    trunk, title = tree(root, "raw"), safe_name(name or _title(header.images), MAX_TITLE_BYTES)
    if not title:
        raise UserError(f"--name {name}: expected letters or digits.")
    folders = sorted(path for path in trunk.iterdir() if path.is_dir()) if trunk.is_dir() else []
    owners = {parts_of(path.name)[0]: path for path in folders}
    for path in folders:
        own = parts_of(path.name)
        alike = own[1].casefold() == title.casefold() and number in (None, own[0])
        if alike and (header.is_of(path) or not RawFolder(path).header.exists()):
            return path
    if number is None:
        number = next(one for one in range(1, len(owners) + 2) if one not in owners)
    elif number in owners and parts_of(owners[number].name)[1] != title:
        raise UserError(f"--id {number} is that of {owners[number]}. Choose another one, or leave it out.")
    return trunk / f"Dataset{number:03d}_{title}"


def _title(images: Path) -> str:
    """A name for the data set: that of the nearest folder that is more than `images`."""
    path = images.resolve()
    parts = [path.stem if path.suffix else path.name, *(one.name for one in path.parents)]
    found = next((one for one in parts if not _NO_TITLE.fullmatch(re.sub(r"[\W_]+", "", one))), "Mine")
    return parts_of(found)[1]
