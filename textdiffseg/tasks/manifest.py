"""The manifest of a predicted case: what was asked for, of which files and which model, and what came out.

An output is complete when its manifest holds the same request and the files' hashes; anything else is redone.
"""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from pydantic import Field

from plans.errors import UserError
from plans.layout import split_ending
from plans.records import Record
from textdiffseg.files import hash_files
from textdiffseg.folds.calibration import Applied
from textdiffseg.folds.sampling import Settings
from textdiffseg.imaging.sources.files import files_of, refuse_no_file
from textdiffseg.inference.uncertainty import VolumeInterval

_PACKAGES = ("textdiffseg", "torch", "numpy", "nibabel", "SimpleITK")


class Sampled(Record):
    """How uncertainty was measured, where that took predictions of its own."""

    settings: Settings
    calibration: Applied


class Request(Record):
    """What was asked for: two equal requests give the same files."""

    case: str
    inputs: dict[str, str]  # file name -> SHA-256
    model: str  # SHA-256 of weights, plans and words of all folds
    folds: tuple[str, ...]
    checkpoint: str
    settings: Settings  # of mask and probabilities
    calibration: Applied = Applied()  # of what `settings` predict; manifests without it had none
    prompts: tuple[str, ...]  # empty: all labels
    forced: bool  # some prompt is none that the model was trained with
    answers: tuple[tuple[str, int], ...] = ()  # name and value of each prompt; empty: the model's own
    text: str | None = None  # SHA-256 of the case's own text; None: it had none
    probabilities: bool
    uncertainty: bool
    sampled: Sampled | None = None  # None: uncertainty, if any, is of the very predictions that the mask is made of


class Manifest(Record):
    """How one case was predicted; without outputs it is not finished."""

    version: Literal[1] = 1
    request: Request
    outputs: dict[str, str] = Field(default_factory=dict)  # path relative to the manifest -> SHA-256
    labels: dict[str, int] = Field(default_factory=dict)  # name or prompt -> value in the segmentation
    means: dict[str, str] = Field(default_factory=dict)  # the model's label behind a name, where it is another
    volumes: tuple[VolumeInterval, ...] = ()
    notes: tuple[str, ...] = ()  # what has to be known of the model
    scan_notes: tuple[str, ...] = ()  # what has to be known of the scan's place in space
    picture: str | None = None  # SHA-256 of the picture beside the mask; None: none was drawn
    versions: dict[str, str] = Field(default_factory=dict)
    device: str = ""
    threads: int = 0

    def is_complete(self, request: Request, folder: Path) -> bool:
        """Whether this answers `request` and every output in `folder` is as it was written."""
        if self.request != request or not self.outputs:
            return False
        paths = {folder / name: digest for name, digest in self.outputs.items()}
        return all(path.is_file() and hash_files([path]) == digest for path, digest in paths.items())


def read_manifest(path: Path) -> Manifest | None:
    """The manifest at `path`; None where there is none that can be read."""
    if not path.is_file():
        return None
    try:
        return Manifest.read(path)
    except UserError:
        return None


def is_output(path: Path) -> bool:
    """Whether a file is a mask that was made here: its manifest lies beside it and names other files as the scan."""
    manifest = read_manifest(path.with_name(f"{split_ending(path.name)[0]}.json"))
    return manifest is not None and path.name not in manifest.request.inputs


def hash_inputs(paths: tuple[Path, ...]) -> dict[str, str]:
    """File name -> SHA-256; of a DICOM folder, of all its files together."""
    hashes = {}
    for path in paths:
        files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else files_of(path)
        for file in files:
            refuse_no_file(file)
        try:
            hashes[path.name] = hash_files(files)
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}). Copy it again or remove it.") from None
    return hashes


def versions() -> dict[str, str]:
    """Versions of what a prediction depends on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
