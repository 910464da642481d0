"""The gain of postprocessing on validation cases, with steps that were chosen on other cases. Prints JSON.

    python benchmarks/postprocessing.py FOLD [FOLD ...]

The folds are trained and validated. Their `postprocessing.json` holds the Dice of each case after each step. The cases
are divided in two halves, every second case each. The steps of each half are chosen on the other half, by the rule of
prediction. So the gain is that of new cases, but the choice rests on half of the cases.

`chosen` are the steps that prediction uses, chosen on all cases. `halves` are those of the two halves.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from bootstrap import paired

from plans.errors import UserError
from plans.layout import FoldFolder
from textdiffseg.folds.postprocessing import (
    Postprocessing,
    PostprocessingTrial,
    PostprocessingTrials,
    choose_postprocessing,
    read_postprocessing,
)
from textdiffseg_cli.common import run


def main() -> int:
    """Print the gain of each label."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folds", type=Path, nargs="+", metavar="FOLD", help="folders of validated folds of one model")
    return run(compare, parser.parse_args())


def compare(args: argparse.Namespace) -> None:
    """Print the steps, and the gain of Dice by label."""
    folds = [_read(FoldFolder(path)) for path in args.folds]
    halves = [[_half(fold, half) for fold in folds] for half in (0, 1)]
    steps = [choose_postprocessing(half) for half in reversed(halves)]
    labels = {}
    for name in dict.fromkeys(name for fold in folds for name in fold.labels):
        gains = [
            _gain(fold.labels[name], chosen.get(name, Postprocessing()))
            for half, chosen in zip(halves, steps, strict=True)
            for fold in half
            if name in fold.labels
        ]
        labels[name] = paired(np.concatenate(gains))
    report = {
        "benchmark": "postprocessing",
        "chosen": {name: str(step) for name, step in choose_postprocessing(folds).items()},
        "halves": [{name: str(step) for name, step in half.items()} for half in steps],
        "mean_gain": float(np.mean([gain["mean"] for gain in labels.values()])),
        "gains": labels,
    }
    print(json.dumps(report, indent=1))


def _read(fold: FoldFolder) -> PostprocessingTrials:
    found = read_postprocessing(fold, "best")
    if found is None:
        raise UserError(f"{fold.path} has no {fold.postprocessing.name} of its weights. Validate it: tds_train --val.")
    return found


def _half(fold: PostprocessingTrials, half: int) -> PostprocessingTrials:
    """Every second case of each label."""
    labels = {
        name: tuple(PostprocessingTrial(step=trial.step, dice=trial.dice[half::2]) for trial in trials)
        for name, trials in fold.labels.items()
    }
    return fold.model_copy(update={"labels": labels})


def _gain(trials: tuple[PostprocessingTrial, ...], chosen: Postprocessing) -> np.ndarray:
    """The gain (cases,) of Dice. Steps on components and on holes change different voxels, so their gains add up."""
    dice = {trial.step: np.array(trial.dice) for trial in trials}
    parts = (chosen.model_copy(update={"fill_holes": False}), Postprocessing(fill_holes=chosen.fill_holes))
    return sum((dice[part] - dice[Postprocessing()] for part in parts), np.zeros(len(trials[0].dice)))


if __name__ == "__main__":
    sys.exit(main())
