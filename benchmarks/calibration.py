"""Calibration of probabilities and volume intervals: trained folds of `default` and `unet` compared.

Prints JSON:

- expected calibration error and Brier score near the foreground (textdiffseg/evaluation/calibration.py), before and
  after temperature scaling. They are of the mask's probabilities and, for `default`, also of those of --uncertainty;
- the coverage of 90% volume intervals, from level sets without temperature and factor, and with both;
- CRPS of the volume as a share of the true volume, from eight level sets and, for `default`, from eight samples;
- `default` minus `unet`, with paired bootstrap intervals over cases.

All "after" figures are cross-fitted. One half of the validation cases is for fitting and the other for measuring, then
the halves are exchanged. CRPS compares eight quantiles of the level sets with eight samples, with the same estimator:

    CRPS = mean_i |V_i - V| - mean_ij |V_i - V_j| / 2,    V the true volume

    python benchmarks/calibration.py DEFAULT_FOLD UNET_FOLD [--preprocessed DIR] [--cases 42] [--device cpu]

Both are folders of one fold of one data set, as tds_train or benchmarks/accuracy.py --root leave them.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from bootstrap import paired
from stored import add_device, add_preprocessed, held_out, machine, preprocessed_beside

from plans.errors import UserError
from plans.layout import FoldFolder
from plans.plan import Plan
from textdiffseg.data.store import StoredCase, open_case
from textdiffseg.folds.sampling import read_sampling, settings_of_choice, uncertainty_settings
from textdiffseg.folds.weights import load_network
from textdiffseg.inference.predictor import Predictor
from textdiffseg.inference.volumes import SlabVoxelSums
from textdiffseg.text.bank import TextBank
from textdiffseg.validation.calibrate import gather
from textdiffseg.validation.cases import load_fold, predict_case
from textdiffseg.validation.evidence import MIN_CASES, Evidence, scores
from textdiffseg.validation.fitting import half_temperatures, tempered_in_halves
from textdiffseg_cli.common import positive_int, run

MEASURES = ("ece", "brier")
SAMPLES = 8  # volumes of each source whose CRPS is compared
QUANTILES = tuple((np.arange(SAMPLES) + 0.5) / SAMPLES)


def main() -> int:
    """Predict, fit and compare, and print the report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for preset in ("default", "unet"):
        parser.add_argument(preset, type=Path, metavar=f"{preset.upper()}_FOLD", help="folder of a trained fold")
    add_preprocessed(parser)
    parser.add_argument("--cases", type=positive_int, default=42, metavar="N", help="validation cases (default: 42)")
    add_device(parser)
    return run(calibrate, parser.parse_args())


def calibrate(args: argparse.Namespace) -> None:
    """Print the figures of both folds."""
    plans = {preset: Plan.read(FoldFolder(getattr(args, preset)).plan) for preset in ("default", "unet")}
    for preset, plan in plans.items():
        if plan.preset != preset:
            raise UserError(f"{getattr(args, preset)} is a fold of preset {plan.preset}; {preset} is expected there.")
    dataset, fold = plans["default"].dataset, args.default.name
    if (plans["unet"].dataset, args.unet.name) != (dataset, fold):
        raise UserError(f"{args.default} and {args.unet} are not the same fold of the same data set.")
    preprocessed = args.preprocessed or preprocessed_beside(args.default, dataset)
    cases = held_out(preprocessed, fold.removeprefix("fold_"), args.cases)
    evidence = {
        "unet": predict(args.unet, preprocessed, cases, args.device),
        "default": predict(args.default, preprocessed, cases, args.device),
        "default_uncertainty": predict(args.default, preprocessed, cases, args.device, uncertainty=True),
    }
    drawn = sampled_volumes(args.default, preprocessed, cases, args.device)
    heading = {"benchmark": "calibration", "dataset": dataset, "fold": fold.removeprefix("fold_")}
    print(json.dumps(heading | machine(args.device) | report(evidence, drawn), indent=1))


def predict(folder: Path, preprocessed: Path, cases: list[str], device: str, uncertainty: bool = False) -> Evidence:
    """The evidence of validation cases on a fold's predictions, with its own sampling or that of --uncertainty."""
    predictor, bank = load_fold(FoldFolder(folder), device, read_sampling(FoldFolder(folder)))
    if uncertainty:
        settings = uncertainty_settings(predictor.plan, predictor.settings)
        predictor = Predictor(predictor.networks, settings, device)
    evidence = gather(predictor, bank, preprocessed, cases)
    if len(evidence.voxels) < MIN_CASES:
        raise UserError(
            f"{preprocessed}: {len(evidence.voxels)} of {len(cases)} cases have foreground; at least {MIN_CASES} are "
            "needed."
        )
    return evidence


def sampled_volumes(folder: Path, preprocessed: Path, cases: list[str], device: str) -> np.ndarray:
    """The volumes (cases, SAMPLES, L) of single samples of the fold, in voxels of the file's grid.

    They are those of the cases in `Evidence.truths`, in that order. Each sample has its own seed.
    """
    fold, found = FoldFolder(folder), []
    network, bank = load_network(fold, device=device), TextBank.load(fold.words)
    settings = uncertainty_settings(network.plan, settings_of_choice(network.plan, read_sampling(fold)))
    predictors = [
        Predictor([network], settings.model_copy(update={"samples": 1, "seed": seed}), device)
        for seed in range(SAMPLES)
    ]
    for case_id in cases:
        case = open_case(preprocessed, case_id, network.plan)
        if not case.record.present or case.original_labels().min() < 0:
            continue
        transform = case.record.transform
        scale = np.prod(transform.cropped_shape) / np.prod(transform.shape)
        found.append(scale * np.stack([volumes_of(predictor, case, bank) for predictor in predictors]))
    return np.stack(found)


def volumes_of(predictor: Predictor, case: StoredCase, bank: TextBank) -> np.ndarray:
    """The voxels (L,) of each label's mask on the plan's grid."""
    known = case.record.known
    sums = SlabVoxelSums(predictor.readout, len(known))
    for slab in predict_case(predictor, case, bank):
        sums.add(slab.prediction.probabilities)
    return sums.finish().by_label(known, len(predictor.plan.labels)).voxels


def report(evidence: dict[str, Evidence], drawn: np.ndarray | None = None) -> dict:
    """The figures of every row, and each row of `default` minus `unet`. `drawn`: of `sampled_volumes`."""
    measured = {
        row: {"before": scores(row_evidence.voxels), "after": scores(tempered_in_halves(row_evidence.voxels))}
        for row, row_evidence in evidence.items()
    }
    rows = {row: describe(row_evidence, measured[row]) for row, row_evidence in evidence.items()}
    minus = {row: compare(measured[row], measured["unet"]) for row in ("default", "default_uncertainty")}
    return {"rows": rows, "minus_unet": minus, "crps_of_volumes": compare_volumes(evidence, drawn)}


def compare_volumes(evidence: dict[str, Evidence], drawn: np.ndarray | None) -> dict:
    """The mean CRPS of level sets and of the samples `drawn`, and the difference of the two for `default`."""
    if not evidence["default"].sums:
        return {}
    errors = {
        f"{row}, level sets": level_set_crps(row_evidence)
        for row, row_evidence in evidence.items()
        if row_evidence.sums
    }
    if drawn is not None:
        errors["default, samples"] = crps(np.moveaxis(drawn, 1, 2), np.stack(evidence["default"].truths))
    figures: dict = {name: float(values.mean()) for name, values in errors.items()}
    if drawn is not None:
        figures["samples_minus_level_sets"] = paired(errors["default, samples"] - errors["default, level sets"])
    return figures


def level_set_crps(evidence: Evidence) -> np.ndarray:
    """The CRPS (cases,) of the level sets. Each half has the temperature of the other."""
    temperatures, volumes = half_temperatures(evidence.voxels), []
    for sums, scale, half in zip(evidence.sums, evidence.scales, evidence.halves, strict=True):
        volumes.append(scale * sums.volumes(QUANTILES, temperatures[1 - half]))
    return crps(np.stack(volumes), np.stack(evidence.truths))


def crps(volumes: np.ndarray, truths: np.ndarray) -> np.ndarray:
    """The CRPS of volumes (cases, L, N) over the true volume (cases, L), averaged over the labels that are present."""
    truth = np.where(truths > 0, truths, np.nan)
    errors = np.abs(volumes - truth[..., None]).mean(-1)
    spread = np.abs(volumes[..., None] - volumes[..., None, :]).mean((-1, -2))
    return np.nanmean((errors - spread / 2) / truth, axis=1)


def describe(evidence: Evidence, measured: dict[str, np.ndarray]) -> dict:
    """The figures of one row: settings, the temperature fitted on each half, and means before and after."""
    settings = evidence.settings
    after_minus_before = measured["after"] - measured["before"]
    return {
        "steps": settings.steps,
        "samples": settings.samples,
        "mirrored_axes": settings.mirror_axes,
        "cases": len(evidence.voxels),
        "temperatures_of_halves": half_temperatures(evidence.voxels),
        **{
            name: {when: float(values[:, i].mean()) for when, values in measured.items()}
            | {"after_minus_before": paired(after_minus_before[:, i])}
            for i, name in enumerate(MEASURES)
        },
        **intervals_of(evidence),
    }


def intervals_of(evidence: Evidence) -> dict:
    """The widening fitted on each half, and the coverage; {} if ignored voxels make the volumes unknown."""
    if not evidence.sums:
        return {}
    after, factors = evidence.intervals_in_halves()
    coverage = {"before": evidence.coverage(evidence.intervals(1.0)), "after": evidence.coverage(after)}
    return {"interval_factors_of_halves": factors, "coverage": coverage}


def compare(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> dict:
    """a minus b, paired by case, for each measure before and after. Lower is better."""
    reports = {}
    for i, name in enumerate(MEASURES):
        for when in ("before", "after"):
            gap = paired(a[when][:, i] - b[when][:, i])
            low, high = gap["interval_95"]
            reports[f"{name}_{when}"] = gap | {"better": "default" if high < 0 else "unet" if low > 0 else "neither"}
    return reports


if __name__ == "__main__":
    sys.exit(main())
