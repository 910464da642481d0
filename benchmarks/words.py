"""Does the text steer the model? It is trained with eight phrasings per label and queried in four ways.

    python benchmarks/words.py [--dataset phantoms] [--minutes 10] [--root DIR]
    python benchmarks/words.py --dataset hippocampus --data raw/Dataset004_Hippocampus

Prints JSON. All figures are from scans that are not used in training, as masks of a single pass without mirroring:

- `alone`: Dice of each label queried alone minus its Dice if all are queried (bar: 0.005). `prompted` also queries the
  model's other labels, as tds_predict --prompt does; `by_itself` does not;
- `held_out`: Dice if all labels are queried with phrasings that are not in the training, as with --force. The spread
  is the difference between the best and the worst wording, including the trained one (bar on phantoms: 0.01);
- `absent`, only phantoms: the volume segmented if a label is queried alone in scans without it, in both ways. It is a
  share of the label's mean volume (bar: 0.01);
- `look_alikes`, only phantoms: the share of voxels on the named gland, among voxels predicted on either gland if one
  is queried alone, in both ways.

A quarter of the training phantoms lack an organ, so that training contains absent labels. With --root the data set
and the trained fold are kept and used again. Use a separate root.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accuracy import train
from phantom_scans import phantom_scan
from phrasings import SCANS, WORDINGS, Wording, matched
from stored import (
    Scan,
    dice,
    fold_parser,
    held_out,
    in_own_process,
    machine,
    mean,
    predict,
    prepare,
    stored_scans,
)

from plans.errors import UserError
from plans.layout import FoldFolder, PreprocessedFolder
from plans.plan import Plan
from plans.raw.dataset import read_dataset
from plans.raw.prompts import Prompts
from textdiffseg import phantoms
from textdiffseg.files import write_record
from textdiffseg.folds.sampling import PredictionSettings
from textdiffseg.folds.weights import load_network
from textdiffseg.inference.predictor import Predictor
from textdiffseg.queries import Queries
from textdiffseg.text.bank import TextBank
from textdiffseg.text.encoder import TextEncoder
from textdiffseg.training.log import read_log
from textdiffseg_cli.common import positive_float, run, whole_number

TRAINING, LACKING = 40, 0.25  # training phantoms, and the share of them that lack an organ
PROMPTED, BY_ITSELF = WAYS = ("prompted", "by_itself")  # with the model's other labels as rivals, or without
BARS = {"alone": 0.005, "held_out_spread": 0.01, "absent_share": 0.01}


def main() -> int:
    """Train and query the model, and print the report."""
    parser = fold_parser(__doc__, cases=8)
    parser.add_argument("--dataset", choices=tuple(WORDINGS), default="phantoms")
    parser.add_argument("--minutes", type=positive_float, default=10.0, help="of training")
    parser.add_argument("--seed", type=whole_number, default=0)
    return run(examine, parser.parse_args())


def examine(args: argparse.Namespace) -> None:
    """Train a model and print its figures."""
    with tempfile.TemporaryDirectory() as temporary:
        root = (args.root or Path(temporary)) / f"seed_{args.seed}"
        data = args.data if args.dataset == "hippocampus" else write_phantoms(root, args.seed)
        preprocessed = plan_with_words(data, root, args)
        cases = held_out(preprocessed, args.fold, args.cases)
        folder = root / "results" / data.name / "default" / f"fold_{args.fold}"
        in_own_process(train, preprocessed, folder, "default", args.seed, args)
        model, bank = load_network(FoldFolder(folder), device=args.device), TextBank.load(FoldFolder(folder).words)
        predictor = Predictor([model], PredictionSettings(), args.device)
        if args.dataset == "phantoms":
            figures = measure_phantoms(predictor, bank, args)
        else:
            scans = list(stored_scans(preprocessed, cases, model.plan, bank))
            figures = measure(predictor, bank, scans, wordings_of(bank, args.dataset))
        last = read_log(folder / "log.jsonl")[-1]
    report = {"benchmark": "words", "dataset": args.dataset, "seed": args.seed, "cases": args.cases}
    report |= {"iterations": last.iteration, "training_minutes": round(last.seconds / 60, 2)}
    print(json.dumps(report | machine(args.device) | {"bars": BARS} | figures, indent=1))


def write_phantoms(root: Path, seed: int) -> Path:
    """The raw data set under the root. It is generated if it is missing."""
    folder = root / "raw" / phantoms.NAME
    if not (folder / "dataset.json").is_file():
        phantoms.write_phantoms(root, TRAINING, test=0, seed=seed, lacking=LACKING)
    return folder


def plan_with_words(data: Path, root: Path, args: argparse.Namespace) -> Path:
    """Plan and preprocess with this benchmark's phrasings. Raises `UserError` if the root has other phrasings."""
    folder = root / "preprocessed" / data.name
    plan = PreprocessedFolder(folder).plan("default")
    labels = Plan.read(plan).labels if plan.is_file() else read_dataset(data).labels
    words = {name: wording.trained for name, wording in matched([label.name for label in labels], args.dataset).items()}
    if not (folder / "prompts.json").is_file():
        write_record(folder / "prompts.json", Prompts(scan=SCANS[args.dataset], labels=words))
    prepare(data, root, "default", args.device)
    if TextBank.load(PreprocessedFolder(folder).words("default")).phrasings != words:
        raise UserError(f"{folder} was planned with other words than this benchmark's: choose another --root.")
    return folder


def wordings_of(bank: TextBank, dataset: str) -> list[Wording]:
    """The wordings in label order."""
    return list(matched(bank.labels, dataset).values())


def measure_phantoms(predictor: Predictor, bank: TextBank, args: argparse.Namespace) -> dict:
    """All measures, on phantoms that are not in any training set."""
    seeds = [(args.seed, 10_000 + index) for index in range(args.cases)]
    anatomies = [phantoms.draw_anatomy(*seed) for seed in seeds]
    scans = [phantom_scan(predictor.plan, *pair) for pair in zip(anatomies, seeds, strict=True)]
    figures = measure(predictor, bank, scans, wordings_of(bank, "phantoms"))
    volumes = {number: [volume(scan.truth, number, scan) for scan in scans] for number in label_numbers(bank)}
    absent: dict[str, dict[str, float]] = {way: {} for way in WAYS}
    for number, name in enumerate(bank.labels, start=1):
        lacking = [
            phantom_scan(predictor.plan, phantoms.without(anatomy, name), seed)
            for anatomy, seed in zip(anatomies, seeds, strict=True)
        ]
        for way in WAYS:
            wrong = mean(volume(predict(predictor, scan, *alone(bank, number, way)), number, scan) for scan in lacking)
            absent[way][name] = wrong / mean(size for size in volumes[number] if size > 0)
    pair = [bank.labels.index(name) + 1 for name in phantoms.LOOK_ALIKES]
    apart = {
        way: {
            bank.labels[own - 1]: share_on_named_gland(predictor, bank, scans, own, sum(pair) - own, way)
            for own in pair
        }
        for way in WAYS
    }
    worst = {way: max(shares.values()) for way, shares in absent.items()}
    return figures | {"absent": {"share_of_volume": absent, "worst": worst}, "look_alikes": apart}


def label_numbers(bank: TextBank) -> range:
    """The numbers of all labels."""
    return range(1, len(bank.labels) + 1)


def alone(bank: TextBank, number: int, way: str) -> tuple[Queries, int]:
    """A query for one label with its first phrasing, and the number of answers. PROMPTED adds the other labels."""
    rivals = [other for other in label_numbers(bank) if other != number] if way == PROMPTED else []
    return bank.queries_for([bank.phrasings[bank.labels[number - 1]][0]], rivals=rivals), 1


def volume(labels: np.ndarray, number: int, scan: Scan) -> float:
    """The volume of a label in ml."""
    return float(np.count_nonzero(labels == number) * np.prod(scan.transform.geometry.spacing) / 1000)


def share_on_named_gland(
    predictor: Predictor, bank: TextBank, scans: Sequence[Scan], own: int, other: int, way: str
) -> float | None:
    """The share on `own` of the voxels predicted on either look-alike, if `own` is queried alone; None without any."""
    hits = np.zeros(2)
    for scan in scans:
        mask = predict(predictor, scan, *alone(bank, own, way)) == own
        hits += [np.count_nonzero(mask & (scan.truth == number)) for number in (own, other)]
    return float(hits[0] / hits.sum()) if hits.sum() else None


def measure(predictor: Predictor, bank: TextBank, scans: Sequence[Scan], wordings: Sequence[Wording]) -> dict:
    """The measures that every data set has."""
    together = dice(predictor, scans, bank.all_labels())
    gaps: dict[str, dict[str, float]] = {}
    for way in WAYS:
        single: dict[str, float] = {}
        for number in label_numbers(bank):
            single |= dice(predictor, scans, *alone(bank, number, way))
        gaps[way] = {name: single[name] - together[name] for name in together}
    encoder = TextEncoder(bank.space.encoder)
    trials = [together]
    for phrases in zip(*(wording.held_out for wording in wordings), strict=True):
        trials.append(dice(predictor, scans, in_words(bank, phrases, encoder)))
    means = [mean(trial.values()) for trial in trials]
    return {
        "together": {"labels": together, "dice": means[0]},
        "alone": {
            way: {"labels_minus_together": of_labels, "mean": mean(of_labels.values())}
            for way, of_labels in gaps.items()
        },
        "held_out": {
            "labels": {name: [trial.get(name) for trial in trials] for name in together},
            "dice": means,
            "spread": float(np.ptp(means)),
            "worst_label_spread": max(
                float(np.ptp([trial[name] for trial in trials if name in trial])) for name in together
            ),
        },
    }


def in_words(bank: TextBank, phrases: Sequence[str], encoder: TextEncoder) -> Queries:
    """A query for all labels, in label order, each with a phrase that may be unknown to the bank."""
    queries = bank.queries_for(phrases, force=True, encoder=encoder)
    return replace(queries, labels=torch.arange(1, len(phrases) + 1)[None])


if __name__ == "__main__":
    sys.exit(main())
