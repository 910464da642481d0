"""Does every module matter? Dice of a trained model on stored validation cases, with one module disturbed at a time.

    python benchmarks/parts.py results/Dataset004_Hippocampus/default/fold_0 [--preprocessed DIR] [--cases 8]

Prints JSON. Each row has Dice by label, the mean, and the mean's loss against the undisturbed model:

- fusion without effect, z_it = z_i; the classifier is unchanged;
- the classifier's vectors exchanged between the labels; the fusion's tokens are unchanged;
- the image's skips set to zero;
- each label queried alone, undisturbed and with another label's tokens in the fusion; the classifier is unchanged.
  (If all labels are queried, attention reads their tokens as one set, and an exchange has no effect.)

A module whose disturbance costs less than 0.005 is listed as decorative. Two more rows, `passthrough` and
`exchangeability`, measure the diffusion samples, each with a bar (sampled_parts.py).

The benchmark is for preset `default`, which has all of these modules. The publication's preset has its own ablations
(benchmarks/paper.py).
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from sampled_parts import BARS, Undisturbed, exchangeability, passthrough
from stored import (
    Scan,
    add_device,
    add_preprocessed,
    dice,
    held_out,
    machine,
    mean,
    preprocessed_beside,
    stored_scans,
)

from plans.errors import UserError
from plans.layout import FoldFolder
from plans.plan import Plan
from textdiffseg.data.store import open_case
from textdiffseg.folds.sampling import PredictionSettings
from textdiffseg.folds.weights import load_network
from textdiffseg.inference.predictor import Predictor
from textdiffseg.networks.model import TextDiffSeg, can_sample
from textdiffseg.queries import Queries
from textdiffseg.text.bank import TextBank
from textdiffseg_cli.common import positive_int, run

MIN_LOSS = 0.005  # mean Dice; a smaller loss makes a module decorative


class NoFusion(Undisturbed):
    """z_it = z_i."""

    def fuse(self, z_i, queries):
        return z_i


class ExchangedTokens(Undisturbed):
    """Fusion reads the tokens of other queries (of one sample)."""

    def __init__(self, model: TextDiffSeg, other: Queries):
        super().__init__(model)
        self.other = other

    def fuse(self, z_i, queries):
        return super().fuse(z_i, self.other.to(z_i.device).expand(len(z_i)))


class SwappedVectors(Undisturbed):
    """The classifier uses the vector of the preceding label for every label."""

    def classify(self, g, queries):
        return super().classify(g, replace(queries, vectors=queries.vectors.roll(1, dims=1)))


class NoSkips(Undisturbed):
    """The decoder reads the estimator's features without the image's skips."""

    def decode(self, skips):
        return super().decode((*(torch.zeros_like(skip) for skip in skips[:-1]), skips[-1]))


def main() -> int:
    """Score the model under each intervention and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("fold", type=Path, metavar="FOLD_FOLDER", help="a trained fold")
    add_preprocessed(parser)
    parser.add_argument("--cases", type=positive_int, default=8, metavar="N", help="validation cases (default: 8)")
    add_device(parser)
    return run(examine, parser.parse_args())


def examine(args: argparse.Namespace) -> None:
    """Print the table of a fold."""
    plan = Plan.read(FoldFolder(args.fold).plan)
    if plan.diffusion is None or not plan.classifies_words:
        raise UserError(
            f"{args.fold}: a model of preset {plan.preset} has not all of these parts: give one of default."
        )
    model, bank = (
        load_network(FoldFolder(args.fold), device=args.device),
        TextBank.load(FoldFolder(args.fold).words),
    )
    preprocessed = args.preprocessed or preprocessed_beside(args.fold, plan.dataset)
    cases = held_out(preprocessed, args.fold.name.removeprefix("fold_"), args.cases)

    def predictor(disturbed: Undisturbed) -> Predictor:
        return Predictor([disturbed], PredictionSettings(), args.device)

    scans = list(stored_scans(preprocessed, cases, plan, bank))
    rows = disturb(model, bank, scans, predictor)
    report = {"benchmark": "parts", "fold": str(args.fold), "cases": cases, "bars": BARS}
    report |= machine(args.device) | {"decorative": decorative(rows)}
    if can_sample([model]):
        label_maps = [torch.from_numpy(open_case(preprocessed, scan.name).labels[...]) for scan in scans]
        rows["passthrough"] = passthrough(model, bank.all_labels(), scans, label_maps, predictor)
        rows["exchangeability"] = exchangeability(model, bank.all_labels(), scans, args.device)
    else:
        report["left_out"] = ["passthrough, exchangeability: the denoiser is not trained"]
    print(json.dumps(report | {"rows": rows}, indent=1))


def disturb(
    model: TextDiffSeg, bank: TextBank, scans: Sequence[Scan], predictor: Callable[[Undisturbed], Predictor]
) -> dict[str, dict]:
    """The table with one row per intervention."""
    queries = bank.all_labels()

    def together(disturbed: Undisturbed) -> dict[str, float]:
        return dice(predictor(disturbed), scans, queries)

    whole = together(Undisturbed(model))
    rows = {"as it is": row(whole)}
    rows["fusion zeroed"] = row(together(NoFusion(model)), whole)
    rows["skips zeroed"] = row(together(NoSkips(model)), whole)
    if len(bank.labels) > 1:
        rows["classifier's vectors swapped"] = row(together(SwappedVectors(model)), whole)
        numbers = range(1, len(bank.labels) + 1)
        single = [bank.queries([[(number, 0)]]) for number in numbers]
        alone, swapped = {}, {}
        for own, other in zip(single, [*single[1:], single[0]], strict=True):
            alone |= dice(predictor(Undisturbed(model)), scans, own)
            swapped |= dice(predictor(ExchangedTokens(model, other)), scans, own)
        rows["each label alone"] = row(alone)
        rows["each label alone, fusion's tokens swapped"] = row(swapped, alone)
    return rows


def row(found: dict[str, float], undisturbed: dict[str, float] | None = None) -> dict:
    """Dice by label, the mean, and the mean's loss against the undisturbed model."""
    figures = {"labels": found, "dice": mean(found.values())}
    if undisturbed is not None and found:
        figures["loss"] = mean(undisturbed.values()) - figures["dice"]
    return figures


def decorative(rows: dict[str, dict]) -> list[str]:
    """The interventions whose loss is below `MIN_LOSS`."""
    return [name for name, figures in rows.items() if "loss" in figures and figures["loss"] < MIN_LOSS]


if __name__ == "__main__":
    sys.exit(main())
