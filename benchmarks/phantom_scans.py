"""Shared by the benchmarks that write raw data sets: generated scans, and links to the scans of another data set."""

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from stored import Scan

from plans.file_names import NIFTI, channel_file
from plans.layout import RawFolder
from plans.plan import Plan
from plans.raw.dataset import Case, Dataset
from textdiffseg import phantoms
from textdiffseg.files import write_atomically
from textdiffseg.imaging.volume import Geometry, Volume
from textdiffseg.imaging.writers.files import write_labels, write_volume
from textdiffseg.preprocessing.case import preprocess_image

FIRST_SCORED = 10_000  # index of the first phantom that is scored; training phantoms have smaller ones


def phantom_scan(plan: Plan, anatomy: phantoms.Anatomy, seed: tuple[int, int]) -> Scan:
    """A phantom on the plan's grid; its noise is a function of the seed."""
    image, truth = phantoms.paint(anatomy, np.random.default_rng((*seed, 1)))
    prepared, transform = preprocess_image(Volume(image[None], phantoms.geometry_of(anatomy)), plan)
    return Scan(f"phantom_{seed[1]}", torch.from_numpy(prepared), transform, truth.astype(np.int16))


def write_case(folder: Path, case: str, image: np.ndarray, labels: np.ndarray, geometry: Geometry) -> None:
    """Write a training case of one channel: image and labels (D, H, W)."""
    raw = RawFolder(folder)
    write_volume(raw.images("Tr") / channel_file(case, 0, NIFTI), image, geometry)
    write_labels(raw.labels("Tr") / f"{case}{NIFTI}", labels, geometry)


def write_header(folder: Path, labels: Mapping[str, int], cases: int, **fields: object) -> None:
    """Write `dataset.json`. It is written last, so a folder that has it is complete.

    `fields` are added to it, or replace those of a data set of one MRI channel.
    """
    header = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, **labels},
        "numTraining": cases,
        "file_ending": NIFTI,
    }
    write_atomically(RawFolder(folder).header, json.dumps(header | fields, indent=1) + "\n")


def link_files(paths: Iterable[Path], folder: Path) -> None:
    """Link files into a folder, under their own names. Existing links stay."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        link = folder / path.name
        if not link.is_symlink():
            link.symlink_to(path.resolve())


def link_cases(cases: Iterable[Case], folder: Path, labels: bool = True) -> None:
    """Link the images of training cases into a raw folder, and their label files if `labels`."""
    raw = RawFolder(folder)
    for case in cases:
        link_files(case.images, raw.images("Tr"))
        if labels:
            link_files([case.label], raw.labels("Tr"))


def link_data_set(dataset: Dataset, folder: Path, without: Collection[str] = (), texts: bool = True) -> Path:
    """The raw folder `folder` with links to all files of a data set, written if it is missing.

    Its dataset.json lacks the fields `without`. The texts of cases are left out unless `texts`.
    """
    source, raw = RawFolder(dataset.folder), RawFolder(folder)
    if raw.header.is_file():
        return folder
    link_cases(dataset.cases, folder)
    link_files([path for path in (source.prompts, source.nnunet_splits) if path.is_file()], folder)
    if texts and source.texts.is_dir():
        link_files([source.texts], folder)
    header = json.loads(source.header.read_text())
    fields = {name: value for name, value in header.items() if name not in without}
    write_atomically(raw.header, json.dumps(fields, indent=1) + "\n")
    return folder
