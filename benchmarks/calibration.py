"""Calibration of probabilities and volume intervals: trained folds of `default` and `unet` compared.

Prints JSON:

- expected calibration error and Brier score near the foreground (textdiffseg/evaluation/calibration.py), before and
  after temperature scaling. They are of the mask's probabilities and, for `default`, also of those of --uncertainty;
- the coverage of 90% volume intervals, before and after widening;
- `default` minus `unet`, with paired bootstrap intervals over cases.

All "after" figures are cross-fitted. One half of the validation cases is for fitting and the other for measuring, then
the halves are exchanged.

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
from textdiffseg.folds.sampling import read_sampling
from textdiffseg.validation.calibrate import gather
from textdiffseg.validation.cases import load_fold
from textdiffseg.validation.evidence import MIN_CASES, Evidence, scores
from textdiffseg.validation.fitting import fit_temperature, fit_widening, tempered_in_halves, widened_in_halves
from textdiffseg_cli.common import positive_int, run

MEASURES = ("ece", "brier")
HALVES = (slice(0, None, 2), slice(1, None, 2))


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
    heading = {"benchmark": "calibration", "dataset": dataset, "fold": fold.removeprefix("fold_")}
    print(json.dumps(heading | machine(args.device) | report(evidence), indent=1))


def predict(folder: Path, preprocessed: Path, cases: list[str], device: str, uncertainty: bool = False) -> Evidence:
    """The evidence of validation cases on a fold's predictions, with its own sampling or that of --uncertainty."""
    predictor, bank = load_fold(FoldFolder(folder), device, read_sampling(FoldFolder(folder)), uncertainty)
    evidence = gather(predictor, bank, preprocessed, cases)
    if len(evidence.voxels) < MIN_CASES:
        raise UserError(
            f"{preprocessed}: {len(evidence.voxels)} of {len(cases)} cases have foreground; at least {MIN_CASES} are "
            "needed."
        )
    return evidence


def report(evidence: dict[str, Evidence]) -> dict:
    """The figures of every row, and each row of `default` minus `unet`."""
    measured = {
        row: {"before": scores(found.voxels), "after": scores(tempered_in_halves(found.voxels))}
        for row, found in evidence.items()
    }
    rows = {row: describe(found, measured[row]) for row, found in evidence.items()}
    minus = {row: compare(measured[row], measured["unet"]) for row in ("default", "default_uncertainty")}
    return {"rows": rows, "minus_unet": minus}


def describe(evidence: Evidence, measured: dict[str, np.ndarray]) -> dict:
    """The figures of one row: settings, the temperature fitted on each half, and means before and after."""
    settings = evidence.settings
    after_minus_before = measured["after"] - measured["before"]
    return {
        "steps": settings.steps,
        "samples": settings.samples,
        "mirrored_axes": settings.mirror_axes,
        "cases": len(evidence.voxels),
        "temperatures_of_halves": [fit_temperature(evidence.voxels[half]) for half in HALVES],
        **{
            name: {when: float(values[:, i].mean()) for when, values in measured.items()}
            | {"after_minus_before": paired(after_minus_before[:, i])}
            for i, name in enumerate(MEASURES)
        },
        **intervals_of(evidence),
    }


def intervals_of(evidence: Evidence) -> dict:
    """The widening fitted on each half, and the coverage; {} if ignored voxels make the volumes unknown."""
    if not evidence.intervals:
        return {}
    intervals, truths = np.stack(evidence.intervals), np.stack(evidence.truths)
    return {
        "interval_factors_of_halves": [fit_widening(intervals[half], truths[half]) for half in HALVES],
        "coverage": {
            "before": evidence.coverage(intervals, truths),
            "after": evidence.coverage(widened_in_halves(intervals, truths), truths),
        },
    }


def compare(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> dict:
    """a minus b, paired by case, for each measure before and after. Lower is better."""
    found = {}
    for i, name in enumerate(MEASURES):
        for when in ("before", "after"):
            gap = paired(a[when][:, i] - b[when][:, i])
            low, high = gap["interval_95"]
            found[f"{name}_{when}"] = gap | {"better": "default" if high < 0 else "unet" if low > 0 else "neither"}
    return found


if __name__ == "__main__":
    sys.exit(main())
