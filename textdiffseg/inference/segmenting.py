"""`PreparedModel`: a model with queries and sampling settings, ready to segment scans. `Model.prepare` returns it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from plans.errors import UserError
from plans.geometry import Triple, triple
from plans.plan import Plan
from textdiffseg.arguments import check_choice, whole
from textdiffseg.folds.sampling import Effort
from textdiffseg.imaging.on_device import products_on
from textdiffseg.imaging.volume import Volume, notes_on_channels
from textdiffseg.inference.alternatives import Alternative, AlternativeChoice, check_count, value_table
from textdiffseg.inference.guide import GuideResult, find_region
from textdiffseg.inference.measures import expected_dice_of, structures_of, volumes_of
from textdiffseg.inference.prompting import Selection, caution
from textdiffseg.inference.region import Region
from textdiffseg.inference.result import Result
from textdiffseg.inference.scan import CalibratedPredictor, ScanResult, segment_image
from textdiffseg.precision import cuda_kernels
from textdiffseg.preprocessing.case import TransformRecord, preprocess_image
from textdiffseg.progress import StepProgress, share_of
from textdiffseg.text.case_texts import CaseText

EMPTY_NOTE = "The mask is empty: no label was found in this scan."


@dataclass(frozen=True, kw_only=True)
class SegmentOptions:
    """The queried labels and the settings of a prediction. None: the value that validation chose.

    Raises `UserError` for a value that no model has.
    """

    prompts: tuple[str, ...] = ()  # phrases of the labels to segment; empty: all labels
    answers: str | Path | None = None  # instead: a JSON file of phrases with the user's names and values
    force: bool = False  # run phrases that the model was not trained with
    text_encoder: str | None = None  # hub name or folder of the model's text encoder, if it is not the bundled one
    steps: int | None = None  # of DDIM, for masks from diffusion samples; None: the single pass, or the plan's steps
    samples: int | None = None  # diffusion samples whose mean is the mask; None: the single pass
    mirroring: bool = True  # if validation chose it
    effort: Effort = "chosen"  # "fast": low resolution or fewer windows; "best": validation's best setting, no guide
    postprocessing: bool = True  # the steps that gained Dice in validation
    guide: bool = True  # where low resolution is trained, compute full resolution only where it finds something
    seed: int = 0  # of the noise
    uncertainty: bool = False  # measure it, with its own samples if needed
    alternatives: int = 0  # the number of alternatives to choose from the samples; 0: none
    probabilities: bool = False  # keep each label's probabilities

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompts", _phrases(self.prompts))
        object.__setattr__(self, "seed", whole("seed", self.seed))
        object.__setattr__(self, "alternatives", check_count(self.alternatives))
        for name in ("steps", "samples"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, whole(name, value, 1))
        check_choice("effort", self.effort, get_args(Effort))


def _phrases(prompts: Iterable[str] | None) -> tuple[str, ...]:
    """The prompts as a tuple."""
    if isinstance(prompts, str):
        raise UserError(f"prompts: expected a list of phrases, found one string. Write [{prompts!r}].")
    phrases = () if prompts is None else tuple(prompts)
    if wrong := [phrase for phrase in phrases if not isinstance(phrase, str)]:
        raise UserError(f"prompts: expected phrases in quotes, found {wrong[0]!r}.")
    return tuple(map(str, phrases))


@dataclass(frozen=True)
class PreparedScan:
    """A scan on the plan's grid. `PreparedModel.read` returns it."""

    image: Tensor  # (C, D, H, W)
    transform: TransformRecord  # from the scan's grid to the plan's
    notes: tuple[str, ...]  # on the scan
    low: Tensor | None = None  # (C, D, H, W) on the grid of the guide's plan; None: no guide


@dataclass(frozen=True)
class PreparedModel:
    """A model with queries and sampling settings. `Model.prepare` returns it."""

    selection: Selection
    mask_predictor: CalibratedPredictor  # predicts masks and probabilities
    uncertainty_predictor: CalibratedPredictor | None = None  # predicts uncertainty separately; None: not needed
    probabilities: bool = False
    mask_uncertainty: bool = False  # the prediction of the mask gives uncertainty, too: its settings suffice
    alternatives: AlternativeChoice | None = None  # chooses alternatives; None: not requested
    guide: "PreparedModel | None" = None  # the low-resolution model that shows where to look; None: look everywhere

    @property
    def plan(self) -> Plan:
        """The model's plan."""
        return self.mask_predictor.predictor.plan

    @property
    def uncertainty(self) -> bool:
        """Whether uncertainty was requested."""
        return self.mask_uncertainty or self.uncertainty_predictor is not None

    @property
    def maps(self) -> bool:
        """Whether the result has maps: probabilities or uncertainty."""
        return self.probabilities or self.uncertainty

    @property
    def hounsfield(self) -> bool:
        """Whether the first channel is CT."""
        return self.plan.channels[0].scheme == "ct"

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on the model, its sampler and the queried labels."""
        on_sampler = self.alternatives.sampler_note if self.alternatives else None
        return tuple(note for note in (self.plan.text.note, caution(self.plan, self.selection), on_sampler) if note)

    def read(self, volume: Volume, check: Callable[[Triple], None] | None = None) -> PreparedScan:
        """The scan on the plan's grid. Raises `UserError` if it does not fit the model.

        `check`: called with the shape on the plan's grid before the scan is resampled. It may raise `UserError`.
        """
        products = products_on(self.mask_predictor.predictor.device)
        image, transform = preprocess_image(volume, self.plan, products=products, check=check)
        notes = notes_on_channels(volume, [channel.name for channel in self.plan.channels])
        low = None if self.guide is None else self.guide.read(volume).image
        return PreparedScan(torch.from_numpy(image), transform, (*volume.notes, *notes), low)

    @cuda_kernels()
    def run(
        self,
        scan: PreparedScan,
        text: CaseText | None = None,
        progress: StepProgress | None = None,
        folder: Path | None = None,
    ) -> Result:
        """The segmentation of a scan.

        Raises `UserError` if the network's output is not finite, and `torch.OutOfMemoryError` if the device has not
        enough memory for a single window.

        Args:
            scan: from `read`.
            text: the case text of the scan, encoded by `Model.texts`.
            progress: called with (groups of windows done, all groups).
            folder: for the result's maps, which are then read when they are used; None: they stay in memory.
        """
        if self.guide is not None and scan.low is not None:
            return self._guided(self.guide, scan, text, progress, folder)
        selection, notes = self._selection(text), scan.notes
        chosen: tuple[Alternative, ...] = ()
        if self.alternatives is not None:
            share = self.alternatives.predictor.settings.passes / self.passes
            drawing = share_of(progress, 0, share)
            progress = share_of(progress, share, 1 - share)
            chosen = self.alternatives(scan.image, scan.transform, selection.queries, selection.values, drawing)
            notes = (*notes, *self.alternatives.notes(len(chosen)))
        scanned = segment_image(
            scan.image,
            scan.transform,
            selection,
            self.mask_predictor,
            self.uncertainty_predictor,
            self.mask_uncertainty,
            progress,
            self.probabilities,
            folder,
        )
        return self._result(scanned, scan.transform, notes, chosen)

    def _guided(
        self,
        guide: "PreparedModel",
        scan: PreparedScan,
        text: CaseText | None,
        progress: StepProgress | None,
        folder: Path | None,
    ) -> Result:
        """The segmentation of a scan, computed only where the guide finds something."""
        assert scan.low is not None, "expected a scan that was read for the guide"
        waiting = share_of(progress, 0, 0)  # how much follows is not known yet
        guide_result = guide.guide_region(scan.low, text, waiting)
        near = self.near(guide_result.region)
        guide_work, full_work = guide.work(scan.low), near.work(scan.image)
        if progress:
            progress(guide_work, guide_work + full_work)
        remaining = share_of(progress, guide_work / (guide_work + full_work), full_work / (guide_work + full_work))
        return near.run(replace(scan, notes=(*scan.notes, *guide_result.notes), low=None), text, remaining, folder)

    def guide_region(self, image: Tensor, text: CaseText | None, progress: StepProgress | None) -> GuideResult:
        """What this model, as a guide, finds in an image (C, D, H, W) on its grid."""
        text = text if self.plan.reads_texts else None
        return find_region(self.mask_predictor.predictor, image, self._selection(text), progress)

    def near(self, region: Region) -> "PreparedModel":
        """The same without a guide, for one scan: only windows that touch a region of the scan are computed."""
        mask, uncertainty, alternatives = self.mask_predictor, self.uncertainty_predictor, self.alternatives
        return replace(
            self,
            mask_predictor=mask.near(region),
            uncertainty_predictor=None if uncertainty is None else uncertainty.near(region),
            alternatives=None if alternatives is None else alternatives.near(region),
            guide=None,
        )

    def work(self, image: Tensor) -> float:
        """The work on an image (C, D, H, W), in voxels that pass the network."""
        return self.passes * self.mask_predictor.predictor.windows(triple(image.shape[1:])) * prod(self.plan.patch)

    def _selection(self, text: CaseText | None) -> Selection:
        """The selection, with the case text of a scan."""
        if text is None:
            return self.selection
        return replace(self.selection, queries=self.selection.queries.with_tokens([text.tokens]))

    @property
    def passes(self) -> float:
        """The time of a window, in plain passes, of all predictions together."""
        passes = self.mask_predictor.predictor.settings.passes
        if self.uncertainty_predictor is not None:
            passes += self.uncertainty_predictor.predictor.settings.passes
        if self.alternatives is not None:
            passes += self.alternatives.predictor.settings.passes
        return passes

    def _result(
        self,
        scanned: ScanResult,
        transform: TransformRecord,
        notes: tuple[str, ...],
        alternatives: tuple[Alternative, ...],
    ) -> Result:
        selection = self.selection
        calibration = self.mask_predictor.calibration
        volumes = volumes_of(scanned, selection, self.plan, transform, calibration)
        expected_dice = expected_dice_of(scanned, selection, self.plan, calibration)
        check = expected_dice.note if expected_dice else None
        note = check if scanned.voxels[1:].any() else EMPTY_NOTE
        return Result(
            labels=value_table(selection.values)[scanned.slots],
            geometry=transform.geometry,
            names=selection.names,
            values=selection.values,
            structures=structures_of(self.plan, selection),
            volumes={volume.label: volume for volume in volumes},
            notes=(*self.notes, *([note] if note else [])),
            scan_notes=notes,
            transform=transform,
            maps=scanned.maps,
            hounsfield=self.hounsfield,
            channels=tuple(channel.name for channel in self.plan.channels),
            expected_dice=expected_dice,
            alternatives=alternatives,
        )
