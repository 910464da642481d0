"""`Model`: trained folds that are loaded once and segment scans.

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
from textdiffseg.folds.sampling import (
    Settings,
    settings_for,
    settings_of_alternatives,
    settings_of_uncertainty,
)
from textdiffseg.imaging.sources.objects import volume_of
from textdiffseg.imaging.volume import Volume
from textdiffseg.inference.alternatives import Alternative, AlternativeChoice, check_count
from textdiffseg.inference.measures import expected_dice_of, volumes_of
from textdiffseg.inference.predictor import Predictor
from textdiffseg.inference.prompting import Selection, caution, encode_texts, select_answers, select_labels
from textdiffseg.inference.result import Result, probability_maps
from textdiffseg.inference.scan import (
    Calibrated,
    ScanResult,
    WindowProgress,
    examine,
    follow,
    part_of,
)
from textdiffseg.preprocessing.case import TransformRecord, preprocess_image
from textdiffseg.progress import Cancel, OnProgress, never, silent
from textdiffseg.resources import choose_device
from textdiffseg.text.case_texts import CaseText

if TYPE_CHECKING:
    from textdiffseg.imaging.sources.objects import Scan

EMPTY_NOTE = "The mask is empty: no label was found in this scan."


@dataclass(frozen=True, kw_only=True)
class SegmentOptions:
    """The queried labels and the settings of a prediction. None: the value that validation chose."""

    prompts: tuple[str, ...] = ()  # phrases of the labels to segment; empty: all labels
    answers: str | Path | None = None  # instead: a JSON file of phrases with the user's names and values
    force: bool = False  # run phrases that the model was not trained with
    text_encoder: str | None = None  # hub name or folder of the model's text encoder, if it is not the bundled one
    steps: int | None = None  # of DDIM, for masks from diffusion samples; None: the single pass, or the plan's steps
    samples: int | None = None  # diffusion samples whose mean is the mask; None: the single pass
    mirroring: bool = True  # if validation chose it
    seed: int = 0  # of the noise
    uncertainty: bool = False  # measure it, with its own samples if needed
    alternatives: int = 0  # the number of alternatives to choose from the samples; 0: none
    probabilities: bool = False  # keep each label's probabilities


@dataclass(frozen=True)
class Segmenting:
    """A model with queries and sampling settings. `Model.prepare` returns it."""

    selection: Selection
    masks: Calibrated  # predicts masks and probabilities
    samples: Calibrated | None  # predicts uncertainty; `masks` itself if the settings are equal; None: not requested
    probabilities: bool
    choice: AlternativeChoice | None = None  # of alternatives; None: not requested

    @property
    def plan(self) -> Plan:
        """The model's plan."""
        return self.masks.predictor.plan

    @property
    def samples_apart(self) -> bool:
        """Whether uncertainty needs separate predictions."""
        return self.samples is not None and self.samples is not self.masks

    @property
    def hounsfield(self) -> bool:
        """Whether the first channel is CT."""
        return self.plan.channels[0].scheme == "ct"

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on the model and on the queried labels."""
        return tuple(note for note in (self.plan.text.note, caution(self.plan, self.selection)) if note)

    def run(self, volume: Volume, text: CaseText | None = None, progress: WindowProgress | None = None) -> Result:
        """The segmentation of a scan. `text`: the case text of the scan, encoded by `Model.texts`.

        Raises `UserError` if the scan does not fit the model, or if the network's output is not finite.
        """
        image, transform = preprocess_image(volume, self.plan)
        notes = volume.notes
        del volume  # frees its memory before the network runs
        selection = self.selection
        if text is not None:
            selection = replace(selection, queries=selection.queries.with_tokens([text.tokens]))
        chosen: tuple[Alternative, ...] = ()
        if self.choice is not None:
            share = self.choice.predictor.settings.passes / self.passes
            follow, progress = part_of(progress, 0, share), part_of(progress, share, 1 - share)
            chosen = self.choice(torch.from_numpy(image), transform, selection.queries, selection.values, follow)
            notes = (*notes, *self.choice.notes(len(chosen)))
        scanned = examine(torch.from_numpy(image), transform, selection, self.masks, self.samples, progress)
        return self._result(scanned, transform, notes, chosen)

    @property
    def passes(self) -> float:
        """The time of a window, in plain passes, of all predictions together."""
        predictors = [self.masks.predictor, *([self.choice.predictor] if self.choice is not None else [])]
        if self.samples_apart and self.samples is not None:
            predictors.append(self.samples.predictor)
        return sum(predictor.settings.passes for predictor in predictors)

    def _result(
        self,
        scanned: ScanResult,
        transform: TransformRecord,
        notes: tuple[str, ...],
        alternatives: tuple[Alternative, ...],
    ) -> Result:
        selection = self.selection
        maps = dict(probability_maps(selection.names, scanned.probabilities.numpy())) if self.probabilities else {}
        maps |= {f"uncertainty/{name}": array.numpy() for name, array in scanned.maps.items()}
        calibration = self.masks.calibration
        volumes = volumes_of(scanned, selection, self.plan, transform, calibration)
        expected_dice = expected_dice_of(scanned, selection, self.plan, calibration)
        check = expected_dice.note if expected_dice else None
        note = check if scanned.slots.any() else EMPTY_NOTE
        return Result(
            labels=np.array([0, *selection.values])[scanned.slots],
            geometry=transform.geometry,
            names=selection.names,
            values=selection.values,
            volumes={volume.label: volume for volume in volumes},
            notes=(*self.notes, *([note] if note else [])),
            scan_notes=notes,
            transform=transform,
            maps=maps,
            hounsfield=self.hounsfield,
            expected_dice=expected_dice,
            alternatives=alternatives,
        )


class Model:
    """One or more trained folds of a model. Several threads may use it, each for its own scan."""

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
        """The model whose folds are in `folder`. `UserError` if no fold is finished or the folds do not match.

        Args:
            folder: it holds fold_0, ...
            folds: the folds to load; None: all that are finished.
            checkpoint: "best" or "latest".
            device: "cpu" or "cuda"; None: cuda if there is a GPU.
            include_unfinished: load folds that are in training or were interrupted, too.
        """
        device, location = choose_device(device), find_model(Path(), folder=Path(folder))
        return cls(load_ensemble(location, folds, checkpoint, device, include_unfinished), device)

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on the folds: which are left out, which were not validated."""
        return self.ensemble.notes

    @property
    def plan(self) -> Plan:
        """The plan that the folds share."""
        return self.ensemble.plan

    @property
    def labels(self) -> Mapping[str, int]:
        """The value of each label, by name."""
        return {label.name: label.value for label in self.plan.labels}

    @property
    def phrasings(self) -> Mapping[str, tuple[str, ...]]:
        """The phrasings of each label. Each can be used as a prompt."""
        return self.ensemble.bank.phrasings

    def texts(self, words: Mapping[str, str], text_encoder: str | None = None) -> dict[str, CaseText]:
        """Case texts of scans, encoded for the model. `UserError` if the model was trained without texts.

        Args:
            words: the text of each scan, by its name.
            text_encoder: hub name or folder of the model's text encoder, if it is not the bundled one.
        """
        return encode_texts(self.plan, self.ensemble.bank, words, text_encoder)

    def prepare(self, options: SegmentOptions) -> Segmenting:
        """The model with the queries and settings of `options`. `UserError` if they do not fit the model."""
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
            sampled = settings_of_uncertainty(plan, settings, len(self.ensemble.folds))
            samples = masks if sampled == settings else self._calibrated(sampled)
        choice, count = None, check_count(options.alternatives)
        if count:
            drawn = settings_of_alternatives(plan, settings)
            choice = AlternativeChoice(Predictor(self.ensemble.networks, drawn, self.device), count)
        return Segmenting(selection, masks, samples, options.probabilities, choice)

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
        alternatives: int = 0,
        progress: OnProgress = silent,
        cancel: Cancel = never,
    ) -> Result:
        """The segmentation of one scan. Its mask equals the mask that `tds_predict` writes.

        Args:
            scan: a path, a list of paths (one per channel), an image of nibabel or SimpleITK, or an array (z, y, x) or
                (C, z, y, x) in the scanner's LPS order.
            spacing: mm along (z, y, x), for an array.
            affine: (4, 4), index of the array to RAS+ in mm, for an array whose axes are in another order.
            prompts: phrases of the labels to segment; empty: all labels.
            text: the case text of this scan, for a model that was trained with texts.
            progress: called with a `ProgressEvent` after each group of windows.
            cancel: called after each group; True: raise `Cancelled`.

        The other arguments are those of `SegmentOptions`. Raises `UserError` if an argument or the
        scan is not valid.
        """
        options = SegmentOptions(
            prompts=_phrases(prompts),
            force=force,
            text_encoder=text_encoder,
            steps=steps,
            samples=samples,
            mirroring=mirroring,
            seed=seed,
            uncertainty=uncertainty,
            probabilities=probabilities,
            alternatives=alternatives,
        )
        encoded = self.texts({"": text}, text_encoder)[""] if text else None
        return self.prepare(options).run(volume_of(scan, spacing, affine), encoded, follow(progress, cancel))

    def _calibrated(self, settings: Settings) -> Calibrated:
        predictor = Predictor(self.ensemble.networks, settings, self.device)
        return Calibrated(predictor, applied(self.ensemble.calibrations, settings))


def _phrases(prompts: Sequence[str]) -> tuple[str, ...]:
    if isinstance(prompts, str):
        raise UserError(f"prompts: expected a list of phrases, found one string. Write [{prompts!r}].")
    return tuple(prompts)
