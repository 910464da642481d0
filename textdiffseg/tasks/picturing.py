"""The picture beside a predicted mask. It is drawn with the mask, or later from the files of a complete case."""

from pathlib import Path

import numpy as np

from plans.errors import UserError
from plans.file_names import manifest_path, picture_file, split_ending
from textdiffseg.files import hash_files, write_record
from textdiffseg.imaging.volume import Volume
from textdiffseg.tasks.manifest import Manifest


def picture_path(mask: Path) -> Path:
    """The path of a mask's picture."""
    return mask.with_name(picture_file(split_ending(mask.name)[0]))


def refuse_picture_of_others(mask: Path, before: Manifest | None, overwrite: bool) -> None:
    """Raise `UserError` if the picture would replace a file that no prediction wrote."""
    picture = picture_path(mask)
    if picture.exists() and not overwrite and (before is None or before.picture is None):
        raise UserError(
            f"{picture} exists and was not made by tds_predict. Choose another output folder, or --overwrite."
        )


def is_drawn(mask: Path, manifest: Manifest) -> bool:
    """Whether the picture beside a mask is the one in its manifest."""
    picture = picture_path(mask)
    return manifest.picture is not None and picture.is_file() and hash_files([picture]) == manifest.picture


def drop_picture(mask: Path, before: Manifest | None) -> None:
    """Delete the picture of an earlier mask before the mask is replaced."""
    if before is not None and is_drawn(mask, before):
        picture_path(mask).unlink()


def draw_from_files(
    mask: Path, paths: tuple[Path, ...], missing: tuple[int, ...], manifest: Manifest, hounsfield: bool
) -> Manifest:
    """The manifest with the picture of a complete case, which is drawn. `missing`: channels without a file."""
    from textdiffseg.imaging.sources.files import read_labels, read_volume

    return draw(mask, read_volume(paths, missing=missing), read_labels(mask).array[0], manifest, hounsfield)


def draw(mask: Path, scan: Volume, labels: np.ndarray, manifest: Manifest, hounsfield: bool) -> Manifest:
    """The manifest with the picture of a predicted case, which is drawn. labels: values (D, H, W)."""
    from textdiffseg.imaging.planes import draw_planes

    names = {value: name for name, value in manifest.labels.items()}
    draw_planes(picture_path(mask), scan, labels, names, manifest.request.case, hounsfield)
    drawn = manifest.model_copy(update={"picture": hash_files([picture_path(mask)])})
    write_record(manifest_path(mask), drawn)
    return drawn
