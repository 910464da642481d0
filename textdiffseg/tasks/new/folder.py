"""The folder of a new data set, and its `dataset.json`, which names the scans and masks that it was made from.

The field `sources` of `dataset.json` is ours: the two sources, and the files that are not links. Until it is written,
these files are listed in `.written`, so that a run that was interrupted leaves no files to the next one. If the data
set is made again, its earlier files lie in `.replaced` meanwhile. They come back if the new ones do not get complete.
"""

import json
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from plans.errors import UserError
from plans.file_names import NIFTI, VOXEL_ENDINGS, channel_file, safe_name, split_ending
from plans.layout import RawFolder, tree
from plans.raw.case_files import names_in
from plans.raw.folders import id_and_title
from plans.records import read_json
from textdiffseg.files import naming, new_folders, open_no_link

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

    def moved_from(self, folder: Path) -> str | None:
        """A source of the data set in `folder` that is not there any more; None if all are."""
        if self.is_of(folder):
            return None
        found = (_sources_of(folder).get(kind) for kind in ("images", "masks"))
        return next((path for path in found if isinstance(path, str) and not Path(path).exists()), None)


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
        self._raw, self._list, self._aside = raw, raw.path / ".written", raw.path / ".replaced"

    @property
    def is_begun(self) -> bool:
        """Whether an earlier run was interrupted."""
        return self._list.is_file()

    @contextmanager
    def replacing(self) -> Iterator[None]:
        """Put the files of an earlier run aside; those of an interrupted one are deleted.

        After an error, also Ctrl-C, they come back, or nothing is left where nothing was. They are deleted at the end.
        """
        self.restore()
        images, labels = self._folders
        with new_folders(images), new_folders(labels), self._replacing():
            yield

    @contextmanager
    def _replacing(self) -> Iterator[None]:
        listed = _sources_of(self._raw.path).get(WRITTEN)
        self._append(map(str, listed) if isinstance(listed, list) else ())
        complete = self._raw.header.exists()
        for path in self._own():
            if complete:
                _move(path, self._aside / self._name(path))
            else:
                path.unlink()
        if complete:
            _move(self._raw.header, self._aside / self._raw.header.name)  # the last one: all are aside
        self.forget()
        try:
            yield
        except BaseException:
            if complete:
                self.restore()
            else:
                self._delete()
            raise
        self.forget()
        if complete:
            done = self._aside.rename(self._aside.with_name(".replaced.old"))
            shutil.rmtree(done, ignore_errors=True)

    def _delete(self) -> None:
        """Delete what a run has written that did not get complete."""
        for path in self._own():
            path.unlink()
        self.forget()
        with suppress(OSError):  # it was not made, or the user has put something there
            self._raw.overlays.rmdir()

    def restore(self) -> None:
        """Bring back the files that `replacing` put aside, also after its process was killed."""
        if not self._aside.is_dir():
            return
        header = self._aside / self._raw.header.name
        if header.exists():
            for path in self._own():
                path.unlink()
            _move(header, self._raw.header)  # the first one: what is in place now stays
        for path in sorted(self._aside.rglob("*")):
            if path.is_symlink() or path.is_file():
                _move(path, self._raw.path / path.relative_to(self._aside))
        shutil.rmtree(self._aside)
        self.forget()

    @property
    def _folders(self) -> tuple[Path, Path]:
        return self._raw.images("Tr"), self._raw.labels("Tr")

    def _own(self) -> list[Path]:
        """All links in the two folders, the files that are listed, and the pictures."""
        written = set[str]()
        if self._list.is_file():
            written = {*self._list.read_text(encoding="utf-8", errors="surrogateescape").splitlines()}
        paths = [path for folder in self._folders if folder.is_dir() for path in folder.iterdir()]
        own = [path for path in paths if path.is_symlink() or self._name(path) in written]
        return [*own, *self._raw.overlays.glob("*.png")]

    def add(self, case: str, channels: int, sources: Iterable[Path]) -> None:
        """Note the files that a case may get from its sources. Files that are there already are the user's."""
        names = (case, *(channel_file(case, number, "") for number in range(channels)))
        endings = {NIFTI, *(split_ending(path.name)[1] for path in sources)}
        endings |= {*VOXEL_ENDINGS} if ".hdr" in endings else set()
        files = (folder / f"{name}{ending}" for folder in self._folders for name in names for ending in sorted(endings))
        self._append(self._name(file) for file in files if not file.exists())

    def forget(self) -> None:
        """Remove the list, once `dataset.json` is written."""
        self._list.unlink(missing_ok=True)

    def _name(self, path: Path) -> str:
        return path.relative_to(self._raw.path).as_posix()

    def _append(self, names: Iterable[str]) -> None:
        content = "".join(f"{name}\n" for name in names).encode(errors="surrogateescape")
        with naming(self._list), open(self._list, "ab", opener=open_no_link) as file:
            file.write(content)


def _move(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    path.replace(target)


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
    Written(raw).restore()
    if not raw.header.exists():
        if not Written(raw).is_begun and any(names_in(place) for place in (raw.images("Tr"), raw.labels("Tr"))):
            raise UserError(
                f"{raw.path} holds files already, but no {raw.header.name}. Choose another folder with -o, --name or "
                "--id, or move them away."
            )
        return raw, False
    if not header.is_of(raw.path) and not (overwrite and header.moved_from(raw.path)):
        raise UserError(
            f"{raw.path} holds another data set already. Choose another folder with -o, --name or --id, or move it "
            "away."
        )
    return raw, not overwrite


def _below_root(header: NewHeader, root: Path, name: str | None, number: int | None) -> Path:
    trunk = tree(root, "raw")
    title = safe_name(name or _title(header.images), MAX_TITLE_BYTES)
    if not title:
        raise UserError(f"--name {name}: expected letters or digits.")
    folders = sorted(path for path in trunk.iterdir() if path.is_dir()) if trunk.is_dir() else []
    owners = {id_and_title(path.name)[0]: path for path in folders}
    for path in folders:
        own = id_and_title(path.name)
        alike = own[1].casefold() == title.casefold() and number in (None, own[0])
        if alike and (header.is_of(path) or not RawFolder(path).header.exists()):
            return path
        if alike and (gone := header.moved_from(path)):
            raise UserError(
                f"{path} was made from {gone}, which is not there. If it was moved, add -o {path} --overwrite. For "
                "another data set, give it its own --name."
            )
    if number is None:
        number = next(free for free in range(1, len(owners) + 2) if free not in owners)
    elif number in owners and id_and_title(owners[number].name)[1] != title:
        raise UserError(f"--id {number} is that of {owners[number]}. Choose another one, or leave it out.")
    return trunk / f"Dataset{number:03d}_{title}"


def _title(images: Path) -> str:
    """A name for the data set: that of the nearest folder that is more than `images`."""
    path = images.resolve()
    names = [path.stem if path.suffix else path.name, *(parent.name for parent in path.parents)]
    found = next((name for name in names if not _NO_TITLE.fullmatch(re.sub(r"[\W_]+", "", name))), "Mine")
    return id_and_title(found)[1]
