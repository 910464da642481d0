"""Robustness: Dice on degraded scans of `default`, of `unet`, and of `unet` with either of two regularisations.

    python benchmarks/shifts.py [--data DIR ...] [--minutes 15] [--seeds 0 1 2] [--root DIR]

The claim: latent diffusion makes a model robust. At equal minutes of training, its mean Dice over the eight
degradations of textdiffseg/degradations.py is

- at least .015 above `unet`'s;
- at least .008 above that of `unet` with skip dropout, and above that of `unet` with noise augmentation;
- and its Dice on undegraded scans is at most .003 below `unet`'s.

The controls: `unet` has the same loop, cases and minutes. With skip dropout, its decoder sees no image skips for
`SKIP_DROPOUT` of the samples, about as often as the decoder of `default`. With noise augmentation, each training patch
gets Gaussian noise whose standard deviation is drawn between 0 and `MAX_NOISE`. If `default` is not .008 above these
two, its robustness is regularisation, which `unet` can have as well. Since 0.3 all forms are trained with noise already
(augmentation `strong`), so the last control gets more of it.

Prints JSON: the mean Dice of each form for each degradation; the differences with 95% intervals of a paired bootstrap
over cases (of means over seeds); the verdict for each data set, by the rule of claims.py.

All masks have one step and no mirroring. The averaged weights are scored on the fold's validation cases, on the files'
grids. With --root the trained folds and the scores are kept, and an interrupted run resumes.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from bootstrap import paired
from claims import FAILS, HOLDS, OPEN, verdict
from stored import fold_parser, held_out, in_own_process, machine, prepare, read_split, shared_data

from plans.choices import Preset
from plans.errors import UserError
from plans.layout import FoldFolder
from textdiffseg.data.batch import Batch
from textdiffseg.data.loader import TrainingLoader
from textdiffseg.data.store import open_case
from textdiffseg.degradations import DEGRADATIONS
from textdiffseg.files import write_atomically
from textdiffseg.folds.lock import alone
from textdiffseg.folds.position import read_position
from textdiffseg.folds.sampling import Sampling
from textdiffseg.inference.predictor import Predictor
from textdiffseg.text.bank import TextBank
from textdiffseg.training.log import read_log
from textdiffseg.training.loop import run_epochs
from textdiffseg.training.options import TrainingOptions
from textdiffseg.training.setup import TrainingSetup, first_position, set_up_fold
from textdiffseg.validation.cases import load_fold, predict_case, restore_labels, score_labels
from textdiffseg_cli.common import positive_float, run, whole_number

UNDEGRADED, DEGRADED = "undegraded", "mean of all degradations"
SKIP_DROPOUT = 0.3  # share of the samples
MAX_NOISE = 1.0  # in standard deviations of the normalised image
SCORES = "shifts.json"


class NoisyLoader:
    """The batches of a loader with Gaussian noise. A sample's noise is a function of its key."""

    def __init__(self, loader: TrainingLoader, seed: int):
        self.loader, self.seed = loader, seed

    def epoch(self, *arguments: int) -> Iterator[Batch]:
        """The batches of `TrainingLoader.epoch`."""
        return map(self._noisy, self.loader.epoch(*arguments))

    def batch(self, epoch: int, iteration: int) -> Batch:
        """The batch of `TrainingLoader.batch`."""
        return self._noisy(self.loader.batch(epoch, iteration))

    def seconds_per_batch(self) -> float:
        """The seconds of `TrainingLoader.seconds_per_batch`."""
        return self.loader.seconds_per_batch()

    def _noisy(self, batch: Batch) -> Batch:
        images = []
        for image, key in zip(batch.image, batch.keys, strict=True):
            rng = np.random.default_rng((self.seed, key.epoch, key.index, 1))
            noise = rng.uniform(0, MAX_NOISE) * rng.standard_normal(tuple(image.shape), dtype=np.float32)
            images.append(image + torch.from_numpy(noise))
        return replace(batch, image=torch.stack(images))


def drop_skips(share: float, seed: int, module: torch.nn.Module, _: tuple, output: tuple) -> tuple:
    """A forward hook of the image encoder: in training, the skips of `share` of the samples are zeroed."""
    z_i, skips = output
    if not module.training or not skips:
        return output
    if not hasattr(module, "dropping"):
        module.dropping = np.random.default_rng((seed, 2))
    keep = torch.from_numpy(module.dropping.random(len(z_i)) >= share).to(z_i.device, z_i.dtype)
    return z_i, tuple(skip * keep.view(-1, *[1] * (skip.dim() - 1)) for skip in skips)


def with_skip_dropout(setup: TrainingSetup, seed: int) -> TrainingSetup:
    """The run with skip dropout in its model."""
    setup.model.image_encoder.register_forward_hook(partial(drop_skips, SKIP_DROPOUT, seed))
    return setup


def with_noise(setup: TrainingSetup, seed: int) -> TrainingSetup:
    """The run with noise on its training patches."""
    return replace(setup, loader=NoisyLoader(setup.loader, seed))


@dataclass(frozen=True)
class Form:
    """A preset, and the change of its training run. The change gets the run and the seed."""

    preset: Preset
    change: Callable[[TrainingSetup, int], TrainingSetup] = lambda setup, seed: setup


FORMS = {
    "unet": Form("unet"),
    "unet, skip dropout": Form("unet", with_skip_dropout),
    "unet, noise augmentation": Form("unet", with_noise),
    "default": Form("default"),
}
BARS = {  # of the claim: which scans, which other form, and how much `default` must be above it
    "degraded, above unet": (DEGRADED, "unet", 0.015),
    "degraded, above skip dropout": (DEGRADED, "unet, skip dropout", 0.008),
    "degraded, above noise augmentation": (DEGRADED, "unet, noise augmentation", 0.008),
    "undegraded, not below unet": (UNDEGRADED, "unet", -0.003),
}
Scores = dict[str, dict[str, float]]  # Dice by degradation and case


def main() -> int:
    """Train and score all forms, and print the report."""
    parser = argparse.ArgumentParser(parents=[fold_parser(__doc__)], conflict_handler="resolve", add_help=False)
    both = [shared_data() / name for name in ("Dataset004_Hippocampus", "Dataset102_HeadAndNeck")]
    parser.add_argument("--data", type=Path, nargs="+", default=both, metavar="DIR", help="the raw data sets")
    parser.add_argument("--minutes", type=positive_float, default=15.0, help="of training, for each form and seed")
    parser.add_argument("--seeds", type=whole_number, nargs="+", default=[0], metavar="N")
    return run(compare, parser.parse_args())


def compare(args: argparse.Namespace) -> None:
    """Print the figures of every data set."""
    with tempfile.TemporaryDirectory() as temporary:
        root, reports = args.root or Path(temporary), {}
        for data in args.data:
            scores: dict[str, list[Scores]] = {name: [] for name in FORMS}
            for seed in args.seeds:  # seed by seed, so that an interrupted run has all forms of the first seeds
                for name, form in FORMS.items():
                    preprocessed = prepare(data, root, form.preset, args.device)
                    held_out(preprocessed, args.fold)
                    folder = root / "shifts" / data.name / f"{name}, seed {seed}" / f"fold_{args.fold}"
                    in_own_process(train_form, preprocessed, folder, name, seed, args)
                    scores[name].append(in_own_process(measure, preprocessed, folder, args))
            reports[data.name] = report(scores, args.seeds)
    settings = {name: getattr(args, name) for name in ("fold", "minutes", "seeds")}
    settings |= {"skip_dropout": SKIP_DROPOUT, "max_noise": MAX_NOISE}
    print(json.dumps({"benchmark": "shifts"} | settings | machine(args.device) | {"datasets": reports}, indent=1))


def train_form(preprocessed: Path, folder: Path, name: str, seed: int, args: argparse.Namespace) -> None:
    """Train one form. An interrupted training resumes, and a finished one is kept."""
    fold, form, noted = FoldFolder(folder), FORMS[name], folder / "benchmark.json"
    position, settings = read_position(fold), {"minutes": args.minutes, "device": args.device}
    if position is not None and noted.is_file() and json.loads(noted.read_text()) != settings:
        raise UserError(f"{folder} was trained with {noted.read_text()}: choose another --root, or delete it.")
    if position is not None and position.finished:
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(noted, json.dumps(settings))
    options = TrainingOptions(max_minutes=args.minutes, device=args.device, workers=0, seed=seed, compile=False)
    split = read_split(preprocessed, args.fold)
    with alone(fold):
        plain = set_up_fold(preprocessed, split, fold, options, form.preset, print, position)
        changed = form.change(plain, seed)
        state = changed.fresh(position or first_position(changed, options, print))
        if position is not None:
            state.load(fold)
        run_epochs(changed, state)


def measure(preprocessed: Path, folder: Path, args: argparse.Namespace) -> Scores:
    """The mean Dice over labels of each degraded and undegraded validation case. They are kept in `SCORES`."""
    path, cases = folder / SCORES, held_out(preprocessed, args.fold, args.cases)
    scores: Scores = json.loads(path.read_text()) if path.is_file() else {}
    predictor, bank = load_fold(FoldFolder(folder), args.device, Sampling())
    for name in (UNDEGRADED, *DEGRADATIONS):
        dice_by_case = scores.setdefault(name, {})
        for seed, case_id in enumerate(cases):
            if case_id not in dice_by_case:
                degradation = None if name == UNDEGRADED else (name, seed)
                dice_by_case[case_id] = dice_of_stored(predictor, bank, preprocessed, case_id, degradation)
        write_atomically(path, json.dumps(scores))
    log = read_log(folder / "log.jsonl")[-1]
    print(f"{folder}: {log.iteration} iterations in {log.seconds / 60:.1f} minutes")
    return {name: {case: dice_by_case[case] for case in cases} for name, dice_by_case in scores.items()}


def dice_of_stored(
    predictor: Predictor, bank: TextBank, preprocessed: Path, case_id: str, degradation: tuple[str, int] | None
) -> float:
    """The mean Dice over labels of a stored case, whose image is degraded: a name in `DEGRADATIONS` and a seed."""
    case = open_case(preprocessed, case_id, predictor.plan)
    slabs = predict_case(predictor, case, bank, degradation=degradation)
    labels = restore_labels(predictor.readout, slabs, case)
    return score_labels(predictor.plan, case, labels, surfaces=False).mean_dice or 0.0


def report(scores: dict[str, list[Scores]], seeds: list[int]) -> dict:
    """The means of each form, the differences of `default` from the other forms, and the verdict."""
    arrays = {form: {name: table(runs, name) for name in (*runs[0], DEGRADED)} for form, runs in scores.items()}
    ours = arrays["default"]
    means = {
        form: {name: float(array.mean()) for name, array in by_degradation.items()}
        for form, by_degradation in arrays.items()
    }
    gaps = {
        form: {name: gap(ours[name] - array, seeds) for name, array in by_degradation.items()}
        for form, by_degradation in arrays.items()
        if form != "default"
    }
    clauses = {
        name: verdict(list(gaps[other][scans]["per_seed"].values()), bar) for name, (scans, other, bar) in BARS.items()
    }
    verdicts = set(clauses.values())
    overall = FAILS if FAILS in verdicts else HOLDS if verdicts == {HOLDS} else OPEN
    return {"dice": means, "default_minus": gaps, "clauses": clauses, "verdict": overall}


def table(runs: list[Scores], name: str) -> np.ndarray:
    """The Dice (seeds, cases) with one degradation; with `DEGRADED`, the mean over all."""
    names = DEGRADATIONS if name == DEGRADED else (name,)
    return np.mean([[list(scores[degradation].values()) for scores in runs] for degradation in names], axis=0)


def gap(differences: np.ndarray, seeds: list[int]) -> dict:
    """The paired difference from (seeds, cases): over cases, of means over seeds, and the mean of each seed."""
    per_seed = {str(seed): float(row.mean()) for seed, row in zip(seeds, differences, strict=True)}
    return paired(differences.mean(0)) | {"per_seed": per_seed}


if __name__ == "__main__":
    sys.exit(main())
