"""Are small lesions found? Phantoms whose liver has one lesion of 0.01% of the scan's volume.

    taskset -c 0 python benchmarks/small_lesions.py [--minutes 15] [--seeds 0 1 2] [--root DIR]
    python benchmarks/small_lesions.py --presets default unet peer-nnunet --root DIR

Claim: each preset finds the lesion in 90% of 50 phantoms that take no part in training. A lesion is found if any voxel
of the predicted lesion lies in the reference. The control is `unet`, and each peer of --presets: all have the same
cases, patches, minutes and training loop. The plan is the usual one for the device. One step, no mirroring.

A lesion is an ellipsoid of 7 mm, or about 15 voxels. Its contrast and noise are those of the usual phantoms, whose
lesions have ten times the volume or more.

Prints JSON: for each preset and seed the lesions found, the scans, the false positives per scan (predicted components
that do not touch the reference) and Dice; then the verdicts. With --root the trained folds are kept, and an
interrupted run resumes.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from accuracy import train, training
from claims import verdict
from phantom_scans import FIRST_SCORED, phantom_scan, write_case, write_header
from scipy import ndimage
from stored import fold_parser, in_own_process, machine, predict, prepare

from plans.choices import PRESETS
from plans.geometry import millimetres
from plans.layout import FoldFolder, RawFolder
from textdiffseg import phantoms
from textdiffseg.evaluation.metrics import dice
from textdiffseg.folds.sampling import PredictionSettings
from textdiffseg.folds.weights import load_network
from textdiffseg.inference.predictor import Predictor
from textdiffseg.text.bank import TextBank
from textdiffseg_cli.common import positive_float, run, whole_number

NAME = "Dataset950_SmallLesions"
LESION = phantoms.LABELS[5]
SHARE = 1e-4  # of the scan's volume
TRAINING, SCORED = 40, 50  # phantoms
BAR = 0.9  # share of the lesions


@dataclass(frozen=True)
class LesionScore:
    """What was predicted in one scan."""

    found: bool
    false_positives: int  # predicted components that do not touch the reference
    dice: float


def main() -> int:
    """Train the presets, count the lesions that they find, and print the report."""
    parser = fold_parser(__doc__, cases=SCORED)
    parser.set_defaults(data=None)
    parser.add_argument("--minutes", type=positive_float, default=15.0, help="of training, for each preset and seed")
    parser.add_argument("--seeds", type=whole_number, nargs="+", default=[0], metavar="N")
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=("default", "unet"), metavar="NAME")
    return run(compare, parser.parse_args())


def compare(args: argparse.Namespace) -> None:
    """Print the figures and verdicts of all presets."""
    figures: dict[str, dict] = {preset: {} for preset in args.presets}
    with tempfile.TemporaryDirectory() as temporary:
        root = args.root or Path(temporary)
        data = write_small_lesions(root)
        for seed in args.seeds:  # seed by seed, so that presets can be compared even if the run is interrupted
            for preset in args.presets:
                preprocessed = prepare(data, root, preset, args.device)
                fold = root / "results" / data.name / f"{preset}_seed{seed}" / f"fold_{args.fold}"
                in_own_process(train, preprocessed, fold, preset, seed, args)
                figures[preset][str(seed)] = summary(in_own_process(scored, fold, args)) | training(fold)
    claims = [
        {
            "claim": f"{preset} finds {BAR:.0%} of the lesions",
            "verdict": verdict(
                [figures_of_seed["found"] / figures_of_seed["scans"] for figures_of_seed in of_seeds.values()], BAR
            ),
        }
        for preset, of_seeds in figures.items()
    ]
    settings = {"dataset": NAME, "fold": args.fold, "minutes": args.minutes, "lesion_share": SHARE}
    report = {"benchmark": "small_lesions"} | settings | machine(args.device)
    print(json.dumps(report | {"presets": figures, "claims": claims}, indent=1))


def draw_small_lesion(seed: int, index: int) -> phantoms.Anatomy:
    """Phantom `index` with a lesion of `SHARE` of the scan's volume in its liver. It spans at least one voxel."""
    anatomy = phantoms.draw_anatomy(seed, index)
    rng = np.random.default_rng((seed, index, 3))
    liver = anatomy.organs["liver"]
    radius = (SHARE * np.prod(phantoms.FIELD) * 3 / (4 * np.pi)) ** (1 / 3)
    while True:
        stretch = rng.uniform(0.85, 1.15, 3)
        direction = rng.normal(size=3)
        direction *= rng.uniform(0.1, 0.9) / np.linalg.norm(direction)
        centre = np.array(liver.centre) + direction * (np.array(liver.radii) - 1.2 * radius - 2)
        radii = radius * stretch / stretch.prod() ** (1 / 3)
        lesion = phantoms.Ellipsoid(millimetres(centre.tolist()), millimetres(radii.tolist()))
        drawn = replace(anatomy, organs=anatomy.organs | {LESION: lesion})
        if is_lesion(phantoms.paint(drawn, np.random.default_rng(0))[1]).any():
            return drawn


def is_lesion(labels: np.ndarray) -> np.ndarray:
    """The mask of the lesion in a map of phantom labels."""
    return labels == 1 + phantoms.LABELS.index(LESION)


def write_small_lesions(root: Path) -> Path:
    """The raw folder of the training phantoms, written if it is missing."""
    folder = root / "raw" / NAME
    if not RawFolder(folder).header.is_file():
        for index in range(TRAINING):
            anatomy = draw_small_lesion(0, index)
            image, labels = phantoms.paint(anatomy, np.random.default_rng((0, index, 1)))
            write_case(folder, f"phantom_{index:03d}", image, labels, phantoms.geometry_of(anatomy))
        write_header(folder, {name: value for value, name in enumerate(phantoms.LABELS, start=1)}, TRAINING)
    return folder


def scored(fold: Path, args: argparse.Namespace) -> list[LesionScore]:
    """The scores of a trained fold on phantoms that are in no fold."""
    model, bank = load_network(FoldFolder(fold), device=args.device), TextBank.load(FoldFolder(fold).words)
    predictor, scores = Predictor([model], PredictionSettings(), args.device), []
    for index in range(FIRST_SCORED, FIRST_SCORED + args.cases):
        scan = phantom_scan(model.plan, draw_small_lesion(0, index), (0, index))
        labels = predict(predictor, scan, bank.all_labels())
        scores.append(score_lesion(is_lesion(labels), is_lesion(scan.truth)))
    return scores


def score_lesion(predicted: np.ndarray, reference: np.ndarray) -> LesionScore:
    """The score of a predicted mask (D, H, W). Components are connected by faces."""
    labels, count = ndimage.label(predicted)
    touching = np.setdiff1d(labels[reference], [0])
    return LesionScore(touching.size > 0, count - touching.size, dice(predicted, reference) or 0.0)


def summary(scores: list[LesionScore]) -> dict:
    """The figures of one preset and seed."""
    return {
        "found": sum(score.found for score in scores),
        "scans": len(scores),
        "false_positives_per_scan": float(np.mean([score.false_positives for score in scores])),
        "dice": float(np.mean([score.dice for score in scores])),
    }


if __name__ == "__main__":
    sys.exit(main())
