"""The folder of a data set under the root, found by id (`4`), name (`Hippocampus`), folder name or path.

Data sets joined by `+` are trained together (`plans.raw.combined`): `4+101`.
"""

import os
import re
from pathlib import Path

from plans.errors import UserError
from plans.layout import RawFolder, Tree, tree

_COMBINATION = r"Dataset(\d+(?:\+\d+)+)_(.+)"  # the folder of data sets that are trained together
_ADVICE = {
    "raw": "Put the data set there, or give its path",
    "preprocessed": "Run tds_plan_and_preprocess first",
    "results": "Run tds_train first",
}


def find_dataset(name_or_path: str, root: Path) -> Path:
    """The folder of a raw data set. Raises `UserError` with a list of all folders if it is not found."""
    return find_folder(name_or_path, root, "raw")


def find_datasets(names_or_path: str, root: Path) -> list[Path]:
    """The raw folders of one data set, or of several joined by `+`.

    Raises `UserError` with a line for each data set that is not found.
    """
    is_folder = Path(names_or_path).expanduser().is_dir() or (tree(root, "raw") / names_or_path).is_dir()
    names = [names_or_path] if is_folder else joined_ids(names_or_path).split("+")
    folders: list[Path] = []
    faults: list[str] = []
    for name in names:
        try:
            folders.append(find_dataset(name, root))
        except UserError as error:
            faults += error.lines
    if faults:
        raise UserError(*faults)
    return folders


def id_and_title(folder: str) -> tuple[int | None, str]:
    """The id and name in a folder name: `Dataset004_Hippocampus` -> (4, "Hippocampus"), any other -> (None, folder)."""
    match = re.fullmatch(r"(?:Dataset|Task)?(\d+)_(.+)", folder)
    return (int(match[1]), match[2]) if match else (None, folder)


def joined_ids(folder: str) -> str:
    """The name that `find_datasets` takes, of a folder: `Dataset004+101_A+B` -> "4+101", any other -> itself."""
    match = re.fullmatch(_COMBINATION, folder)
    return "+".join(str(int(number)) for number in match[1].split("+")) if match else folder


def find_folder(name_or_path: str, root: Path, kind: Tree) -> Path:
    """The data set's folder in one of the three trees under `root`.

    A path outside the tree is accepted for raw data. In the other trees, its last part is taken as the name. Raises
    `UserError` with a list of the data sets if no folder or several folders fit.
    """
    trunk, name = tree(root, kind), str(name_or_path).rstrip("/" + os.sep)
    path = Path(name).expanduser()
    exists = bool(name) and path.is_dir()
    folders = sorted(child for child in trunk.iterdir() if child.is_dir()) if trunk.is_dir() else []
    if exists and (kind == "raw" or path.resolve().parent == trunk.resolve()):
        looks_like_path = len(path.parts) > 1 or path.is_absolute() or name in (".", "..")
        if looks_like_path or RawFolder(path).header.is_file() or kind != "raw":
            return path
    name = path.resolve().name if exists else "+".join(Path(part).name for part in name.split("+"))
    matches = _matches(name, folders)
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UserError(f"{name_or_path!r} fits {_list(matches)} in {trunk}. Give the folder's full name.")
    raise UserError(
        f"No data set {name_or_path!r} in {trunk}, which holds {_list(folders) or 'nothing'}. {_ADVICE[kind]}, "
        "or choose another --root."
    )


def _matches(name: str, folders: list[Path]) -> list[Path]:
    """The folder with the full name `name`, else all folders with that id or that name after `Dataset004_`."""
    exact = [folder for folder in folders if folder.name == name]
    if exact:
        return exact
    members = name.split("+")
    return [
        folder
        for folder in folders
        if _named([name], [id_and_title(folder.name)]) or _named(members, members_of(folder.name))
    ]


def members_of(folder: str) -> list[tuple[int | None, str]]:
    """The ids and names of the data sets in a folder name: `Dataset004+101_A+B` -> [(4, "A"), (101, "B")]."""
    match = re.fullmatch(_COMBINATION, folder)
    if match:
        return list(zip(map(int, match[1].split("+")), match[2].split("+"), strict=False))
    return [id_and_title(title) for title in folder.split("+")]


def _named(parts: list[str], members: list[tuple[int | None, str]]) -> bool:
    """Whether the parts name the members, in any order."""
    return len(parts) == len(members) and all(any(_names(part, member) for part in parts) for member in members)


def _names(part: str, member: tuple[int | None, str]) -> bool:
    number, title = member
    by_id = re.fullmatch(r"(?:Dataset|Task)?(\d+)", part)
    same_id = by_id is not None and number == int(by_id[1])
    return same_id or part.casefold() == title.casefold() or id_and_title(part) == member


def _list(folders: list[Path]) -> str:
    return ", ".join(folder.name for folder in folders)
