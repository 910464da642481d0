"""A trained model as one file, to send it elsewhere: a zip archive of its folds with a hash for each file.

Nothing in it is compressed, so its size is that of its content. The weights are safetensors, the rest is JSON.
`unpacking` writes the folder of such a file.
"""

import io
import re
import stat
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from plans.errors import UserError, printable
from plans.layout import FOLD_NAME, FoldFolder
from plans.raw.dataset import is_plain_name
from plans.records import Record
from textdiffseg.evaluation.summary import Summary
from textdiffseg.files import FileHash, copy_parts, hash_once, replacing
from textdiffseg.folds.agreement import check_together
from textdiffseg.folds.changed import own_scores
from textdiffseg.folds.ensemble import chosen_folds
from textdiffseg.folds.plans import plan_of_fold
from textdiffseg.imaging.sources.streams import Damaged, zip_faults_as_damage
from textdiffseg.leftovers import sweep
from textdiffseg.progress import OnProgress, bytes_reporter, silent

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 10_000_000
_NUMBERED = re.compile(r"(?:fold_\w+_)?case_[0-9]+")  # in place of the id of a case
COPY_AGAIN = "Copy the file again."


class Package(Record):
    """`manifest.json` of a packaged model."""

    version: Literal[1] = 1
    dataset: str
    model: str  # name of the model's folder
    identifiers: bool  # whether the ids of cases were kept
    files: dict[str, FileHash]  # by path in the archive


def export_model(
    folder: Path,
    package: Path,
    names: Sequence[str] | None = None,
    keep_identifiers: bool = False,
    progress: OnProgress = silent,
) -> Package:
    """Write a model's finished folds to one file.

    The ids of cases are replaced in the scores and the lists of cases are left out, unless `keep_identifiers`.

    Args:
        folder: the model's folder.
        package: the file to write.
        names: of the folds; None: all finished folds.
        keep_identifiers: keep the ids of the training and validation cases.
        progress: called while the file is written.
    """
    folds = chosen_folds(folder, names, "best")
    check_together(folds)
    if other := [fold.path for fold in folds if not FOLD_NAME.fullmatch(fold.path.name)]:
        raise UserError(f"{other[0]}: expected the name of a fold (fold_0, ..., fold_all). Rename the folder.")
    contents = {
        f"{fold.path.name}/{path}": content for fold in folds for path, content in _contents(fold, keep_identifiers)
    }
    manifest = Package(
        dataset=plan_of_fold(folds[0]).dataset,
        model=folds[0].path.resolve().parent.name,  # the folder may be that of one fold
        identifiers=keep_identifiers,
        files={name: _hash_of(content) for name, content in contents.items()},
    )
    _refuse_other_file(package)
    sweep([package.parent])
    written = bytes_reporter(progress, "Export", sum(file.size for file in manifest.files.values()))
    with replacing(package) as temporary, zipfile.ZipFile(temporary, "x", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(MANIFEST), manifest.model_dump_json(indent=1))
        for name, content in contents.items():
            source = io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")
            with source, archive.open(zipfile.ZipInfo(name), "w") as target:  # without times and owners
                copy_parts(source, target, written)
    return manifest


def _refuse_other_file(path: Path) -> None:
    """Raise `UserError` where a packaged model would replace another file."""
    if path.is_file():
        try:
            read_package(path)
        except UserError:
            raise UserError(f"{path} exists and is not a packaged model. Choose another name.") from None


def _contents(fold: FoldFolder, keep_identifiers: bool) -> Iterator[tuple[str, Path | bytes]]:
    """The files of a fold: path below it, and the file or its content."""
    for path in _packaged(fold):
        if path == fold.summary and own_scores(fold) is None:
            continue
        if path.is_file() and (keep_identifiers or path != fold.cases):
            content: Path | bytes = path
            if path == fold.summary and not keep_identifiers:
                content = _without_identifiers(Summary.read(path), fold).model_dump_json(indent=1).encode()
            yield path.relative_to(fold.path).as_posix(), content


def _hash_of(content: Path | bytes) -> FileHash:
    if isinstance(content, bytes):
        return FileHash.of(content)
    return FileHash(size=content.stat().st_size, sha256=hash_once(content))


def _packaged(fold: FoldFolder) -> tuple[Path, ...]:
    """The files that a packaged fold may have."""
    of_model = fold.plan, fold.checkpoint("best"), fold.text_bank, fold.text_space
    return *of_model, fold.sampling, fold.calibration, fold.postprocessing, fold.validated, fold.cases, fold.summary


def _without_identifiers(summary: Summary, fold: FoldFolder) -> Summary:
    """The scores with numbers for case ids, from the lowest Dice to the highest. Other folds have other names."""
    ordered = sorted(summary.cases, key=lambda case: -1.0 if case.mean_dice is None else case.mean_dice)
    digits, name = len(str(len(ordered))), fold.path.name
    cases = tuple(
        case.model_copy(update={"case": f"{name}_case_{number:0{digits}}"})
        for number, case in enumerate(ordered, start=1)
    )
    return summary.model_copy(update={"cases": cases, "comparison": None})


def has_identifiers(fold: FoldFolder) -> bool:
    """Whether the scores of a fold have the ids of its cases. An import may have numbers in their place."""
    cases = Summary.read(fold.summary).cases if fold.summary.is_file() else ()
    return fold.cases.is_file() or not all(_NUMBERED.fullmatch(case.case) for case in cases)


def read_package(package: Path) -> Package:
    """The manifest of a packaged model. Raises `UserError` unless names, kinds and sizes of its files are right."""
    if not package.exists():
        raise UserError(f"{package} does not exist. Give a packaged model, a file of tds_export_model.")
    if not package.is_file():
        raise UserError(f"{package} is not a plain file. Give a packaged model.")
    try:
        with zip_faults_as_damage(), zipfile.ZipFile(package) as archive:
            entries = archive.infolist()
            if MANIFEST not in archive.namelist() or archive.getinfo(MANIFEST).file_size > MAX_MANIFEST_BYTES:
                raise UserError(f"{package} is not a packaged model: it holds no {MANIFEST}.")
            _refuse_forms(package, entries)  # before anything is decompressed
            manifest = Package.parse_json(archive.read(MANIFEST).decode(), f"{package}: {MANIFEST}")
    except PermissionError:
        raise  # another copy would not help
    except (Damaged, OSError) as error:
        raise UserError(f"{package} cannot be read as a packaged model ({error}). {COPY_AGAIN}") from None
    for name in (manifest.dataset, manifest.model):
        if not is_plain_name(name) or name != name.strip() or name.startswith("-"):
            raise UserError(f"{package}: {printable(name)!r} is not the name of a folder. Do not use this file.")
    names = [entry.filename for entry in entries]
    if len({*names}) < len(names) or {*names} != {MANIFEST, *manifest.files}:
        raise UserError(f"{package}: its files are not those of its {MANIFEST}. {COPY_AGAIN}")
    for entry in entries:
        if entry.filename != MANIFEST and (fault := _fault_of(entry, manifest.files[entry.filename])):
            raise UserError(f"{package}: {entry.filename} {fault}. Do not use this file.")
    return manifest


def _refuse_forms(package: Path, entries: Sequence[zipfile.ZipInfo]) -> None:
    """Raise `UserError` for a link, a device or a compressed file in a package."""
    for entry in entries:
        if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
            raise UserError(f"{package}: {entry.filename} is a link or a device. Do not use this file.")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise UserError(
                f"{package}: {entry.filename} is compressed, which packaged models are not. Do not use this file."
            )


def _fault_of(entry: zipfile.ZipInfo, expected: FileHash) -> str | None:
    """What is wrong with the name or the size of a fold's file; None if nothing is."""
    fold, _, path = entry.filename.partition("/")
    allowed = {file.relative_to(fold).as_posix() for file in _packaged(FoldFolder(Path(fold)))}
    if not FOLD_NAME.fullmatch(fold) or path not in allowed:
        return "is not a file of a fold"
    return None if entry.file_size == expected.size else f"has {entry.file_size} bytes, expected {expected.size}"
