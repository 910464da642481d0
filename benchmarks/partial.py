"""Does a model learn each label from the cases that are annotated with it? Each label misses in half of the phantoms.

    python benchmarks/partial.py [--minutes 10 | --epochs N] [--seeds 0 1 2] [--root DIR]
    python benchmarks/partial.py --data raw/Dataset102_HeadAndNeck [--minutes 10] [--seeds 0 1 2] [--root DIR]

Three models are trained for the same minutes, on the same cases, fold and seeds:

- `default`: preset default; dataset.json states the annotated labels of each case;
- `missing is background`: the same preset and the same files, with all labels declared annotated, as in nnU-Net;
- `masked U-Net`: preset peer-unet on the data of `default`. Its softmax has only the annotated labels of a case, so
  all others are left out of its loss, too.

Claims, on mean Dice:

- `default` is above `missing is background` by at least 0.10 (with --data: 0.03), on labels that a quarter or more of
  the cases lack. These are all labels of the phantoms;
- `default` is at most 0.01 below `masked U-Net`, on all labels.

The scored scans take no part in training. 16 complete phantoms are scored, which are in no fold. With --data, the
validation cases are scored, each label where it is annotated. All labels are queried, with one step and no mirroring.

Prints JSON: Dice of each label and model, each difference with the 95% interval of a paired bootstrap over cases, and
the verdicts. With --root the trained folds are kept, and an interrupted run resumes.
"""

import argparse
import importlib.util
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from accuracy import train, training
from claims import Scores, case_gaps, judge, label_means
from phantom_scans import FIRST_SCORED, link_data_set, phantom_scan, write_case, write_header
from stored import (
    Scan,
    add_length,
    dice_by_case,
    fold_parser,
    held_out,
    in_own_process,
    length,
    machine,
    prepare,
    stored_scans,
)

from plans.choices import Preset
from plans.errors import UserError
from plans.layout import FoldFolder, RawFolder
from plans.raw.dataset import Dataset, read_dataset
from textdiffseg import phantoms
from textdiffseg.folds.sampling import PredictionSettings
from textdiffseg.folds.weights import load_network
from textdiffseg.inference.predictor import Predictor
from textdiffseg.text.bank import TextBank
from textdiffseg_cli.common import run, whole_number

TRAINING, SCORED = 40, 16  # phantoms
MIN_MISSING = 0.25  # share of cases without a label, from which it counts as often missing
BARS = {"phantoms": 0.10, "data": 0.03, "masked": -0.01}
NAME = "Dataset910_PartialPhantoms"
KNOWN, BACKGROUND, MASKED = "default", "missing is background", "masked U-Net"


@dataclass(frozen=True)
class Arm:
    """One of the compared models: its preset, and whether it reads which labels are annotated."""

    name: str
    preset: Preset
    declared: bool


ARMS = (Arm(KNOWN, "default", True), Arm(BACKGROUND, "default", False), Arm(MASKED, "peer-unet", True))


def main() -> int:
    """Train and score the models, and print the report."""
    parser = fold_parser(__doc__)
    parser.set_defaults(data=None)
    add_length(parser, 10.0)
    parser.add_argument("--seeds", type=whole_number, nargs="+", default=[0], metavar="N")
    return run(compare, parser.parse_args())


def compare(args: argparse.Namespace) -> None:
    """Print the figures and the verdicts."""
    if importlib.util.find_spec("monai") is None:
        raise UserError("The masked U-Net is MONAI's, which is not installed: pip install monai.")
    with tempfile.TemporaryDirectory() as temporary:
        root = args.root or Path(temporary)
        known = read_dataset(args.data or write_partial_phantoms(root))
        missing = missing_shares(known)
        if not any(share >= MIN_MISSING for share in missing.values()):
            raise UserError(
                f"{RawFolder(known.folder).header}: annotated: expected a label that a quarter of the cases lack."
            )
        undeclared = link_data_set(known, root / "raw" / f"{known.name}Undeclared", without=["annotated"])
        folders = {True: known.folder, False: undeclared}
        stored = prepare(folders[True], root, "default", args.device)
        scores: dict[str, dict[int, Scores]] = {arm.name: {} for arm in ARMS}
        trainings: dict[str, dict[int, dict]] = {arm.name: {} for arm in ARMS}
        for seed in args.seeds:
            for arm in ARMS:
                data = folders[arm.declared]
                preprocessed = prepare(data, root, arm.preset, args.device)
                fold = root / "results" / data.name / f"{arm.preset}_seed{seed}" / f"fold_{args.fold}"
                in_own_process(train, preprocessed, fold, arm.preset, seed, args)
                scores[arm.name][seed] = in_own_process(scored, fold, stored, args)
                trainings[arm.name][seed] = training(fold)
    print(json.dumps(report(scores, trainings, missing, args), indent=1))


def report(
    scores: dict[str, dict[int, Scores]], trainings: dict, missing: dict[str, float], args: argparse.Namespace
) -> dict:
    """All figures and verdicts, from the scores of each model and seed."""
    often = [name for name, share in missing.items() if share >= MIN_MISSING]
    bar = BARS["data" if args.data else "phantoms"]
    ours = scores[KNOWN]
    gain = {seed: case_gaps(ours[seed], scores[BACKGROUND][seed], often) for seed in ours}
    loss = {seed: case_gaps(ours[seed], scores[MASKED][seed]) for seed in ours}
    models = {
        name: {
            str(seed): trainings[name][seed] | {"labels": label_means(by_case)} for seed, by_case in of_seeds.items()
        }
        for name, of_seeds in scores.items()
    }
    settings = {"dataset": args.data.name if args.data else NAME, "fold": args.fold} | length(args)
    return (
        {"benchmark": "partial"}
        | settings
        | machine(args.device)
        | {"missing_share": missing, "often_missing": often, "models": models}
        | {
            "claims": [
                judge(f"{KNOWN} is above {BACKGROUND}, on labels that are often missing", gain, bar),
                judge(f"{KNOWN} is within .01 of {MASKED}", loss, BARS["masked"]),
            ]
        }
    )


def missing_shares(dataset: Dataset) -> dict[str, float]:
    """For each label the share of the cases that are not annotated with it."""
    known = [case.annotation.known for case in dataset.cases]
    return {label.name: float(np.mean([label.name not in names for names in known])) for label in dataset.labels}


def write_partial_phantoms(root: Path) -> Path:
    """Phantoms of which a random half lacks each label. Voxels of a missing label are background in the label file."""
    folder = root / "raw" / NAME
    if RawFolder(folder).header.is_file():
        return folder
    annotated = {}
    for index, kept in enumerate(draw_annotation(TRAINING, np.random.default_rng((0, 7)))):
        case = f"phantom_{index:03d}"
        anatomy = phantoms.draw_anatomy(0, index)
        image, labels = phantoms.paint(anatomy, np.random.default_rng((0, index, 1)))
        labels[~np.isin(labels, 1 + np.flatnonzero(kept))] = 0
        write_case(folder, case, image, labels, phantoms.geometry_of(anatomy))
        annotated[case] = [name for name, is_kept in zip(phantoms.LABELS, kept, strict=True) if is_kept]
    values = {name: value for value, name in enumerate(phantoms.LABELS, start=1)}
    write_header(folder, values, TRAINING, annotated=annotated)
    return folder


def draw_annotation(cases: int, rng: np.random.Generator) -> np.ndarray:
    """Whether each case is annotated with each label (cases, labels), bool.

    Each label has a random half of the cases. No case is left without a label.
    """
    half = np.arange(cases) < cases // 2
    while True:
        kept = np.stack([rng.permutation(half) for _ in phantoms.LABELS], axis=1)
        if kept.any(1).all():
            return kept


def scored(fold: Path, stored: Path, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Dice of a trained fold by case and label. `stored` has the cases with their annotation."""
    model, bank = load_network(FoldFolder(fold), device=args.device), TextBank.load(FoldFolder(fold).words)
    predictor = Predictor([model], PredictionSettings(), args.device)
    return dice_by_case(predictor, _scans(predictor, stored, bank, args), bank.all_labels())


def _scans(predictor: Predictor, stored: Path, bank: TextBank, args: argparse.Namespace) -> Iterator[Scan]:
    """The scans to score. The models' plans differ only in the network, so they share the stored scans."""
    if args.data:
        yield from stored_scans(stored, held_out(stored, args.fold, args.cases), predictor.plan, bank)
        return
    for index in range(FIRST_SCORED, FIRST_SCORED + (args.cases or SCORED)):
        yield phantom_scan(predictor.plan, phantoms.draw_anatomy(0, index), (0, index))


if __name__ == "__main__":
    sys.exit(main())
