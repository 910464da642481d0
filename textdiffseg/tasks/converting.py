"""Further files of a predicted mask: one mask per label, DICOM-SEG, RTSTRUCT.

They are made from the mask, with it or later from the files of a complete case. So a case is not predicted again to
get them. The manifest lists them apart from the outputs of the prediction.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from plans.errors import UserError
from plans.file_names import label_stems, manifest_path, split_ending
from plans.layout import SEPARATE
from textdiffseg.files import hash_files, write_record
from textdiffseg.imaging.sources.files import files_of, read_labels
from textdiffseg.imaging.volume import Geometry
from textdiffseg.imaging.writers.separate import write_separate
from textdiffseg.inference.measures import values_within
from textdiffseg.leftovers import sweep
from textdiffseg.tasks.manifest import Manifest
from textdiffseg.tasks.one_scan import PredictionRun


@dataclass(frozen=True)
class Converting:
    """The further files of one case."""

    run: PredictionRun
    mask: Path  # the path of the mask
    scan: tuple[Path, ...]  # its files

    @property
    def separate(self) -> dict[Path, tuple[int, ...]]:
        """The values of each file with the mask of one label."""
        stem, ending = split_ending(self.mask.name)
        selection = self.run.segmenting.selection
        stems = label_stems(selection.names, selection.values)
        folder = self.run.out / SEPARATE / stem
        parts = values_within(self.run.segmenting.plan, selection)
        return {folder / f"{one}{ending}": values for one, values in zip(stems, parts, strict=True)}

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files that were requested."""
        return tuple(self.separate) if SEPARATE in self.run.conversions else ()

    def refuse_others(self, before: Manifest | None) -> None:
        """Raise `UserError` if one of the files would replace a file that no prediction wrote."""
        known = {} if before is None else before.converted
        for path in () if self.run.overwrite else self.paths:
            if path.exists() and self._name(path) not in known:
                raise UserError(
                    f"{path} exists and was not made by tds_predict. Choose another output folder, or --overwrite."
                )

    def is_done(self, manifest: Manifest) -> bool:
        """Whether all files that were requested are there, unchanged."""
        digests = {path: manifest.converted.get(self._name(path)) for path in self.paths}
        return all(path.is_file() and hash_files([path]) == digest for path, digest in digests.items())

    def drop(self, before: Manifest | None) -> None:
        """Delete the files of an earlier mask before the mask is replaced. Files that changed since are kept."""
        for name, digest in {} if before is None else before.converted.items():
            path = self.run.out / name
            if path.is_file() and digest in ("", hash_files([path])):  # "": a process was killed while it wrote
                for file in files_of(path):
                    file.unlink(missing_ok=True)

    def from_mask(self, manifest: Manifest) -> Manifest:
        """The manifest of a complete case with the requested files. If one is missing, they are made from the mask."""
        if self.is_done(manifest):
            return manifest
        mask = read_labels(self.mask)
        return self.write(mask.array[0], mask.geometry, manifest)

    def write(self, labels: np.ndarray, geometry: Geometry, manifest: Manifest) -> Manifest:
        """The manifest with the requested files, which are written. labels: values (D, H, W) on `geometry`."""
        if not self.paths:
            return manifest
        begun = manifest.converted | {self._name(path): "" for path in self.paths}
        write_record(manifest_path(self.mask), manifest.model_copy(update={"converted": begun}))
        sweep({path.parent for path in self.paths})
        write_separate(self.separate, labels, geometry)
        done = manifest.converted | {self._name(path): hash_files([path]) for path in self.paths}
        final = manifest.model_copy(update={"converted": done})
        write_record(manifest_path(self.mask), final)
        return final

    def _name(self, path: Path) -> str:
        return path.relative_to(self.run.out).as_posix()
