"""The file with the voxels that a header names. It must be a plain file in the header's own folder."""

from pathlib import Path

from plans.errors import UserError


def neighbour(header: Path, name: str) -> Path:
    """The file `name` in the folder of `header`. Raises `UserError` if it is elsewhere or missing.

    It may be a link, if header and voxels are in the same folder after all links are followed.
    """
    path = header.parent / name
    if "\0" in name or name in ("", ".", "..") or path.name != name or "\\" in name:
        raise UserError(
            f"{header}: it names {name!r:.80} as the file with its voxels. Expected the name of a file in the same "
            "folder. Put it there and write its name into the header."
        )
    if not path.exists():
        raise UserError(f"{header}: {name!r:.80}, the file with its voxels, is missing. Put it beside the header.")
    if not path.is_file() or (path.resolve().parent != header.resolve().parent and path.is_symlink()):
        raise UserError(
            f"{header}: {name!r:.80}, the file with its voxels, is not a plain file in the same folder. Copy it there."
        )
    return path
