"""The paths of all files and folders on disk. This module reads and writes nothing.

A root holds three trees::

    raw/DATASET/                        `RawFolder`
    preprocessed/DATASET/               `PreprocessedFolder`
    preprocessed/DATASET/PRESET-low/    `PreprocessedFolder.low`
    results/DATASET/PRESET/fold_0/      `FoldFolder`
    results/DATASET/PRESET-low/fold_0/
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from plans.choices import PRESETS, Preset, Resolution
from plans.file_names import NIFTI, encoder_suffix

Tree = Literal["raw", "preprocessed", "results"]
Checkpoint = Literal["best", "latest"]
CHECKPOINTS: tuple[Checkpoint, ...] = ("best", "latest")
FOLD = "fold_"
ALL = "all"  # the fold that is trained on all cases
FOLD_NAME = re.compile(rf"{FOLD}(0|[1-9][0-9]{{0,5}}|{ALL})")
_LOW = "-low"  # behind the name of a preset: its low resolution
SUMMARY = "summary.json"
REPORT = "report.html"
_LOCK = ".lock"
MAPS = ("probabilities", "uncertainty")
Conversion = Literal["separate", "dicom-seg", "rtstruct"]  # other forms of a mask, each in a folder of its name
SEPARATE: Conversion = "separate"  # one mask per label, in a folder per case
DICOM_SEG: Conversion = "dicom-seg"
RTSTRUCT: Conversion = "rtstruct"
EXTRA_FOLDERS = (*MAPS, SEPARATE, DICOM_SEG, RTSTRUCT)  # folders beside segmentations


def tree(root: Path, name: Tree) -> Path:
    """One of the three trees below a root."""
    return Path(root) / name


def model_name(preset: str, resolution: Resolution = "full") -> str:
    """The name of the folders of a preset at a resolution: `default` or `default-low`."""
    return f"{preset}{_LOW}" if resolution == "low" else preset


def model_folder(root: Path, dataset: str, preset: str, resolution: Resolution = "full") -> Path:
    """The folder with the trained folds of a preset at a resolution."""
    return tree(root, "results") / dataset / model_name(preset, resolution)


def low_model(folder: Path) -> Path:
    """The folder of the low-resolution model beside a model's folder. It may be missing."""
    return folder.with_name(model_name(folder.name, "low"))


def best_models(results: Path) -> Path:
    """The record of the chosen models, in the results of a data set."""
    return results / "best.json"


def averaged_folder(results: Path) -> Path:
    """The folder of scores of averaged models, in the results of a data set."""
    return results / "averaged"


def averaged_scores(results: Path, models: Iterable[str]) -> Path:
    """The scores of several averaged models."""
    return averaged_folder(results) / f"{'+'.join(models)}.json"


def locked_folds(root: Path, dataset: str) -> list["FoldFolder"]:
    """The folds of a data set, of all presets, that have a lock file. It may be held or not."""
    locks = (tree(root, "results") / dataset).glob(f"*/.{FOLD}*{_LOCK}")
    return [FoldFolder(lock.with_name(lock.name[1:].removesuffix(_LOCK))) for lock in sorted(locks)]


@dataclass(frozen=True)
class WordFiles:
    """The two files of a model's phrasings. The space is frozen with the weights; the bank may get more phrasings."""

    bank: Path  # the phrasings and their vectors
    space: Path  # how vectors are standardised and projected


@dataclass(frozen=True)
class RawFolder:
    """The folder of a data set as the user provides it."""

    path: Path

    @property
    def header(self) -> Path:
        """`dataset.json`."""
        return self.path / "dataset.json"

    @property
    def prompts(self) -> Path:
        """The phrasings of each label."""
        return self.path / "prompts.json"

    @property
    def nnunet_splits(self) -> Path:
        """nnU-Net's folds."""
        return self.path / "splits_final.json"

    @property
    def texts(self) -> Path:
        """The texts of cases, one file `CASE.txt` per case."""
        return self.path / "texts"

    @property
    def overlays(self) -> Path:
        """Pictures of some training cases with their labels."""
        return self.path / "overlays"

    def images(self, part: Literal["Tr", "Ts"]) -> Path:
        """Training (Tr) or held-out (Ts) images."""
        return self.path / f"images{part}"

    def labels(self, part: Literal["Tr", "Ts"]) -> Path:
        """Training (Tr) or held-out (Ts) labels."""
        return self.path / f"labels{part}"


@dataclass(frozen=True)
class PreprocessedFolder:
    """The folder of a planned and preprocessed data set. Presets share the stored cases.

    The low resolution of a preset has a folder of this kind inside it, with its own plan and stored cases. Words, folds
    and locks of planning are those of the data set.
    """

    path: Path

    @property
    def of_dataset(self) -> "PreprocessedFolder":
        """The data set's folder; for a low-resolution folder, the folder around it."""
        low = {model_name(preset, "low") for preset in PRESETS}
        return PreprocessedFolder(self.path.parent) if self.path.name in low else self

    @property
    def dataset(self) -> str:
        """The folder name of the data set."""
        return self.of_dataset.path.name

    def at(self, preset: Preset, resolution: Resolution) -> "PreprocessedFolder":
        """The folder of the stored cases of a preset at a resolution."""
        return self.low(preset) if resolution == "low" else self

    def low(self, preset: Preset) -> "PreprocessedFolder":
        """The folder of a preset's low resolution."""
        return PreprocessedFolder(self.path / model_name(preset, "low"))

    @property
    def prompts(self) -> Path:
        """The phrasings of each label, if the raw folder cannot be written."""
        return self.path / "prompts.json"

    @property
    def fingerprints(self) -> Path:
        """The folder of the cases' fingerprints."""
        return self.path / "fingerprints"

    def fingerprint(self, case: str) -> Path:
        """The fingerprint of a case."""
        return self.fingerprints / f"{case}.json"

    @property
    def splits(self) -> Path:
        """The folds."""
        return self.of_dataset.path / "splits.json"

    @property
    def nnunet_splits(self) -> Path:
        """Folds in nnU-Net's format, provided by the user."""
        return self.path / "splits_final.json"

    @property
    def cases(self) -> Path:
        """The folder of stored cases."""
        return self.path / "cases"

    def plan(self, preset: str) -> Path:
        """A preset's plan."""
        return self.path / ("plan.json" if preset == "default" else f"plan_{preset}.json")

    def fitted_plan(self, preset: str) -> Path:
        """A preset's plan, changed after a training step was measured."""
        return self.path / f"fitted_{self.plan(preset).name}"

    @property
    def planning_lock(self) -> Path:
        """The lock of the process that plans."""
        return self.of_dataset.path / ".planning.lock"

    @property
    def fitting_lock(self) -> Path:
        """The lock of the process that measures a training step."""
        return self.path / ".fitting.lock"

    def words(self, preset: str, encoder: str | None = None) -> WordFiles:
        """The files of a preset's phrasings, as vectors of a text encoder. None: the names of older versions."""
        folder, suffix = self.of_dataset.path, encoder_suffix(preset, encoder)
        return WordFiles(folder / f"text_bank{suffix}.safetensors", folder / f"text_space{suffix}.safetensors")

    def case_texts(self, preset: str, encoder: str | None = None) -> Path:
        """The texts of cases, as vectors of a text encoder. None: the name of older versions."""
        return self.of_dataset.path / f"case_texts{encoder_suffix(preset, encoder)}.safetensors"


@dataclass(frozen=True)
class FoldFolder:
    """The folder of a trained fold. It holds everything that prediction needs."""

    path: Path

    @classmethod
    def of(
        cls, root: Path, dataset: str, preset: str, fold: str | int, resolution: Resolution = "full"
    ) -> "FoldFolder":
        """The folder of a fold below a root."""
        return cls(model_folder(root, dataset, preset, resolution) / f"{FOLD}{fold}")

    @property
    def name(self) -> str:
        """`0`, `1`, ... or `all`."""
        return self.path.name.removeprefix(FOLD)

    @property
    def plan(self) -> Path:
        """The fold's own plan."""
        return self.path / "plan.json"

    @property
    def text_bank(self) -> Path:
        """The fold's own phrasings."""
        return self.path / "text_bank.safetensors"

    @property
    def text_space(self) -> Path:
        """The text space that its weights were trained with."""
        return self.path / "text_space.safetensors"

    @property
    def words(self) -> WordFiles:
        """Both files of its phrasings."""
        return WordFiles(self.text_bank, self.text_space)

    @property
    def cases(self) -> Path:
        """The training and validation cases."""
        return self.path / "cases.json"

    @property
    def sampling(self) -> Path:
        """The sampling that validation chose."""
        return self.path / "sampling.json"

    @property
    def calibration(self) -> Path:
        """The calibration that validation fitted."""
        return self.path / "calibration.json"

    @property
    def postprocessing(self) -> Path:
        """The trials of postprocessing steps in validation."""
        return self.path / "postprocessing.json"

    @property
    def log(self) -> Path:
        """The training log, one line per epoch."""
        return self.path / "log.jsonl"

    @property
    def curves(self) -> Path:
        """The picture of the training's curves."""
        return self.path / "progress.png"

    @property
    def events(self) -> Path:
        """The folder of the training's curves for TensorBoard."""
        return self.path / "tensorboard"

    @property
    def event_files(self) -> tuple[Path, ...]:
        """The files with the training's curves for TensorBoard."""
        return tuple(self.events.glob("events.out.tfevents.*"))

    @property
    def validation(self) -> Path:
        """The folder of masks and scores of the validation cases."""
        return self.path / "validation"

    @property
    def summary(self) -> Path:
        """The scores of the validation cases."""
        return self.validation / SUMMARY

    @property
    def validated(self) -> Path:
        """The record of the weights whose validation is finished."""
        return self.path / "validated.json"

    @property
    def lock(self) -> Path:
        """The lock of the process that trains it. It lies beside the folder, so that a restart can move the folder."""
        return self.path.parent / f".{self.path.name}{_LOCK}"

    @property
    def owner(self) -> Path:
        """The record of the process that trains it, beside the lock."""
        return self.path.parent / f".{self.path.name}.owner.json"

    @property
    def error(self) -> Path:
        """The error that ended its last training or validation, beside the lock."""
        return self.path.parent / f".{self.path.name}.error.txt"

    @property
    def replaced(self) -> Path:
        """The place of the old folder until a restart has written its first checkpoint. No fold has this name."""
        return self.path.parent / f".{self.path.name}.replaced"

    def checkpoint(self, which: str) -> Path:
        """The weights, "best" or "latest"."""
        return self.path / f"checkpoint_{which}.safetensors"

    def mask(self, case: str) -> Path:
        """The predicted mask of a validation case."""
        return self.validation / f"{case}{NIFTI}"

    def entropy(self, case: str) -> Path:
        """The uncertainty of a validation case's mask."""
        return self.validation / "entropy" / f"{case}.b2nd"


def fold_folders(model: Path) -> list[FoldFolder]:
    """The folders of folds in a model's folder. Others, such as a copy `fold_0.bak`, are left out."""
    return [FoldFolder(path) for path in sorted(model.glob(f"{FOLD}*")) if FOLD_NAME.fullmatch(path.name)]


def volume_table(folder: Path) -> Path:
    """The table of volumes in a folder of segmentations."""
    return folder / "volumes.csv"


def root_of(fold: FoldFolder) -> Path | None:
    """The root that a fold lies below; None for a fold that was copied elsewhere."""
    above = fold.path.parents
    return above[3] if len(above) > 3 and above[2] == tree(above[3], "results") else None
