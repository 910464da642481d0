"""Does one model learn from two data sets with different organs what a model of each learns?

    python benchmarks/joint.py [--data raw/Dataset102_HeadAndNeck] [--minutes 10] [--seeds 0 1 2] [--root DIR]

The data set is split into two that share no case and no label: each has every other case, with label files that only
hold its own labels. Left and right of an organ stay together, as a data set with one of them would be mirrored.

Three models of preset default are trained: one of each data set for --minutes, and one of both (`A+B`) for twice as
long, which is the same time per data set.

Claim: the model of both is at most 0.01 Dice below the model of each, on the validation cases and labels of that data
set. All labels of a model are queried, with one step and no mirroring. For the model of both these include the labels
that it never saw in the case's data set.

Prints JSON: Dice of each label, the differences with the 95% interval of a paired bootstrap over cases, and the
verdict. With --root the trained folds are kept, and an interrupted run resumes.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from accuracy import train, training
from claims import Scores, case_gaps, judge, label_means
from phantom_scans import link_cases, write_header
from sides import pairs_of_sides
from stored import (
    add_length,
    dice_by_case,
    fold_parser,
    held_out,
    in_own_process,
    length,
    machine,
    prepare,
    shared_data,
    stored_scans,
)

from plans.errors import UserError
from plans.file_names import NIFTI
from plans.layout import FoldFolder, RawFolder
from plans.plan import LabelPlan
from plans.raw.combined import combined_name
from plans.raw.dataset import Case, Dataset, read_dataset
from textdiffseg.folds.sampling import PredictionSettings
from textdiffseg.folds.weights import load_network
from textdiffseg.imaging.sources.files import read_labels
from textdiffseg.imaging.writers.files import write_labels
from textdiffseg.inference.predictor import Predictor
from textdiffseg.text.bank import TextBank
from textdiffseg_cli.common import run, whole_number

NAMES = ("Dataset911_FirstHalf", "Dataset912_SecondHalf")
BAR = -0.01
BOTH, EACH = "one model of both", "one model of each"


def main() -> int:
    """Train and score the models, and print the report."""
    parser = fold_parser(__doc__)
    parser.set_defaults(data=shared_data() / "Dataset102_HeadAndNeck")
    add_length(parser, 10.0)
    parser.add_argument("--seeds", type=whole_number, nargs="+", default=[0], metavar="N")
    return run(compare, parser.parse_args())


def compare(args: argparse.Namespace) -> None:
    """Print the figures and the verdict."""
    with tempfile.TemporaryDirectory() as temporary:
        root = args.root or Path(temporary)
        halves = split(read_dataset(args.data), root)
        stored = [prepare(half, root, "default", args.device) for half in halves]
        both = root / "raw" / combined_name([read_dataset(half) for half in halves])  # only its name is read
        joint = prepare(both, root, "default", args.device, joined="+".join(half.name for half in halves))
        scores: dict[str, dict[int, Scores]] = {BOTH: {}, EACH: {}}
        trainings: dict[str, dict[int, list[dict]]] = {BOTH: {}, EACH: {}}
        cases = [case for preprocessed in stored for case in held_out(preprocessed, args.fold, args.cases)]
        for seed in args.seeds:
            folds = [trained(preprocessed, root, seed, 1, args) for preprocessed in stored]
            together = trained(joint, root, seed, 2, args)
            apart = [
                in_own_process(scored, fold, preprocessed, held_out(preprocessed, args.fold, args.cases), args)
                for fold, preprocessed in zip(folds, stored, strict=True)
            ]
            scores[EACH][seed] = apart[0] | apart[1]
            scores[BOTH][seed] = in_own_process(scored, together, joint, cases, args)
            trainings[EACH][seed] = [training(fold) for fold in folds]
            trainings[BOTH][seed] = [training(together)]
    print(json.dumps(report(scores, trainings, halves, args), indent=1))


def trained(preprocessed: Path, root: Path, seed: int, times: int, args: argparse.Namespace) -> Path:
    """The fold of a data set, trained for so many times the length that was given."""
    fold = root / "results" / preprocessed.name / f"default_seed{seed}" / f"fold_{args.fold}"
    settings = argparse.Namespace(**vars(args) | {name: times * value for name, value in length(args).items()})
    in_own_process(train, preprocessed, fold, "default", seed, settings)
    return fold


def scored(fold: Path, stored: Path, cases: Sequence[str], args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Dice of a trained fold by case and label, in its own stored cases."""
    model, bank = load_network(FoldFolder(fold), device=args.device), TextBank.load(FoldFolder(fold).words)
    predictor = Predictor([model], PredictionSettings(), args.device)
    return dice_by_case(predictor, stored_scans(stored, cases, model.plan, bank), bank.all_labels())


def report(
    scores: dict[str, dict[int, Scores]], trainings: dict, halves: Sequence[Path], args: argparse.Namespace
) -> dict:
    """All figures and the verdict."""
    gaps = {seed: case_gaps(scores[BOTH][seed], scores[EACH][seed]) for seed in scores[BOTH]}
    models = {
        name: {
            str(seed): {"trainings": trainings[name][seed], "labels": label_means(by_case)}
            for seed, by_case in of_seeds.items()
        }
        for name, of_seeds in scores.items()
    }
    settings = {"dataset": args.data.name, "fold": args.fold} | length(args)
    data_sets = {half.name: [label.name for label in read_dataset(half).labels] for half in halves}
    claims = [judge(f"{BOTH} is within .01 of {EACH}", gaps, BAR)]
    return (
        {"benchmark": "joint"}
        | settings
        | machine(args.device)
        | {"data_sets": data_sets, "models": models, "claims": claims}
    )


def split(dataset: Dataset, root: Path) -> list[Path]:
    """The raw folders of the two halves, written if they are missing.

    Raises `UserError` for a data set that cannot be split: overlapping labels, one label, or fewer than four cases.
    """
    if dataset.regions or len(dataset.labels) < 2 or len(dataset.cases) < 4:
        raise UserError(f"{dataset.folder}: expected two or more labels that do not overlap, and four or more cases.")
    if any(case.annotation.ignore is not None for case in dataset.cases):
        raise UserError(f"{dataset.folder}: expected label files without ignored voxels.")
    halves = [root / "raw" / name for name in NAMES]
    for first, (half, labels) in enumerate(zip(halves, split_labels(dataset.labels), strict=True)):
        if not RawFolder(half).header.is_file():
            write_half(half, dataset, dataset.cases[first::2], labels)
    return halves


def split_labels(labels: Sequence[LabelPlan]) -> tuple[list[LabelPlan], list[LabelPlan]]:
    """The labels of both halves. In label order, each goes to the half with fewer labels; sides stay together."""
    halves: tuple[list[LabelPlan], list[LabelPlan]] = ([], [])
    partner = {second: first for first, second in pairs_of_sides([label.name for label in labels])}
    for number, label in enumerate(labels, start=1):
        first = labels[partner[number] - 1] if number in partner else None
        min(halves, key=lambda half: (first not in half if first else False, len(half))).append(label)
    return halves


def write_half(folder: Path, dataset: Dataset, cases: Sequence[Case], labels: Sequence[LabelPlan]) -> None:
    """Write a data set of these cases and labels: links to the images, and label files without the other labels.

    Cases that are annotated with none of the labels are left out.
    """
    names = [label.name for label in labels]
    kept = {case.id: case for case in cases if {*names} & {*case.annotation.annotated}}
    link_cases(kept.values(), folder, labels=False)
    for case in kept.values():
        volume = read_labels(case.label)
        label_map = np.zeros_like(volume.array[0])
        for label in labels:
            label_map[volume.array[0] == case.annotation.values[label.name]] = label.value
        write_labels(RawFolder(folder).labels("Tr") / f"{case.id}{NIFTI}", label_map, volume.geometry)
    annotated = {
        case: [name for name in names if name in kept_case.annotation.annotated] for case, kept_case in kept.items()
    }
    fields = {"channel_names": {str(number): name for number, name in enumerate(dataset.channels)}}
    groups = {case: kept_case.group for case, kept_case in kept.items() if kept_case.group is not None}
    write_header(
        folder,
        {label.name: label.value for label in labels},
        len(kept),
        **fields,
        file_ending=dataset.file_ending,
        annotated=annotated,
        group=groups,
    )


if __name__ == "__main__":
    sys.exit(main())
