"""Does a model confuse left and right? It segments each label of a pair, and each mask is compared with both sides.

    python benchmarks/sides.py results/Dataset102_HeadAndNeck/default/fold_0 [--preprocessed DIR] [--cases N]

Claim: no swap in the fold's validation cases. A swap is a mask whose Dice with the other side's reference is higher
than with its own. The labels of a pair differ only by the words left and right. Each is queried in two ways:

- `together`: with all labels of the model;
- `by_itself`: alone, without its rivals in the query.

Prints JSON: for each way and label the number of masks, of swaps, of masks that touch neither side, and the mean Dice
with both references; then the verdict. A label is only scored in cases that are annotated with both sides. One step,
no mirroring.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from claims import FAILS, HOLDS, OPEN
from stored import (
    Scan,
    add_device,
    add_preprocessed,
    held_out,
    machine,
    mean,
    predict,
    preprocessed_beside,
    stored_scans,
)

from plans.errors import UserError
from plans.layout import FoldFolder
from plans.names import normalise
from textdiffseg.evaluation.metrics import dice
from textdiffseg.folds.sampling import PredictionSettings
from textdiffseg.folds.weights import load_network
from textdiffseg.inference.predictor import Predictor
from textdiffseg.text.bank import TextBank
from textdiffseg_cli.common import positive_int, run

WAYS = ("together", "by_itself")


def main() -> int:
    """Count the swaps and print them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("fold", type=Path, metavar="FOLD_FOLDER", help="a trained fold")
    add_preprocessed(parser)
    parser.add_argument("--cases", type=positive_int, metavar="N", help="validation cases (default: all)")
    add_device(parser)
    return run(examine, parser.parse_args())


def examine(args: argparse.Namespace) -> None:
    """Print the counts of a fold and the verdict."""
    fold = FoldFolder(args.fold)
    model, bank = load_network(fold, device=args.device), TextBank.load(fold.words)
    pairs = pairs_of_sides(bank.labels)
    if not pairs:
        raise UserError(f"{args.fold}: expected two labels that differ only by left and right, found none.")
    preprocessed = args.preprocessed or preprocessed_beside(args.fold, model.plan.dataset)
    cases = held_out(preprocessed, args.fold.name.removeprefix("fold_"), args.cases)
    predictor = Predictor([model], PredictionSettings(), args.device)
    scans = stored_scans(preprocessed, cases, model.plan, bank)
    swaps = count_swaps(predictor, bank, scans, pairs)
    report = {"benchmark": "sides", "fold": str(args.fold), "cases": cases} | machine(args.device)
    claim = {"claim": "no mask is nearer to the other side's reference", "verdict": verdict(swaps)}
    print(json.dumps(report | {"ways": swaps, "claims": [claim]}, indent=1))


def pairs_of_sides(labels: Sequence[str]) -> list[tuple[int, int]]:
    """The pairs of label numbers whose names differ only by the words left and right, e.g. (3, 4)."""
    pairs: dict[str, list[int]] = {}
    for number, name in enumerate(labels, start=1):
        bare = re.sub(r"\b(left|right)\b", "*", normalise(name))
        if "*" in bare:
            pairs.setdefault(bare, []).append(number)
    return [(numbers[0], numbers[1]) for numbers in pairs.values() if len(numbers) == 2]


def count_swaps(
    predictor: Predictor, bank: TextBank, scans: Iterable[Scan], pairs: Sequence[tuple[int, int]]
) -> dict[str, dict[str, dict]]:
    """The counts of each way and label, over the scans that are annotated with both labels of a pair."""
    overlaps: dict[str, dict[int, list[tuple[float, float]]]] = {
        way: {number: [] for pair in pairs for number in pair} for way in WAYS
    }
    for scan in scans:
        scored = [pair for pair in pairs if scan.annotated is None or {*pair} <= {*scan.annotated}]
        together = predict(predictor, scan, bank.all_labels()) if scored else None
        for pair in scored:
            for own, other in (pair, pair[::-1]):
                alone = predict(predictor, scan, bank.queries([[(own, 0)]]))
                for way, labels in zip(WAYS, (together, alone), strict=True):
                    mask = labels == predictor.plan.written_numbers[own - 1]
                    references = (
                        np.isin(scan.truth, predictor.plan.value_numbers[number - 1]) for number in (own, other)
                    )
                    own_dice, other_dice = (dice(mask, reference) or 0.0 for reference in references)
                    overlaps[way][own].append((own_dice, other_dice))
    return {
        way: {bank.labels[number - 1]: counts(of_scans) for number, of_scans in of_labels.items()}
        for way, of_labels in overlaps.items()
    }


def counts(overlaps: Sequence[tuple[float, float]]) -> dict:
    """The counts of one label, from Dice with its own and with the other side's reference in each scan."""
    return {
        "masks": len(overlaps),
        "swaps": sum(bool(other > own) for own, other in overlaps),
        "found_neither": sum(bool(own == other == 0) for own, other in overlaps),
        "dice": mean(own for own, _ in overlaps),
        "dice_with_other_side": mean(other for _, other in overlaps),
    }


def verdict(swaps: dict[str, dict[str, dict]]) -> str:
    """Whether no way and label has a swap. If a mask lies on neither side, the claim stays open."""
    rows = [row for by_label in swaps.values() for row in by_label.values()]
    if any(row["swaps"] for row in rows):
        return FAILS
    return HOLDS if all(row["masks"] and not row["found_neither"] for row in rows) else OPEN


if __name__ == "__main__":
    sys.exit(main())
