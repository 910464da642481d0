"""Report the settings of a prediction before it starts: labels, sampling, calibration, memory."""

from collections.abc import Mapping
from pathlib import Path

from plans.planning.rules import sizes_text
from textdiffseg.folds.postprocessing import listing_of
from textdiffseg.folds.sampling import PredictionSettings
from textdiffseg.inference.memory import MIN_VALUE_BYTES, Kept, scan_ram_gb
from textdiffseg.inference.model import Model
from textdiffseg.inference.prompting import caution
from textdiffseg.inference.region import MARGIN
from textdiffseg.inference.segmenting import PreparedModel
from textdiffseg.progress import Report
from textdiffseg.resources import free_memory
from textdiffseg.text.case_texts import cut_notes


def announce(
    model: Model, prepared: PreparedModel, scans: Mapping[str, tuple[Path, ...]], report: Report, kept: Kept
) -> None:
    """Report model, labels, sampling and calibration, and the memory that the run needs. `kept`: what it keeps."""
    ensemble, selection = model.ensemble, prepared.selection
    folds, models = dict.fromkeys(ensemble.folds), " and ".join(map(str, ensemble.folders))
    report(f"Model: {models}, {'folds' if len(folds) > 1 else 'fold'} {', '.join(folds)}")
    for line in model.notes:
        report(line)
    _report_resolution(prepared, report)
    if model.plan.text.note:
        report(model.plan.text.note)
    report(f"Labels: {', '.join(f'{n} = {v}' for n, v in zip(selection.names, selection.values, strict=True))}")
    masks = prepared.mask_predictor.predictor
    backend = " with OpenVINO" if model.backend == "openvino" else ""
    report(f"Sampling: {in_words(masks.settings)}, on {masks.device}{backend}")
    if prepared.uncertainty_predictor is not None:
        settings = in_words(prepared.uncertainty_predictor.predictor.settings)
        report(f"Uncertainty: {settings}, predicted in addition to the mask")
    alternatives = prepared.alternatives
    if alternatives is not None:
        settings = in_words(alternatives.predictor.settings)
        report(f"Alternatives: {alternatives.count}, chosen from {settings}, predicted in addition to the mask")
        if alternatives.sampler_note:
            report(alternatives.sampler_note)
    _report_calibration(prepared, report)
    if steps := prepared.mask_predictor.postprocessing:
        report(
            f"Postprocessing, as validation gained by it: {listing_of(steps)}. To leave it out: --no-postprocessing."
        )
    if note := caution(model.plan, selection):
        report(f"Note: {note}")
    _report_memory(prepared, scans, report, kept)


def _report_resolution(prepared: PreparedModel, report: Report) -> None:
    """Report the use of low resolution, alone or as a guide."""
    plan, guide = prepared.plan, prepared.guide
    if plan.resolution == "low":
        report(f"Low resolution alone ({sizes_text(plan.spacing)} mm): full resolution is not computed.")
    if guide is not None:
        margin = sizes_text(tuple(MARGIN * step for step in guide.plan.spacing))
        report(
            f"Guide: low resolution ({sizes_text(guide.plan.spacing)} mm). Full resolution is computed where it finds "
            f"something, with a margin of {margin} mm. To compute it everywhere: --no-guide."
        )


def report_texts(
    lengths: Mapping[str, int], scans: int, strays: int, folder: str | Path | None, report: Report
) -> None:
    """Report how many scans have a text.

    Args:
        lengths: in tokens, by case.
        scans: the number of scans.
        strays: the number of texts whose scan is not predicted.
        folder: the folder of the texts; None: a list of cases holds them.
    """
    others = (f"{strays} texts in {folder} belong to no scan of this run.",) if strays else ()
    report(" ".join((f"Texts: {len(lengths)} of {scans} scans have one.", *others, *cut_notes(lengths))))


def in_words(settings: PredictionSettings) -> str:
    """The sampling settings as text: `one pass, no mirroring`, or `8 samples of 8 steps, no mirroring, seed 0`."""
    mirrored = f"mirrored along {len(settings.mirror_axes)} axes" if settings.mirror_axes else "no mirroring"
    if settings.overlap != PredictionSettings().overlap:
        mirrored += f", windows overlap by {settings.overlap:.3g}"
    if settings.steps == 0:
        return f"one pass, {mirrored}"
    steps = f"{settings.steps} step{'s' * (settings.steps > 1)}"
    samples = f"{settings.samples} sample{'s' * (settings.samples > 1)}"
    return f"{samples} of {steps}, {mirrored}, seed {settings.seed}"


def _report_calibration(prepared: PreparedModel, report: Report) -> None:
    """Report the calibration of probabilities, volume intervals and expected Dice. The mask needs none."""

    def fitted(temperature: float | None) -> str:
        return f"temperature {temperature:.2f}" if temperature else "none, as validation fitted none for these settings"

    masks = prepared.mask_predictor.calibration
    if prepared.probabilities:
        report(f"Calibration of probabilities: {fitted(masks.temperature)}")
    if prepared.uncertainty:
        uncertainty = prepared.uncertainty_predictor or prepared.mask_predictor
        report(f"Calibration of uncertainty: {fitted(uncertainty.calibration.temperature)}")
    if masks.widening is not None:
        report("Volumes: with 90% intervals")
    if masks.expected_dice is not None and prepared.selection.is_of_all(prepared.plan):
        report(f"Expected Dice: masks below {masks.expected_dice.threshold:.2f} are reported")


def _report_memory(prepared: PreparedModel, scans: Mapping[str, tuple[Path, ...]], report: Report, kept: Kept) -> None:
    from textdiffseg.imaging.sources.files import is_series, read_geometry

    def estimate(path: Path) -> float | None:
        geometry, value_bytes = read_geometry(path), 4 if is_series(path) else MIN_VALUE_BYTES
        return None if geometry is None else scan_ram_gb(prepared, geometry, kept=kept, value_bytes=value_bytes)

    found = [estimate(paths[0]) for paths in scans.values()]
    need = max((one for one in found if one is not None), default=prepared.plan.memory.ram_gb)
    report(f"RAM: about {need:.1f} GB for the largest of {len(scans)} scans, {free_memory() / 1e9:.1f} GB free.")
