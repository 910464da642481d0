"""The file of voxels that a header names. It has to be a plain file in the header's own folder."""

from pathlib import Path

from plans.errors import UserError


def beside(header: Path, name: str) -> Path:
    """The file `name` in the folder of `header`. Raises `UserError` for any other place, and where there is none.

    A link may lead to it, as long as it leads into the folder that a link to the header leads into.
    """
    path = header.parent / name
    if "\0" in name or name in ("", ".", "..") or path.name != name or "\\" in name:
        raise UserError(
            f"{header}: it names {name!r:.80} as the file of its voxels, expected the name of a file in the same "
            "folder. Put it there and write its name into the header."
        )
    if not path.exists():
        raise UserError(f"{header}: {name!r:.80}, the file of its voxels, is missing. Put it beside the header.")
    if not path.is_file() or (path.resolve().parent != header.resolve().parent and path.is_symlink()):
        raise UserError(
            f"{header}: {name!r:.80}, the file of its voxels, is not a plain file in the same folder. Copy it there."
        )
    return path
