"""`Model`: trained folds, loaded once, that segment scans.

model = Model.load("results/Dataset004_Hippocampus/default")
result = model.segment("scan.nii.gz", prompts=["anterior hippocampus"])
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from plans.errors import UserError
from plans.layout import Checkpoint
from plans.plan import Plan
from plans.prompts import read_answers
from textdiffseg.folds.calibration import applied
from textdiffseg.folds.ensemble import Ensemble, load_ensemble
from textdiffseg.folds.find import find_model
from textdiffseg.folds.sampling import Settings, settings_for, settings_of_uncertainty
from textdiffseg.imaging.sources.objects import volume_of
from textdiffseg.imaging.volume import Volume
from textdiffseg.inference.predictor import Predictor
from textdiffseg.inference.prompting import Selection, caution, encode_texts, select_answers, select_labels
from textdiffseg.inference.result import Result, probability_maps
from textdiffseg.inference.scan import Calibrated, ScanResult, WindowProgress, examine, volumes_of
from textdiffseg.preprocessing.case import TransformRecord, preprocess_image
from textdiffseg.progress import Cancel, Cancelled, OnProgress, ProgressEvent, never, silent
from textdiffseg.resources import choose_device
from textdiffseg.text.case_texts import CaseText

if TYPE_CHECKING:
    from textdiffseg.imaging.sources.objects import Scan

EMPTY = "The mask is empty: no label was found in this scan."


@dataclass(frozen=True, kw_only=True)
class SegmentOptions:
    """The answers and settings of a prediction, the same for all scans. None: what validation chose."""

    prompts: tuple[str, ...] = ()  # words of the labels to segment; empty: all labels
    answers: str | Path | None = None  # instead: a JSON file of phrases, with names and values of the user's own
    force: bool = False  # run prompts that the model was not trained with
    text_encoder: str | None = None  # hub name or folder of the model's text encoder, where it is not the bundled one
    steps: int | None = None  # of DDIM
    samples: int | None = None  # whose probabilities are averaged
    mirroring: bool = True  # where validation chose it
    seed: int = 0  # of the noise
    uncertainty: bool = False  # measure it, with samples of its own
    probabilities: bool = False  # keep each label's probabilities


@dataclass(frozen=True)
class Segmenting:
    """A model ready for one kind of request: words looked up, sampling chosen. `Model.prepare` makes it."""

    selection: Selection
    masks: Calibrated  # how masks and probabilities are predicted
    samples: Calibrated | None  # how uncertainty is; `masks` itself where one setting serves both; None: not asked for
    probabilities: bool

    @property
    def plan(self) -> Plan:
        """The model's plan."""
        return self.masks.predictor.plan

    @property
    def samples_apart(self) -> bool:
        """Whether uncertainty takes predictions of its own."""
        return self.samples is not None and self.samples is not self.masks

    @property
    def hounsfield(self) -> bool:
        """Whether the first channel is CT."""
        return self.plan.channels[0].scheme == "ct"

    @property
    def notes(self) -> tuple[str, ...]:
        """What has to be known of the model and of the labels queried."""
        return tuple(note for note in (self.plan.text.note, caution(self.plan, self.selection)) if note)

    def run(self, volume: Volume, text: CaseText | None = None, progress: WindowProgress | None = None) -> Result:
        """Segment a scan. `text`: what is known of it in words, in the model's space (`Model.texts`)."""
        image, transform = preprocess_image(volume, self.plan)
        notes = volume.notes
        del volume  # the scan is let go of before the network runs
        selection = self.selection
        if text is not None:
            selection = replace(selection, queries=selection.queries.with_tokens([text.tokens]))
        found = examine(torch.from_numpy(image), transform, selection, self.masks, self.samples, progress)
        return self._result(found, transform, notes)

    def _result(self, found: ScanResult, transform: TransformRecord, notes: tuple[str, ...]) -> Result:
        selection = self.selection
        maps = dict(probability_maps(selection.names, found.probabilities.numpy())) if self.probabilities else {}
        if found.distribution is not None:
            maps |= {f"uncertainty/{name}": array.numpy() for name, array in found.distribution.maps.items()}
        return Result(
            labels=np.array([0, *selection.values])[found.slots],
            geometry=transform.geometry,
            names=selection.names,
            values=selection.values,
            volumes={one.label: one for one in volumes_of(found, selection, self.plan, transform)},
            notes=(*self.notes, *([EMPTY] if not found.slots.any() else [])),
            scan_notes=notes,
            transform=transform,
            maps=maps,
            hounsfield=self.hounsfield,
        )


class Model:
    """One or more trained folds of a model. It may be used from several threads, one scan each."""

    def __init__(self, ensemble: Ensemble, device: str):
        self.ensemble, self.device = ensemble, device

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        folds: Sequence[str] | None = None,
        checkpoint: Checkpoint = "best",
        device: str | None = None,
        include_unfinished: bool = False,
    ) -> "Model":
        """Load the folds in `folder` (it holds fold_0, ...), by default all that are finished.

        Args:
            device: "cpu" or "cuda"; None: cuda where there is a GPU.
            include_unfinished: load folds that are in training or were interrupted, too.

        Raises `UserError` where no fold is finished there, or where the folds do not belong together.
        """
        device, found = choose_device(device), find_model(Path(), folder=Path(folder))
        return cls(load_ensemble(found, folds, checkpoint, device, include_unfinished), device)

    @property
    def notes(self) -> tuple[str, ...]:
        """What has to be known of the folds: which are left out, which were not validated."""
        return self.ensemble.notes

    @property
    def plan(self) -> Plan:
        """The plan that the folds share."""
        return self.ensemble.plan

    @property
    def labels(self) -> Mapping[str, int]:
        """The labels that the model was trained with, and their values."""
        return {label.name: label.value for label in self.plan.labels}

    @property
    def phrasings(self) -> Mapping[str, tuple[str, ...]]:
        """The words that may be used as prompts, by label."""
        return self.ensemble.bank.phrasings

    def texts(self, words: Mapping[str, str], text_encoder: str | None = None) -> dict[str, CaseText]:
        """What is known of single scans in words, in the model's space. `UserError` if the model never read any."""
        return encode_texts(self.plan, self.ensemble.bank, words, text_encoder)

    def prepare(self, options: SegmentOptions) -> Segmenting:
        """Look up the words and choose the sampling. `UserError` for unknown prompts, and for settings that do not
        fit the model."""
        plan, bank = self.plan, self.ensemble.bank
        if options.answers is None:
            selection = select_labels(plan, bank, options.prompts, options.force, options.text_encoder)
        else:
            answers = read_answers(Path(options.answers))
            selection = select_answers(plan, bank, answers, options.force, options.text_encoder)
        settings = settings_for(
            plan,
            self.ensemble.sampling,
            steps=options.steps,
            samples=options.samples,
            mirroring=options.mirroring,
            seed=options.seed,
        )
        masks, samples = self._calibrated(settings), None
        if options.uncertainty:
            enough = settings_of_uncertainty(plan, settings, len(self.ensemble.folds))
            samples = masks if enough == settings else self._calibrated(enough)
        return Segmenting(selection, masks, samples, options.probabilities)

    def segment(
        self,
        scan: "Scan",
        *,
        spacing: Sequence[float] | None = None,
        affine: np.ndarray | None = None,
        prompts: Sequence[str] = (),
        text: str | None = None,
        force: bool = False,
        text_encoder: str | None = None,
        steps: int | None = None,
        samples: int | None = None,
        mirroring: bool = True,
        seed: int = 0,
        uncertainty: bool = False,
        probabilities: bool = False,
        progress: OnProgress = silent,
        cancel: Cancel = never,
    ) -> Result:
        """Segment one scan: the same mask, voxel for voxel, as `tds_predict` writes.

        Args:
            scan: a path, a list of paths (one a channel), an image of nibabel or SimpleITK, or an array (z, y, x) or
                (C, z, y, x) in the scanner's LPS order.
            spacing: mm along (z, y, x), for an array.
            affine: (4, 4), index of the array to RAS+ in mm, for an array whose axes are in another order.
            prompts: words of the labels to segment; none: all labels.
            text: what is known of this scan in words, for a model that was trained with such texts.
            progress: called with a `ProgressEvent` after each group of windows.
            cancel: where it returns True, the work stops with `Cancelled`.

        The other arguments are those of `SegmentOptions`. Raises `UserError` for a user's mistake.
        """
        if isinstance(prompts, str):
            raise UserError(f"prompts: expected a list of phrases, found one string. Write [{prompts!r}].")
        options = SegmentOptions(
            prompts=tuple(prompts),
            force=force,
            text_encoder=text_encoder,
            steps=steps,
            samples=samples,
            mirroring=mirroring,
            seed=seed,
            uncertainty=uncertainty,
            probabilities=probabilities,
        )
        known = self.texts({"": text}, text_encoder)[""] if text else None
        return self.prepare(options).run(volume_of(scan, spacing, affine), known, follow(progress, cancel))

    def _calibrated(self, settings: Settings) -> Calibrated:
        predictor = Predictor(self.ensemble.networks, settings, self.device)
        return Calibrated(predictor, applied(self.ensemble.calibrations, settings))


def follow(progress: OnProgress, cancel: Cancel, detail: str = "") -> WindowProgress:
    """A callback for groups of windows that reports each, and stops the work where that is asked for."""

    def after(done: float, total: float) -> None:
        progress(ProgressEvent("Predict", done, total, "window", detail))
        if cancel():
            raise Cancelled("The prediction was stopped.")

    return after
