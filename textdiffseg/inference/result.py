"""`Result`: the segmentation of one scan, on the scan's own grid."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np

from plans.errors import UserError
from plans.file_names import NIFTI, alternative_file, split_ending
from plans.layout import SEPARATE, Conversion
from textdiffseg.arguments import check_choice, path_of, several
from textdiffseg.extras import require
from textdiffseg.folds.expected_dice import ExpectedDice
from textdiffseg.imaging.volume import Geometry, Volume
from textdiffseg.inference.alternatives import Alternative
from textdiffseg.inference.maps import probability_map
from textdiffseg.inference.volumes import VolumeInterval
from textdiffseg.preprocessing.case import TransformRecord, restore_map

if TYPE_CHECKING:
    from ipyniivue import NiiVue
    from monai.data.meta_tensor import MetaTensor

    from textdiffseg.imaging.sources.objects import Scan
    from textdiffseg.imaging.sources.tensors import MonaiRecord
    from textdiffseg.imaging.writers.conversions import OtherForms


@dataclass(frozen=True)
class Result:
    """The segmentation of one scan. Arrays have the axes of the given scan, in its order.

    `probability` and `uncertainty` are computed when they are called. Each takes as much memory as the scan.
    """

    labels: np.ndarray  # the value of each voxel, 0 background
    geometry: Geometry  # of `labels`
    names: tuple[str, ...]  # of the labels that were queried
    values: tuple[int, ...]  # of these labels in `labels`
    structures: Mapping[str, tuple[int, ...]]  # all values of each label, by name; several if labels overlap
    volumes: Mapping[str, VolumeInterval]  # ml, by name; with an interval if validation has fitted a factor
    notes: tuple[str, ...]  # on the model and the mask
    scan_notes: tuple[str, ...]  # on the scan's position and orientation
    transform: TransformRecord  # from the scan's grid to the plan's
    maps: Mapping[str, np.ndarray]  # on the plan's grid, by the names of `probabilities` and `uncertainty`
    hounsfield: bool = False  # the scan is CT
    channels: tuple[str, ...] = ()  # of the model
    series: str | None = None  # UID of the DICOM series that was chosen
    expected_dice: ExpectedDice | None = None  # by label and their mean; None: validation has fitted no curve
    alternatives: tuple[Alternative, ...] = ()  # the largest share first; empty unless requested
    monai: "MonaiRecord | None" = None  # of the MetaTensor that was segmented
    scan_files: tuple[Path, ...] = ()  # that were segmented; empty for arrays and images

    def mask(self, name: str) -> np.ndarray:
        """The mask of a label, bool. If labels overlap, it holds only the voxels that this label writes.

        `UserError` for a name that is not in `names`.
        """
        return self.labels == self.values[self._index(name)]

    def probability(self, name: str) -> np.ndarray:
        """The calibrated probability of a label, float32. `UserError` unless probabilities were requested."""
        return self._map(probability_map(self.names, self.names[self._index(name)]))

    def uncertainty(self, name: str = "entropy") -> np.ndarray:
        """A map in bits: `entropy`, `between_samples` or `between_folds`. `UserError` unless requested."""
        return self._map(f"uncertainty/{name}")

    def write(
        self,
        folder: str | Path,
        name: str = f"segmentation{NIFTI}",
        conversions: Conversion | Sequence[Conversion] = (),
    ) -> tuple[str, ...]:
        """The paths of all written files, relative to `folder`: mask, alternatives, probabilities/..., uncertainty/...

        The ending of `name` sets the format. `conversions` are other forms of the mask, each in a folder of its name:
        "separate" (one file per label), "dicom-seg" and "rtstruct", on the slices of the scan.

        Raises `UserError` if the mask would replace the segmented scan. For DICOM also if the scan was not given as a
        path or is not DICOM, or if the extra `dicom` is not installed. Nothing is written then.
        """
        from textdiffseg.imaging.writers.files import write_labels, write_volume

        folder, name = self._target(folder, name)
        forms = self._forms(folder / name, several(conversions))
        write_labels(folder / name, self.labels, self.geometry)
        written = [name]
        for number, alternative in enumerate(self.alternatives, start=1):
            written.append(alternative_file(*split_ending(name), number))
            write_labels(folder / written[-1], alternative.labels, self.geometry)
        stem, ending = split_ending(name)
        for path, array in self._map_paths(stem):
            written.append(f"{path}{ending}")
            write_volume(folder / written[-1], restore_map(array, self.transform), self.geometry)
        forms.write(self.labels, self.geometry, self._path, version("textdiffseg"), self.series)
        return *written, *(path.relative_to(folder).as_posix() for path in forms.paths)

    def metatensor(self) -> "MetaTensor":
        """The mask as MONAI's MetaTensor (1, x, y, z), with the affine of the scan (RAS+ in mm).

        The mask of a MetaTensor has a copy of its meta, the affine and its space included, and of its applied
        operations. So MONAI's transforms can invert them. Raises `UserError` if MONAI is not installed.
        """
        from textdiffseg.imaging.writers.tensors import as_metatensor

        return as_metatensor(self.labels, self.geometry, self.monai)

    def picture(
        self,
        path: str | Path,
        scan: "Scan",
        *,
        spacing: Sequence[float] | None = None,
        affine: np.ndarray | None = None,
        title: str = "",
    ) -> None:
        """Write a PNG of the segmented scan and its masks, in three planes through the middle of the masks.

        `scan`, `spacing` and `affine` are those of `Model.segment`. Raises `UserError` if the scan has another grid, or
        if matplotlib is not installed.
        """
        from textdiffseg.imaging.planes import draw_planes

        if not str(path).lower().endswith(".png"):
            raise UserError(f"picture: expected a name that ends with .png, found {str(path)!r}.")
        volume = self._scan(scan, spacing, affine, "picture")
        draw_planes(path_of(path), volume, self.labels, self._names, title, self.hounsfield)

    def view(
        self, scan: "Scan", *, spacing: Sequence[float] | None = None, affine: np.ndarray | None = None
    ) -> "NiiVue":
        """A NiiVue widget of the segmented scan and its masks, for a notebook. Its slices scroll.

        The arguments are those of `picture`. Raises `UserError` if the scan has another grid, or if ipyniivue is not
        installed.
        """
        from textdiffseg.imaging.notebook import niivue_widget

        return niivue_widget(self._scan(scan, spacing, affine, "view"), self.labels, self._names, self.hounsfield)

    def _forms(self, mask: Path, kinds: tuple[Conversion, ...]) -> "OtherForms":
        """The other forms of the mask. Raises `UserError` if they cannot be written."""
        from textdiffseg.imaging.writers.conversions import OtherForms

        for kind in kinds:
            check_choice("conversions", kind, get_args(Conversion))
            if kind != SEPARATE:
                require("dicom", "Result.write")
        forms = OtherForms(mask, kinds, self.structures, self.values)
        forms.check(self._path, self.series)
        return forms

    @property
    def _path(self) -> Path | None:
        """The file or folder of the segmented scan; None: it was not given as a path."""
        return self.scan_files[0] if self.scan_files else None

    def _target(self, folder: str | Path, name: str | Path) -> tuple[Path, str]:
        """The folder and the name to write to. Raises `UserError` where other data would be lost."""
        path, file = path_of(folder), str(name)
        if Path(file).name != file:
            raise UserError(f"name: expected a file name without a folder, found {file!r}.")
        if path.is_file():
            raise UserError(f"{path} is a file, expected a folder. Give the name of the mask as `name`.")
        if (path / file).resolve() in [scan_file.resolve() for scan_file in self.scan_files]:
            raise UserError(f"{path / file} is the scan itself. Choose another folder or name.")
        return path, file

    def _index(self, name: str) -> int:
        """The index of a label in `names`. Capitals make no difference."""
        if name in self.names:
            return self.names.index(name)
        folded = [label.casefold() for label in self.names]
        if name.casefold() not in folded:
            raise UserError(f"This result has no label {name!r}. It has {', '.join(map(repr, self.names))}.")
        return folded.index(name.casefold())

    def _map(self, name: str) -> np.ndarray:
        if name not in self.maps:
            kind = name.partition("/")[0]
            advice = "" if any(held.startswith(kind) for held in self.maps) else f" Segment with {kind}=True."
            held = ", ".join(map(repr, self.maps)) or "none"
            raise UserError(f"This result has no map {name!r}. It has {held}.{advice}")
        return restore_map(self.maps[name], self.transform)

    @property
    def _names(self) -> dict[int, str]:
        """The name of each value."""
        return dict(zip(self.values, self.names, strict=True))

    def _scan(self, scan: "Scan", spacing: Sequence[float] | None, affine: np.ndarray | None, purpose: str) -> Volume:
        """The scan to show. Raises `UserError` if it has another grid than the masks."""
        from textdiffseg.imaging.sources.objects import volume_of

        volume = volume_of(scan, spacing, affine, self.series, self.channels)
        if volume.geometry.shape != self.geometry.shape:
            found, expected = ("x".join(map(str, geometry.shape)) for geometry in (volume.geometry, self.geometry))
            raise UserError(f"{purpose}: found a scan of {found} voxels, expected the segmented one of {expected}.")
        if not volume.geometry.matches(self.geometry):
            raise UserError(
                f"{purpose}: the scan has other axes or another place than the masks. Give it as to segment."
            )
        return volume

    def _map_paths(self, stem: str) -> Iterator[tuple[str, np.ndarray]]:
        """The path without ending of each map, e.g. `probabilities/CASE_1_liver`, and the map."""
        for name, array in self.maps.items():
            folder, _, map_name = name.partition("/")
            yield f"{folder}/{stem}_{map_name}", array
