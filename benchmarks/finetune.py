"""Fine-tuning on few cases: what a trained model's weights gain over random ones, after the same minutes.

    python benchmarks/finetune.py [--data DIR] [--sizes 5 10 20] [--minutes 5] [--source-minutes 10] [--seeds 0 1 2]
        [--preset default] [--root DIR]

- The source model knows every second label. It is trained on the fold's training cases, without the target cases.
- The target has all labels, so half of its words are new to the source. Its cases are the first of one random draw of
  the fold's training cases: 5 of them, 10, 20.
- The target is trained twice: with the source as `--init-from`, and from random weights. Both sides have the same plan,
  cases, seed and minutes. The minutes of the source are not counted.
- The scored scans are the fold's validation cases. Neither model has seen them. One step, no mirroring.

Prints JSON. For each size: Dice of each label on both sides; the gain over all labels, over those of the source and
over the new ones, with the 95% interval of a paired bootstrap over cases (of means over seeds) and the verdict, by the
rule of claims.py. With --root the trained folds are kept, and an interrupted run resumes.
"""

import json
import sys
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from accuracy import train, training
from claims import Scores, case_gaps, judge, label_means
from phantom_scans import link_files, write_header
from stored import dice_by_case, fold_parser, in_own_process, machine, prepare, shared_data, stored_scans

from plans.errors import UserError
from plans.layout import ALL, FoldFolder, RawFolder
from plans.plan import LabelPlan
from plans.raw.dataset import Case, Dataset, read_dataset
from textdiffseg.data.splits import Split, make_splits
from textdiffseg.folds.sampling import PredictionSettings
from textdiffseg.folds.weights import load_network
from textdiffseg.imaging.sources.files import read_labels
from textdiffseg.imaging.writers.files import write_labels
from textdiffseg.inference.predictor import Predictor
from textdiffseg.text.bank import TextBank
from textdiffseg.validation.cases import evenly_spaced
from textdiffseg_cli.common import positive_float, positive_int, run, whole_number

DRAW = 12345  # the seed of the draw of target cases
BAR = 0.0  # of the gain, for each size
FINE_TUNED, RANDOM = "fine-tuned", "random weights"


@dataclass(frozen=True)
class Parts:
    """The labels and the cases of the three parts. No case is in two of them."""

    labels: tuple[str, ...]
    known: tuple[LabelPlan, ...]  # labels of the source
    source: list[Case]
    target: list[Case]  # in the order of the draw
    scored: list[Case]


def main() -> int:
    """Train the source and both sides of each size, and print the report."""
    parser = fold_parser(__doc__)
    parser.set_defaults(data=shared_data() / "Dataset102_HeadAndNeck")
    parser.add_argument("--preset", choices=("default", "unet"), default="default")
    parser.add_argument("--sizes", type=positive_int, nargs="+", default=[5, 10, 20], metavar="N", help="target cases")
    parser.add_argument("--minutes", type=positive_float, default=5.0, help="of training, for each side and size")
    parser.add_argument("--source-minutes", type=positive_float, default=10.0, help="of training of the source")
    parser.add_argument("--seeds", type=whole_number, nargs="+", default=[0], metavar="N")
    return run(compare, parser.parse_args())


def compare(args: Namespace) -> None:
    """Print the figures of all sizes."""
    with tempfile.TemporaryDirectory() as temporary:
        root = args.root or Path(temporary)
        dataset = read_dataset(args.data)
        parts = divided(dataset, args.fold, max(args.sizes), args.cases)
        source = write_part(parts.source, parts.known, dataset, root / "raw" / f"{dataset.name}Source")
        few = root / "raw" / f"{dataset.name}Few"
        target = write_part([*parts.target, *parts.scored], dataset.labels, dataset, few)
        figures: dict[int, dict[str, dict[int, dict]]] = {size: {FINE_TUNED: {}, RANDOM: {}} for size in args.sizes}
        sources = {}
        for seed in args.seeds:  # seed by seed, so that an interrupted run has all sizes of the first seeds
            model = root / "results" / source.name / f"{args.preset}_seed{seed}"
            stored = prepare(source, root, args.preset, args.device)
            longer = Namespace(minutes=args.source_minutes, device=args.device, fold=ALL)
            in_own_process(train, stored, model / f"fold_{ALL}", args.preset, seed, longer)
            sources[str(seed)] = training(model / f"fold_{ALL}")
            stored = prepare(target, root, args.preset, args.device)
            for size in args.sizes:
                for side, init_from in ((FINE_TUNED, model), (RANDOM, None)):
                    fold = root / "results" / target.name / f"{side}, {size} cases, seed {seed}" / "fold_0"
                    cases = tuple(case.id for case in parts.target[:size])
                    split = Split(train=cases, validation=cases)  # so the scored cases choose no weights
                    in_own_process(train, stored, fold, args.preset, seed, args, split, init_from)
                    scores = in_own_process(scored, stored, fold, [case.id for case in parts.scored], args.device)
                    figures[size][side][seed] = training(fold) | {"scores": scores}
    print(json.dumps(report(parts, sources, figures, args), indent=1))


def divided(dataset: Dataset, fold: str, most: int, scored: int | None) -> Parts:
    """The parts of a data set for `most` target cases and at most `scored` scored ones; None: all of the fold's.

    Raises `UserError` if the data set is too small, its labels overlap or voxels are ignored.
    """
    by_id = {case.id: case for case in dataset.cases}
    ignored = any(case.annotation.ignore is not None for case in dataset.cases)
    if dataset.regions is not None or len(dataset.labels) < 2 or ignored:
        raise UserError(f"{dataset.folder}: expected two or more labels that do not overlap, and no ignored voxels.")
    split = make_splits([*by_id], {name: case.group for name, case in by_id.items()}).split(fold)
    drawn = np.random.default_rng(DRAW).permutation(sorted(split.train)).tolist()
    known = dataset.labels[::2]
    source = [by_id[name] for name in sorted(drawn[most:])]
    source = [case for case in source if case.annotation.known & {label.name for label in known}]
    if not source:
        raise UserError(
            f"{dataset.folder}: fold {fold} has {len(drawn)} training cases, of which {most} are for the target. "
            "Give smaller --sizes, so that some are left for the source."
        )
    held_out = sorted(split.validation)
    chosen = held_out if scored is None else evenly_spaced(held_out, scored)
    target, scored_cases = ([by_id[name] for name in ids] for ids in (drawn[:most], chosen))
    return Parts(dataset.label_names, known, source, target, scored_cases)


def write_part(cases: Sequence[Case], labels: Sequence[LabelPlan], dataset: Dataset, folder: Path) -> Path:
    """The raw folder of some cases with some labels; other labels become background. Written if it is missing."""
    raw, values = RawFolder(folder), {label.name: label.value for label in labels}
    if raw.header.is_file():
        if {case.id for case in read_dataset(folder).cases} != {case.id for case in cases}:
            raise UserError(f"{folder} was written for other --sizes, --cases or --fold: choose another --root.")
        return folder
    for case in cases:
        link_files(case.images, raw.images("Tr"))
        volume = read_labels(case.label)
        kept = np.zeros(volume.geometry.shape, int)
        for name, value in values.items():
            kept[volume.array[0] == case.annotation.values[name]] = value
        write_labels(raw.labels("Tr") / case.label.name, kept, volume.geometry)
    fields = {
        "channel_names": {str(number): name for number, name in enumerate(dataset.channels)},
        "file_ending": dataset.file_ending,
        "annotated": {case.id: [name for name in values if name in case.annotation.known] for case in cases},
    }
    write_header(folder, values, len(cases), **fields)
    return folder


def scored(preprocessed: Path, fold: Path, cases: list[str], device: str) -> dict[str, dict[str, float]]:
    """Dice of a trained fold by case and label."""
    model, bank = load_network(FoldFolder(fold), device=device), TextBank.load(FoldFolder(fold).words)
    predictor = Predictor([model], PredictionSettings(), device)
    return dice_by_case(predictor, stored_scans(preprocessed, cases, model.plan, bank), bank.all_labels())


def report(parts: Parts, sources: dict, figures: dict[int, dict[str, dict[int, dict]]], args: Namespace) -> dict:
    """All figures. `figures`: size -> side -> seed -> the training and its scores."""
    known = [label.name for label in parts.known]
    new = [name for name in parts.labels if name not in known]
    sizes = {}
    for size, sides in figures.items():
        ours, theirs = (
            {seed: outcome["scores"] for seed, outcome in sides[side].items()} for side in (FINE_TUNED, RANDOM)
        )
        gains = {
            group: judge(f"fine-tuning on {size} cases gains on {group}", gaps(ours, theirs, labels), BAR)
            for group, labels in (("all labels", None), ("labels of the source", known), ("new labels", new))
        }
        models = {
            side: {str(seed): described(outcome) for seed, outcome in outcomes.items()}
            for side, outcomes in sides.items()
        }
        sizes[str(size)] = {"models": models, "gains": gains}
    settings = {name: getattr(args, name) for name in ("fold", "preset", "minutes", "source_minutes", "seeds")}
    counts = {"source": len(parts.source), "scored": len(parts.scored)}
    return (
        {"benchmark": "finetune", "dataset": args.data.name}
        | settings
        | machine(args.device)
        | {"cases": counts, "source_labels": known, "new_labels": new, "sources": sources, "sizes": sizes}
    )


def gaps(ours: dict[int, Scores], theirs: dict[int, Scores], labels: list[str] | None) -> dict[int, dict[str, float]]:
    """Dice of ours minus theirs, by seed and case, over some labels; None: all labels."""
    return {seed: case_gaps(ours[seed], theirs[seed], labels) for seed in ours}


def described(figures: dict) -> dict:
    """The training of one side, with the mean Dice and that of each label."""
    labels = {name: means["dice"] for name, means in label_means(figures["scores"]).items()}
    kept = {name: value for name, value in figures.items() if name != "scores"}
    return kept | {"dice": float(np.mean([*labels.values()])), "labels": labels}


if __name__ == "__main__":
    sys.exit(main())
