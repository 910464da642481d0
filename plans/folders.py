"""Where a data set lies under the root, by id (`4`), name (`Hippocampus`), folder name or path."""

import os
import re
from pathlib import Path
from typing import Literal

from plans.errors import UserError

Kind = Literal["raw", "preprocessed", "results"]
_DO = {
    "raw": "Put the data set there, or give its path",
    "preprocessed": "Run tds_plan_and_preprocess first",
    "results": "Run tds_train first",
}


def find_dataset(name_or_path: str, root: Path) -> Path:
    """The raw data set's folder; `UserError` lists what exists."""
    return find_folder(name_or_path, root, "raw")


def find_folder(name_or_path: str, root: Path, kind: Kind) -> Path:
    """The data set's folder in one of the three trees under `root`; `UserError` lists what exists.

    A path outside the tree is taken as it is for raw data; for the other trees its last part is the name.
    """
    tree, name = Path(root) / kind, str(name_or_path).rstrip("/" + os.sep)
    path = Path(name).expanduser()
    exists = bool(name) and path.is_dir()
    folders = sorted(child for child in tree.iterdir() if child.is_dir()) if tree.is_dir() else []
    if exists and (kind == "raw" or path.resolve().parent == tree.resolve()):
        looks_like_path = len(path.parts) > 1 or path.is_absolute() or name in (".", "..")
        if looks_like_path or (path / "dataset.json").is_file() or kind != "raw":
            return path
    wanted = path.resolve().name if exists else path.name
    found = _matches(wanted, folders)
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{name_or_path!r} fits {_list(found)} in {tree}. Give the folder's full name.")
    raise UserError(
        f"No data set {name_or_path!r} in {tree}, which holds {_list(folders) or 'nothing'}. {_DO[kind]}, "
        "or choose another --root."
    )


def _matches(wanted: str, folders: list[Path]) -> list[Path]:
    """Folders of that full name; otherwise of that id; otherwise of that name after Dataset004_."""
    exact = [folder for folder in folders if folder.name == wanted]
    if exact:
        return exact
    found = []
    for folder in folders:
        match = re.fullmatch(r"(?:Dataset|Task)?(\d+)_(.+)", folder.name)
        number, title = (int(match[1]), match[2]) if match else (None, folder.name)
        by_id = re.fullmatch(r"(?:Dataset|Task)?(\d+)", wanted)
        if (by_id and number == int(by_id[1])) or title.casefold() == wanted.casefold():
            found.append(folder)
    return found


def _list(folders: list[Path]) -> str:
    return ", ".join(folder.name for folder in folders)
