"""`Model`: trained folds that are loaded once and segment scans.

model = Model.load("results/Dataset004_Hippocampus/default")
result = model.segment("scan.nii.gz", prompts=["anterior hippocampus"])
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np

from plans.errors import UserError
from plans.layout import Checkpoint
from plans.plan import Plan
from plans.raw.prompts import read_prompt_file
from textdiffseg.arguments import check_choice, path_of, several
from textdiffseg.folds.calibration import applied_calibration
from textdiffseg.folds.ensemble import Ensemble, load_ensemble, names_of_folds
from textdiffseg.folds.find import find_models
from textdiffseg.folds.low import load_low, why_no_guide
from textdiffseg.folds.sampling import (
    Effort,
    PredictionSettings,
    alternative_settings,
    mask_settings,
    uncertainty_settings,
)
from textdiffseg.imaging.sources.files import read_geometry
from textdiffseg.imaging.sources.objects import volume_of
from textdiffseg.imaging.sources.tensors import record_of
from textdiffseg.inference.alternatives import AlternativeChoice, few_iterations_note
from textdiffseg.inference.memory import Kept, no_memory, refuse_too_large
from textdiffseg.inference.openvino import WINDOWS_AT_ONCE, Backend, OpenVINOSegmenter, require_openvino
from textdiffseg.inference.predictor import Predictor
from textdiffseg.inference.prompting import encode_texts, select_answers, select_labels
from textdiffseg.inference.result import Result
from textdiffseg.inference.samples import SamplePredictor
from textdiffseg.inference.scan import CalibratedPredictor, window_reporter
from textdiffseg.inference.segmenting import PreparedModel, PreparedScan, SegmentOptions
from textdiffseg.progress import Cancel, OnProgress, StepProgress, never, silent
from textdiffseg.resources import choose_device, is_out_of_memory
from textdiffseg.text.case_texts import CaseText

if TYPE_CHECKING:
    from textdiffseg.imaging.sources.objects import Scan


class Model:
    """One or more trained folds of a model. Several threads may use it, each for its own scan."""

    def __init__(
        self,
        ensemble: Ensemble,
        device: str,
        low: "Model | None" = None,
        low_notes: tuple[str, ...] = (),
        backend: Backend = "torch",
    ):
        """`low`: the model of low resolution, for `effort="fast"` and as a guide; `low_notes` are on its folds."""
        self.ensemble, self.device, self.low, self.backend = ensemble, device, low, backend
        openvino = backend == "openvino"
        self._converted = [OpenVINOSegmenter.of(network) for network in ensemble.networks] if openvino else None
        self._why_no_guide = why_no_guide(low.ensemble) if low else None
        lost = f"Low resolution does not guide the full one: {self._why_no_guide}." if self._why_no_guide else None
        self._low_notes = (*low_notes, *([lost] if lost else []))

    @classmethod
    def load(
        cls,
        folder: str | Path | Sequence[str | Path],
        *,
        folds: Sequence[str | int] | None = None,
        checkpoint: Checkpoint = "best",
        device: str | None = None,
        include_unfinished: bool = False,
        backend: Backend = "torch",
    ) -> "Model":
        """The model whose folds are in `folder`. `UserError` if no fold is finished or the folds do not match.

        The low resolution is loaded, too, if it was trained: its folder lies beside `folder` and ends with `-low`.

        Args:
            folder: it holds fold_0, ...; several folders: models that are averaged.
            folds: the folds to load; None: all that are finished.
            checkpoint: "best" or "latest".
            device: "cpu" or "cuda"; None: cuda if there is a GPU.
            include_unfinished: load folds that are in training or were interrupted, too.
            backend: "openvino" computes masks with OpenVINO; for device "cpu" only.
        """
        check_choice("checkpoint", checkpoint, get_args(Checkpoint))
        check_choice("backend", backend, get_args(Backend))
        device = choose_device(device)
        names = names_of_folds(folds)
        if backend == "openvino":
            require_openvino(device)
        folders = [model for given in several(folder) for model in find_models(Path(), folder=path_of(given))]
        full = load_ensemble(folders, names, checkpoint, device, include_unfinished)
        low, notes = load_low(full, names, checkpoint, device, include_unfinished)
        return cls(full, device, None if low is None else cls(low, device, backend=backend), notes, backend)

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on the folds: which are left out, which were not validated."""
        return (*self.ensemble.notes, *self._low_notes)

    def serving(self, effort: Effort) -> "Model":
        """The model that serves an effort: for `fast` the low-resolution model if there is one, else this one."""
        return self.low if effort == "fast" and self.low is not None else self

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

    def prepare(self, options: SegmentOptions) -> PreparedModel:
        """The model with the queries and settings of `options`. `UserError` if they do not fit the model."""
        if (server := self.serving(options.effort)) is not self:
            return server.prepare(options)
        plan, bank = self.plan, self.ensemble.bank
        if options.answers is None:
            selection = select_labels(plan, bank, options.prompts, options.force, options.text_encoder)
        else:
            answers = read_prompt_file(Path(options.answers))
            selection = select_answers(plan, bank, answers, options.force, options.text_encoder)
        settings = mask_settings(
            plan,
            self.ensemble.sampling,
            steps=options.steps,
            samples=options.samples,
            mirroring=options.mirroring,
            seed=options.seed,
            effort=options.effort,
        )
        sampled = settings
        if options.uncertainty:
            sampled = uncertainty_settings(plan, settings, len(self.ensemble.folds))
        return PreparedModel(
            selection=selection,
            mask_predictor=self._calibrated(settings, options.postprocessing),
            uncertainty_predictor=None if sampled == settings else self._calibrated(sampled),
            probabilities=options.probabilities,
            mask_uncertainty=options.uncertainty and sampled == settings,
            alternatives=self._alternatives(options, settings),
            guide=self._guide(options),
        )

    def _alternatives(self, options: SegmentOptions, settings: PredictionSettings) -> AlternativeChoice | None:
        if options.alternatives == 0:
            return None
        drawn = alternative_settings(self.plan, settings)
        predictor = SamplePredictor(self.ensemble.samplers, drawn, self.device)
        return AlternativeChoice(predictor, options.alternatives, few_iterations_note(self.ensemble.sampler_iterations))

    def _guide(self, options: SegmentOptions) -> PreparedModel | None:
        """The low-resolution model with the same queries, in a single pass; None: full resolution is computed whole."""
        if self.low is None or self._why_no_guide or not options.guide or options.effort == "best":
            return None
        return self.low.prepare(
            SegmentOptions(
                prompts=options.prompts,
                answers=options.answers,
                force=options.force,
                text_encoder=options.text_encoder,
                mirroring=False,
                seed=options.seed,
            )
        )

    def segment(
        self,
        scan: "Scan",
        *,
        spacing: Sequence[float] | None = None,
        affine: np.ndarray | None = None,
        series: str | None = None,
        prompts: Sequence[str] = (),
        text: str | None = None,
        force: bool = False,
        text_encoder: str | None = None,
        steps: int | None = None,
        samples: int | None = None,
        mirroring: bool = True,
        effort: Effort = "chosen",
        guide: bool = True,
        postprocessing: bool = True,
        seed: int = 0,
        uncertainty: bool = False,
        probabilities: bool = False,
        alternatives: int = 0,
        progress: OnProgress = silent,
        cancel: Cancel = never,
    ) -> Result:
        """The segmentation of one scan, as `tds_predict` writes it. `UserError` for an invalid argument or scan.

        Args:
            scan: path, list or dict of paths by channel (None: missing), image, or array or tensor ([C,] z, y, x), LPS.
            spacing, affine: of an array: mm along (z, y, x); or (4, 4), index to RAS+ in mm, for other orders of axes.
            series, text: UID of a DICOM series (None: the largest one); text of the case, if the model reads texts.
            progress, cancel: called after each group of windows. If `cancel` returns True, `Cancelled` is raised.
            others: those of `SegmentOptions`.
        """
        options = SegmentOptions(
            prompts=prompts,  # type: ignore[arg-type]  # any sequence
            force=force,
            text_encoder=text_encoder,
            steps=steps,
            samples=samples,
            mirroring=mirroring,
            effort=effort,
            guide=guide,
            postprocessing=postprocessing,
            seed=seed,
            uncertainty=uncertainty,
            probabilities=probabilities,
            alternatives=alternatives,
        )
        prepared, encoded = self.prepare(options), self._encoded(text, options)
        return self._segmented(prepared, scan, encoded, window_reporter(progress, cancel), spacing, affine, series)

    def segment_each(
        self, scans: Iterable["Scan"], options: SegmentOptions | None = None
    ) -> Iterator[Result | UserError]:
        """The segmentation of each scan, in order. A scan that fails gives its `UserError`, and the others go on.

        Scans are taken from `scans` one by one, each after the last result was used. So it may be a queue that never
        ends. See `segment` for the kinds of scans. An array has no place in space: give a SimpleITK or nibabel image.
        """
        if isinstance(scans, str | Path):
            raise UserError(f"scans: expected a list of scans, found one path. Write [{str(scans)!r}].")
        prepared = self.prepare(options or SegmentOptions())
        for scan in scans:
            yield self._attempt(prepared, scan)  # no name holds the result while the next scan is segmented

    def _attempt(self, prepared: PreparedModel, scan: "Scan") -> Result | UserError:
        """The segmentation of a scan, or its error."""
        try:
            return self._segmented(prepared, scan)
        except UserError as error:
            return UserError(*error.lines)  # without its frames, which hold the scan
        except (MemoryError, RuntimeError, OSError) as error:
            if not is_out_of_memory(error):
                raise
            return UserError(no_memory(self.device))

    def _segmented(
        self,
        prepared: PreparedModel,
        scan: "Scan",
        text: CaseText | None = None,
        progress: StepProgress | None = None,
        spacing: Sequence[float] | None = None,
        affine: np.ndarray | None = None,
        series: str | None = None,
    ) -> Result:
        """The segmentation of a scan. It keeps the record of a MetaTensor, and the paths of files with their series."""
        result = prepared.run(self._read(prepared, scan, spacing, affine, series), text, progress)
        return replace(result, monai=record_of(scan), scan_files=_files_of(scan), series=series)

    def _read(
        self,
        prepared: PreparedModel,
        scan: "Scan",
        spacing: Sequence[float] | None,
        affine: np.ndarray | None,
        series: str | None,
    ) -> PreparedScan:
        """The scan on the plan's grid. It is refused before it is read, or before it is resampled, if it cannot fit."""
        refuse = partial(refuse_too_large, prepared, kept=Kept(maps=True))
        for path in _files_of(scan)[:1]:
            refuse(read_geometry(path, series))
        volume = volume_of(scan, spacing, affine, series, self._channels)
        return prepared.read(volume, partial(refuse, volume.geometry, value_bytes=volume.array.itemsize))

    @property
    def _channels(self) -> list[str]:
        return [channel.name for channel in self.plan.channels]

    def _encoded(self, text: str | None, options: SegmentOptions) -> CaseText | None:
        serving = self.serving(options.effort)
        return serving.texts({"": text}, options.text_encoder)[""] if text else None

    def _calibrated(self, settings: PredictionSettings, postprocessing: bool = False) -> CalibratedPredictor:
        networks = self.ensemble.samplers if settings.steps else self.ensemble.networks
        if settings.steps or self._converted is None:
            predictor = Predictor(networks, settings, self.device)
        else:
            predictor = Predictor(networks, settings, self.device, WINDOWS_AT_ONCE, self._converted)
        steps = self.ensemble.postprocessing if postprocessing else {}
        return CalibratedPredictor(predictor, applied_calibration(self.ensemble.calibrations, settings), steps)


def _files_of(scan: "Scan") -> tuple[Path, ...]:
    """The files of a scan that was given as paths."""
    given = scan.values() if isinstance(scan, Mapping) else scan if isinstance(scan, list | tuple) else (scan,)
    return tuple(path_of(path) for path in given if isinstance(path, str | Path))
