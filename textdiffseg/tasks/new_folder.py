"""The folder of a new data set, and its `dataset.json`, which names the scans and masks that it was made from.

The field `sources` of `dataset.json` is ours: the two sources, and the files that are not links. Until it is written,
these files are listed in `.written`, so that a run that was interrupted leaves no files to the next one.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from plans.errors import UserError
from plans.file_names import NIFTI, VOXEL_ENDINGS, channel_file, safe_name, split_ending
from plans.layout import RawFolder, tree
from plans.raw.case_files import names_in
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


class Written:
    """The files of a data set that are not links. They are listed on disk, one a line, before they are written."""

    def __init__(self, raw: RawFolder):
        self._raw, self._list = raw, raw.path / ".written"

    @property
    def is_begun(self) -> bool:
        """Whether an earlier run was interrupted."""
        return self._list.is_file()

    def clear(self) -> None:
        """Remove the files of an earlier run: its `dataset.json`, all links, and the files that it wrote."""
        listed = _sources_of(self._raw.path).get(WRITTEN)
        self._append(map(str, listed) if isinstance(listed, list) else ())
        self._raw.header.unlink(missing_ok=True)
        written = {*self._list.read_text(encoding="utf-8", errors="surrogateescape").splitlines()}
        for folder in (self._raw.images("Tr"), self._raw.labels("Tr")):
            for path in folder.iterdir() if folder.is_dir() else ():
                if path.is_symlink() or self._name(path) in written:
                    path.unlink()
        self.forget()

    def add(self, case: str, channels: int, sources: Iterable[Path]) -> None:
        """Note the files that a case may get from its sources. Files that are there already are the user's."""
        names = (case, *(channel_file(case, number, "") for number in range(channels)))
        endings = {NIFTI, *(split_ending(path.name)[1] for path in sources)}
        endings |= {*VOXEL_ENDINGS} if ".hdr" in endings else set()
        folders = self._raw.images("Tr"), self._raw.labels("Tr")
        files = (folder / f"{name}{ending}" for folder in folders for name in names for ending in sorted(endings))
        self._append(self._name(file) for file in files if not file.exists())

    def forget(self) -> None:
        """Remove the list, once `dataset.json` is written."""
        self._list.unlink(missing_ok=True)

    def _name(self, path: Path) -> str:
        return path.relative_to(self._raw.path).as_posix()

    def _append(self, names: Iterable[str]) -> None:
        with self._list.open("a", encoding="utf-8", errors="surrogateescape") as file:
            file.writelines(f"{name}\n" for name in names)


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
        if not Written(raw).is_begun and any(names_in(place) for place in (raw.images("Tr"), raw.labels("Tr"))):
            raise UserError(
                f"{raw.path} holds files already, but no {raw.header.name}. Choose another folder with -o, --name or "
                "--id, or move them away."
            )
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
