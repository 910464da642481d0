"""Files that are derived from a predicted mask: the picture, and the mask in other forms (`Conversion`).

They are written with the mask, or later from the files of a complete case. So a case is not predicted again to get
them. The manifest lists them apart from the outputs of the prediction. If the mask was corrected by hand, they are made
again from the corrected one.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from plans.errors import UserError
from plans.file_names import DICOM, manifest_path
from plans.layout import DICOM_SEG, RTSTRUCT, SEPARATE, Conversion
from textdiffseg.arguments import check_choice
from textdiffseg.extras import require
from textdiffseg.files import hash_files, hash_once, write_record
from textdiffseg.imaging.sources.files import files_of, read_geometry, read_labels
from textdiffseg.imaging.volume import Geometry, Volume, describe
from textdiffseg.imaging.writers.conversions import OtherForms
from textdiffseg.inference.measures import structures_of
from textdiffseg.inference.result import Result
from textdiffseg.leftovers import sweep
from textdiffseg.tasks.manifest import Manifest, is_readable
from textdiffseg.tasks.one_scan import PredictionRun
from textdiffseg.tasks.picturing import draw, draw_from_files, drop_picture, is_drawn, refuse_picture_of_others


def require_extras(picture: bool, conversions: Collection[Conversion]) -> None:
    """Raise `UserError` for a conversion that does not exist, or that needs a library that is not installed."""
    for kind in conversions:
        check_choice("conversions", kind, get_args(Conversion))
    if picture:
        require("report", "tds_predict --picture", "matplotlib")
    for kind in (DICOM_SEG, RTSTRUCT):
        if kind in conversions:
            require("dicom", f"tds_predict --{kind}")


@dataclass(frozen=True)
class DerivedFiles:
    """The derived files of one case that were requested."""

    run: PredictionRun
    mask: Path  # the path of the mask
    scan: tuple[Path, ...]  # its files

    @property
    def forms(self) -> OtherForms:
        """The forms of the mask that were requested."""
        selection = self.run.prepared.selection
        structures = structures_of(self.run.prepared.plan, selection)
        return OtherForms(self.mask, tuple(self.run.conversions), structures, selection.values)

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files but the picture."""
        return self.forms.paths

    def check(self, before: Manifest | None) -> None:
        """Raise `UserError` if a file would replace one of the user, or cannot be made from the scan."""
        self.forms.check(self.scan[0], prefix="--")
        if self.run.picture:
            refuse_picture_of_others(self.mask, before, self.run.overwrite)
        known = {} if before is None else before.converted
        for path in (path for path in self.paths if path.exists() and not self.run.overwrite):
            digest = known.get(self._name(path))
            if digest is None:
                raise UserError(
                    f"{path} exists and was not made by tds_predict. Choose another output folder, or --overwrite."
                )
            if digest and hash_once(path) != digest and _is_readable(path):  # "": a process was killed
                raise UserError(
                    f"{path} was changed after it was made, perhaps by hand. Move it away, or replace it with "
                    "--overwrite."
                )

    def is_converted(self, manifest: Manifest) -> bool:
        """Whether all files but the picture are there, unchanged."""
        digests = {path: manifest.converted.get(self._name(path)) for path in self.paths}
        return all(path.is_file() and hash_once(path) == digest for path, digest in digests.items())

    def drop(self, before: Manifest | None) -> None:
        """Delete the files of an earlier mask before the mask is replaced. Files that changed since are kept."""
        drop_picture(self.mask, before)
        for name, digest in {} if before is None else before.converted.items():
            path = self.run.out / name
            if not self._is_derived(path):  # a manifest may come from anyone
                continue
            if path.is_file() and digest in ("", hash_files([path])):  # "": a process was killed while it wrote
                for file in files_of(path):
                    file.unlink(missing_ok=True)

    def complete(self, manifest: Manifest, corrected: bool) -> None:
        """Write those files of a complete case that are missing or of another mask, from its mask and its scan.

        `corrected`: the mask is not the predicted one.
        """
        manifest = self._of_present_mask(manifest, corrected)
        if self.run.picture and not is_drawn(self.mask, manifest):
            missing = self.run.missing.get(manifest.request.case, ())
            manifest = draw_from_files(self.mask, self.scan, missing, manifest, self.run.prepared.hounsfield)
        if not self.is_converted(manifest):
            mask = read_labels(self.mask)
            self._convert(mask.array[0], mask.geometry, manifest)

    def _of_present_mask(self, manifest: Manifest, corrected: bool) -> Manifest:
        """The manifest without the files of an earlier state of the mask, which are deleted."""
        predicted = manifest.outputs[self.mask.name]
        present = hash_files([self.mask]) if corrected else predicted
        if present == (manifest.made_from or predicted):
            return manifest
        if (self.paths or self.run.picture) and (scan := read_geometry(self.scan[0])) is not None:
            mask = read_labels(self.mask).geometry
            if not mask.matches(scan):
                raise UserError(
                    f"{self.mask} was changed, and now has another grid ({describe(mask)}) than its scan "
                    f"({describe(scan)}). Resample it, or leave out the options that make more files of it."
                )
        self.drop(manifest)
        manifest = manifest.model_copy(update={"converted": {}, "picture": None, "made_from": present})
        write_record(manifest_path(self.mask), manifest)
        return manifest

    def write(self, result: Result, volume: Volume | None, manifest: Manifest) -> None:
        """Write all files, and note them in the manifest. volume: the scan, for the picture.

        The picture comes first, as a DICOM form may fail.
        """
        if self.run.picture and volume is not None:
            manifest = draw(self.mask, volume, result.labels, manifest, self.run.prepared.hounsfield)
        self._convert(result.labels, result.geometry, manifest)

    def _convert(self, labels: np.ndarray, geometry: Geometry, manifest: Manifest) -> None:
        """Write all files but the picture, and note them in the manifest. labels: values (D, H, W) on `geometry`."""
        if not self.paths:
            return
        begun = manifest.converted | {self._name(path): "" for path in self.paths}
        write_record(manifest_path(self.mask), manifest.model_copy(update={"converted": begun}))
        sweep({path.parent for path in self.paths})
        self.forms.write(labels, geometry, self.scan[0], manifest.versions.get("textdiffseg", ""))
        done = manifest.converted | {self._name(path): hash_files([path]) for path in self.paths}
        write_record(manifest_path(self.mask), manifest.model_copy(update={"converted": done}))

    def _is_derived(self, path: Path) -> bool:
        """Whether a path lies in a folder of derived files, after all links are followed."""
        folders = [(self.run.out / kind).resolve() for kind in (SEPARATE, DICOM_SEG, RTSTRUCT)]
        return any(path.resolve().is_relative_to(folder) for folder in folders)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.run.out).as_posix()


def _is_readable(path: Path) -> bool:
    """Whether a derived file opens. One that was cut off is written again."""
    if path.suffix != DICOM:
        return is_readable(path)
    from pydicom import dcmread

    try:
        dcmread(path, stop_before_pixels=True)
    except Exception:  # pydicom raises many kinds
        return False
    return True
