"""The manifest of a predicted case: its inputs, model and settings, and the files that were written.

An output is complete if its manifest has the same request and the hashes of the files. Other outputs are predicted
again.
"""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from plans.choices import Resolution
from plans.errors import UserError, listed
from plans.file_names import alternative_of, channel_of, manifest_path, named_input, split_ending
from plans.records import Note, Record, Upgrades
from textdiffseg.files import hash_files
from textdiffseg.folds.calibration import AppliedCalibration
from textdiffseg.folds.expected_dice import ExpectedDice
from textdiffseg.folds.postprocessing import Postprocessing
from textdiffseg.folds.sampling import PredictionSettings
from textdiffseg.imaging.sources.dicom import slice_paths
from textdiffseg.imaging.sources.files import files_of, read_labels, refuse_no_file
from textdiffseg.inference.volumes import VolumeInterval

_PACKAGES = ("textdiffseg", "torch", "numpy", "nibabel", "SimpleITK")


class Sampled(Record):
    """The settings of uncertainty, if it has its own predictions."""

    settings: PredictionSettings
    calibration: AppliedCalibration


class GuidedBy(Record):
    """The low-resolution model that showed where to compute full resolution."""

    model: str  # SHA-256 of weights, plans and words of all its folds
    folds: tuple[str, ...]
    settings: PredictionSettings
    margin: int  # voxels of its grid around what it found


class Request(Record):
    """The inputs and settings of a prediction. Equal requests give equal files."""

    case: str
    inputs: dict[str, str]  # file name -> SHA-256
    model: str  # SHA-256 of weights, plans and words of all folds
    folds: tuple[str, ...]
    checkpoint: str
    settings: PredictionSettings  # of mask and probabilities
    calibration: AppliedCalibration = AppliedCalibration()  # of predictions with `settings`; older manifests have none
    prompts: tuple[str, ...]  # empty: all labels
    forced: bool  # the model was not trained with one of the prompts
    answers: tuple[tuple[str, int], ...] = ()  # name and value of each prompt; empty: those of the model
    text: str | None = None  # SHA-256 of the case's own text; None: no text
    probabilities: bool
    uncertainty: bool
    sampled: Sampled | None = None  # None: uncertainty, if any, comes from the predictions of the mask
    alternatives: int = 0  # to choose from the samples
    drawn: PredictionSettings | None = None  # of these samples; None: no alternatives
    resolutions: tuple[Resolution, ...] = ("full",)  # that were computed; older manifests have none
    postprocessing: dict[str, Postprocessing] = Field(default_factory=dict)  # by the model's label
    guide: GuidedBy | None = None  # None: its resolution was computed everywhere

    @property
    def channels(self) -> tuple[int, ...]:
        """The numbers of the channels that the scan has."""
        return tuple(channel_of(name, self.case, place) for place, name in enumerate(self.inputs))


class WrittenAlternative(Record):
    """One of several possible masks of the case."""

    file: str
    share: float  # of the samples that it stands for


class Manifest(Record):
    """The record of one predicted case. Without outputs, the prediction is not finished."""

    version: Literal[6] = 6
    upgrades: ClassVar[Upgrades] = {1: dict, 2: dict, 3: dict, 4: dict, 5: dict}  # the new fields have defaults
    request: Request
    outputs: dict[str, str] = Field(default_factory=dict)  # path relative to the manifest -> SHA-256
    labels: dict[str, int] = Field(default_factory=dict)  # name or prompt -> value in the segmentation
    means: dict[str, str] = Field(default_factory=dict)  # the model's label for each name that differs from it
    parts: dict[str, tuple[int, ...]] = Field(default_factory=dict)  # the values of each label, if labels overlap
    volumes: tuple[VolumeInterval, ...] = ()
    expected_dice: ExpectedDice | None = None  # None: no curve was fitted for the setting of the mask
    alternatives: tuple[WrittenAlternative, ...] = ()  # the largest share first
    notes: tuple[Note, ...] = ()  # sentences on the model
    scan_notes: tuple[Note, ...] = ()  # sentences on the scan's position and orientation, and on missing alternatives
    picture: str | None = None  # SHA-256 of the picture beside the mask; None: no picture
    converted: dict[str, str] = Field(default_factory=dict)  # file made from the mask -> SHA-256; "": being written
    made_from: str | None = None  # SHA-256 of the mask of picture and `converted`; None: that in `outputs`
    versions: dict[str, str] = Field(default_factory=dict)
    device: str = ""
    backend: str = "torch"
    threads: int = 0

    def standing(self, request: Request, mask: Path) -> Literal["complete", "corrected"] | None:
        """The state of the outputs, if this is the manifest of `request` and `mask`; None: predict the case again.

        - complete: all are there, unchanged.
        - corrected: only the mask was changed, and it can be read.
        """
        if self.request != request or mask.name not in self.outputs:
            return None
        changed = [name for name in self.outputs if not self.is_unchanged(mask.parent / name, name)]
        if not changed:
            return "complete"
        return "corrected" if changed == [mask.name] and is_readable(mask) else None

    def is_unchanged(self, path: Path, name: str) -> bool:
        """Whether a file is the output with this name."""
        return path.is_file() and hash_files([path]) == self.outputs.get(name)

    def is_corrected(self, mask: Path) -> bool:
        """Whether a mask was changed after it was predicted, and can be read. A damaged file cannot."""
        return mask.name in self.outputs and not self.is_unchanged(mask, mask.name) and is_readable(mask)


def is_readable(mask: Path) -> bool:
    """Whether a mask can be read. A file that was cut off cannot."""
    if not mask.is_file():
        return False
    try:
        read_labels(mask)
    except UserError:
        return False
    return True


def read_manifest(path: Path) -> Manifest | None:
    """The manifest at `path`; None if it is missing or cannot be read."""
    if not path.is_file():
        return None
    try:
        return Manifest.read(path)
    except UserError:
        return None


def unlisted(path: Path) -> str:
    """The reason that a manifest at `path` does not list the mask beside it."""
    if not path.is_file():
        return "no manifest beside it"
    try:
        found = Manifest.read(path).outputs
    except UserError as error:
        return " ".join(error.lines)
    return f"{path} lists other files: {listed([*found], 3) or 'none'}"


def is_output(path: Path) -> bool:
    """Whether a file is a predicted mask: its manifest lies beside it, and the file is not one of its inputs.

    The manifest of an alternative is that of the mask beside it.
    """
    stem, ending = split_ending(path.name)
    mask, number = alternative_of(stem)
    if number is not None:
        own = read_manifest(manifest_path(path.with_name(mask + ending)))
        if own is not None and path.name in own.outputs:
            return True
    manifest = read_manifest(manifest_path(path))
    return manifest is not None and path.name not in manifest.request.inputs


def hash_inputs(paths: tuple[Path, ...], missing: tuple[int, ...] = ()) -> dict[str, str]:
    """The SHA-256 of each file, by name; for a DICOM folder, of all its slices together.

    The files of several channels may have any names. Their channel is added, unless the name ends with it (`_0001`).
    `missing`: the numbers of the channels without a file.
    """
    hashes = {}
    numbers = [number for number in range(len(paths) + len(missing)) if number not in missing]
    for channel, path in zip(numbers, paths, strict=True):
        try:
            files = slice_paths(path) if path.is_dir() else files_of(path)
            for file in files:
                refuse_no_file(file)
            hashes[named_input(path.name, channel, len(paths) + len(missing))] = hash_files(files)
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}). Copy it again, or remove it.") from None
    return hashes


def versions(backend: str = "torch") -> dict[str, str]:
    """The versions of Python and of the packages that a prediction depends on."""
    by_package = {"python": platform.python_version()}
    for package in dict.fromkeys((*_PACKAGES, backend)):
        try:
            by_package[package] = version(package)
        except PackageNotFoundError:
            by_package[package] = "not installed"
    return by_package
