"""One label map of several masks: structures of a DICOM object, segments with names, or one file per structure.

A label map holds one label per voxel. Where structures overlap a little, or where one lies inside another, the voxels
belong to the smaller one, with a note. Any other overlap is refused.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from plans.errors import UserError, listed
from plans.names import normalise
from plans.raw.gaps import LabelGap
from textdiffseg.imaging.boxes import bounds
from textdiffseg.imaging.regrid import placed
from textdiffseg.imaging.sources.dicom.drawings import StructureMask, masks_of
from textdiffseg.imaging.sources.files import read_labels
from textdiffseg.imaging.volume import Geometry, describe, grid_advice
from textdiffseg.tasks.new.sources import CaseSource, Sources
from textdiffseg.tasks.new.values import refuse_negative

MAX_OVERLAP, MIN_INSIDE = 0.1, 0.9  # shares of the smaller structure


def structure_names(source: CaseSource) -> tuple[str, ...]:
    """The names of the structures of a case; () for a label map."""
    if source.drawing is not None:
        return tuple(source.drawing.names.values())
    return (*source.structure_files, *(name for name, _ in source.segments))


def unheld(gaps: Sequence[LabelGap], sources: Sources, left_out: Sequence[str]) -> Iterator[str]:
    """A line for each label that no mask holds. `left_out`: structures without a voxel, which get no label."""
    names = list(dict.fromkeys(name for source in sources.cases for name in structure_names(source)))
    known = {normalise(name) for name in names}
    for gap in gaps:
        if not gap.cases:
            what = f"No mask holds the value {gap.value} ({gap.name})."
            if names and normalise(gap.name) not in known:
                what = f"No mask has the structure {gap.name}. Structures there: {listed(names)}."
            yield f"{what} If that is a mistake, correct --labels, and give --overwrite."
    if left_out:
        yield f"No case has a voxel of these structures, so they are not labels: {', '.join(left_out)}."


def read_mask(path: Path, geometry: Geometry) -> tuple[np.ndarray, bool]:
    """A label map (D, H, W) on the grid of the scan, and whether it was placed there.

    A map with the same voxels may be turned, or cover a part of the scan. Raises `UserError` for any other grid.
    """
    labels = read_labels(path)
    if geometry.matches(labels.geometry):
        return labels.array[0], False
    array = None
    if not labels.geometry.is_moved(geometry):  # the same voxels at another place are most likely a wrong origin
        array = placed(labels.array[0], labels.geometry, geometry)
    if array is None:
        raise UserError(
            f"{path}: the mask's grid ({describe(labels.geometry)}) differs from the scan's ({describe(geometry)}). "
            + grid_advice(labels.geometry, geometry)
        )
    return array, True


def joined_masks(
    source: CaseSource, structures: Mapping[str, int], geometry: Geometry
) -> tuple[np.ndarray, dict[int, int], tuple[str, ...]]:
    """The label map (D, H, W) of a case, the voxels of each value, and notes.

    A file without voxels counts as 0: somebody looked for its structure. A structure without outlines is left out.

    Args:
        source: the case.
        structures: the value of each structure, by its normalised name. Others are left out.
        geometry: of the scan.
    """
    names = {value: name for name in structure_names(source) if (value := structures.get(normalise(name)))}
    found, empty, notes = [], [], list[str]()
    for one in _masks(source, structures, geometry):
        notes += one.notes
        box = bounds(one.mask)
        if box is not None:
            found.append((one.value, box, one.mask[box].copy()))
        elif source.structure_files:
            empty.append(one.value)
    array = np.zeros(geometry.shape, np.int32)
    for value, place, mask in sorted(found, key=lambda one: -np.count_nonzero(one[2])):  # the largest first
        covered, size = np.count_nonzero(array[place][mask]), np.count_nonzero(mask)
        if covered:
            others = ", ".join(names[int(value)] for value in np.unique(array[place][mask]) if value)
            if MAX_OVERLAP * size < covered < MIN_INSIDE * size:
                raise UserError(
                    f"{source.mask}: {covered / size:.0%} of {names[value]} overlap {others}. A label map holds one "
                    "label per voxel. Choose the structures with --labels NAME=VALUE ..."
                )
            lies = "lies inside" if covered >= MIN_INSIDE * size else "overlaps"
            notes.append(f"{names[value]} {lies} {others} in some cases: the voxels of both are {names[value]}.")
        array[place][mask] = value
    counts = dict(enumerate(np.bincount(array.ravel()).tolist()))
    held = {value: count for value, count in counts.items() if value and count}
    return array, dict.fromkeys(empty, 0) | held, tuple(notes)


def _masks(source: CaseSource, structures: Mapping[str, int], geometry: Geometry) -> Iterator[StructureMask]:
    """The masks of the structures of a case."""
    if source.drawing is not None:
        named = source.drawing.names.items()
        numbers = {number: structures[normalise(name)] for number, name in named if normalise(name) in structures}
        yield from masks_of(source.drawing, numbers, geometry)
        return
    if source.segments:
        array = read_mask(source.mask, geometry)[0]
        if strange := sorted({*np.unique(array).tolist()} - {0, *(value for _, value in source.segments)}):
            raise UserError(
                f"{source.mask}: no segment has the value {listed(strange)}, which some voxels have. Name it in 3D "
                "Slicer, and save the segmentation again."
            )
        own: dict[int, list[int]] = {}  # segments of one name are one structure
        for name, value in source.segments:
            if normalise(name) in structures:
                own.setdefault(structures[normalise(name)], []).append(value)
        for structure, values in own.items():
            yield StructureMask(structure, np.isin(array, values))
    for name, path in source.structure_files.items():
        if normalise(name) not in structures:
            continue
        array = read_mask(path, geometry)[0]
        refuse_negative(array, path)
        mask = array > 0
        held = array[mask]
        if held.size and held.min() != held.max():
            raise UserError(
                f"{path} holds the values {listed(np.unique(held).tolist())}. Expected one value above 0, as each "
                "structure has its own file here. Move it away, or choose the structures with --labels NAME=VALUE ..."
            )
        yield StructureMask(structures[normalise(name)], mask)
