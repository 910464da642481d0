"""Does the text of a case decide what its image leaves open? One of two equal nodules is the metastasis.

    python benchmarks/sentences.py [--minutes 12] [--training 60] [--sampler-share .05] [--seeds 0 1 2] [--root DIR]

The text of a case names the metastasis, e.g. "The upper nodule is the metastasis.". Two models of preset default are
trained for the same minutes on the same scans: one with the texts, one without. New phantoms are scored in four ways:

- `with its text`, `with another case's text` and `without its text`: by the model that was trained with texts;
- `trained without texts`: by the other model.

Claims, on mean Dice:

- with its text, a case is at least 0.15 above the model that was trained without texts;
- with another case's text, a case is below that model;
- without its text, a case is at most 0.01 below that model;
- texts are read: another case's text costs at least 0.02;
- with --alternatives: without its text, one of four alternatives has a Dice above 0.8 in 90% of the cases, and the
  single mask in at most 60%.

The model with texts mirrors the axes that a text names, in samples that do not read their text. The other model mirrors
none.

Prints JSON: Dice of each way, the differences with the 95% interval of a paired bootstrap over cases, and the
verdicts. With --root the trained folds are kept, and an interrupted run resumes.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from accuracy import train, training
from claims import FAILS, HOLDS, OPEN, Scores, case_gaps, judge, label_means
from nodule_phantoms import LABEL, NAME, NodulePhantom, draw_phantom, write_nodules
from phantom_scans import FIRST_SCORED, link_data_set
from stored import fold_parser, in_own_process, machine, prepare

from plans.layout import PreprocessedFolder
from plans.plan import Plan
from plans.raw.dataset import read_dataset
from textdiffseg.evaluation.metrics import dice
from textdiffseg.files import write_record
from textdiffseg.imaging.volume import Volume
from textdiffseg.inference.model import Model
from textdiffseg.inference.result import Result
from textdiffseg.inference.segmenting import SegmentOptions
from textdiffseg_cli.common import positive_float, positive_int, run, whole_number

OWN, OTHER, NONE = "with its text", "with another case's text", "without its text"
WITHOUT = "trained without texts"
BARS = {"gain": 0.15, "shuffled": 0.0, "no_text": -0.01, "read": 0.02}
ALTERNATIVES, HIT = 4, 0.8  # of a scan; the Dice from which a mask counts as right
MIN_HITS, MAX_SINGLE_HITS = 0.9, 0.6  # shares of the cases
NO_SAMPLES = "this model has no diffusion, and thus no samples"


def main() -> int:
    """Train and score the models, and print the report."""
    parser = fold_parser(__doc__, cases=32)
    parser.add_argument("--minutes", type=positive_float, default=12.0, help="of training, for each model and seed")
    parser.add_argument("--seeds", type=whole_number, nargs="+", default=[0], metavar="N")
    parser.add_argument("--training", type=positive_int, default=60, metavar="N", help="phantoms to train with")
    parser.add_argument("--sampler-share", type=share, metavar="S", help="of the minutes (default: the plan's)")
    parser.add_argument("--alternatives", action="store_true", help="also score alternatives")
    return run(compare, parser.parse_args())


def share(text: str) -> float:
    """An argparse type: a number between 0 and 1."""
    if not 0 < (number := float(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected a number between 0 and 1, found {text}")
    return number


def compare(args: argparse.Namespace) -> None:
    """Print the figures and the verdicts."""
    with tempfile.TemporaryDirectory() as temporary:
        root = args.root or Path(temporary)
        with_texts = write_nodules(root, args.training)
        without = link_data_set(read_dataset(with_texts), root / "raw" / f"{NAME}WithoutTexts", texts=False)
        scores: dict[str, dict[int, Scores]] = {way: {} for way in (OWN, OTHER, NONE, WITHOUT)}
        trainings: dict[str, dict[str, dict]] = {}
        drawn: list[dict] = []
        for seed in args.seeds:
            folds = [trained(data, root, seed, args) for data in (with_texts, without)]
            for way, found in in_own_process(scored, *folds, args).items():
                scores[way][seed] = found
            if args.alternatives:
                drawn.append(in_own_process(alternatives, folds[0], args) | {"seed": seed})
            trainings[str(seed)] = {fold.parents[1].name: training(fold) for fold in folds}
    print(json.dumps(report(scores, trainings, drawn, args), indent=1))


def trained(data: Path, root: Path, seed: int, args: argparse.Namespace) -> Path:
    """The trained fold of a data set."""
    preprocessed = prepare(data, root, "default", args.device)
    if args.sampler_share is not None:
        set_sampler_share(PreprocessedFolder(preprocessed).plan("default"), args.sampler_share)
    fold = root / "results" / data.name / f"default_seed{seed}" / f"fold_{args.fold}"
    in_own_process(train, preprocessed, fold, "default", seed, args)
    return fold


def set_sampler_share(path: Path, value: float) -> None:
    """Change the share of the time in which the sampler learns, in a plan.json."""
    plan = Plan.read(path)
    assert plan.diffusion is not None, "expected a plan of preset default"
    diffusion = plan.diffusion.model_copy(update={"share": value})
    write_record(path, plan.model_copy(update={"diffusion": diffusion}))


def phantoms_to_score(args: argparse.Namespace) -> list[NodulePhantom]:
    """Phantoms that are in no training set."""
    return [draw_phantom(0, FIRST_SCORED + index) for index in range(args.cases)]


def shuffled(phantoms: Sequence[NodulePhantom]) -> dict[str, str]:
    """The text of another case for each case. Nodules of both lie along the same axis, so it also names one of them."""
    texts: dict[str, str] = {}
    for axis in sorted({phantom.axis for phantom in phantoms}):
        group = [phantom for phantom in phantoms if phantom.axis == axis]
        order = np.random.default_rng(axis).permutation(len(group))
        for case, donor in zip(order, np.roll(order, 1), strict=True):
            texts[group[case].case] = group[donor].text
    return texts


def scored(with_texts: Path, without: Path, args: argparse.Namespace) -> dict[str, dict[str, dict[str, float]]]:
    """Dice by case and label of each way."""
    phantoms = phantoms_to_score(args)
    reading, other = (Model.load(fold.parent, folds=[args.fold], device=args.device) for fold in (with_texts, without))
    own_texts = {phantom.case: phantom.text for phantom in phantoms}
    return {
        OWN: dices(reading, phantoms, own_texts),
        OTHER: dices(reading, phantoms, shuffled(phantoms)),
        NONE: dices(reading, phantoms, {}),
        WITHOUT: dices(other, phantoms, {}),
    }


def dices(model: Model, phantoms: Sequence[NodulePhantom], texts: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Dice of each phantom, by case and label. `texts`: by case, of those that have one."""
    results = segment(model, phantoms, texts, SegmentOptions(mirroring=False))
    return {
        phantom.case: {LABEL: dice(result.labels == 1, phantom.labels == 1) or 0.0}
        for phantom, result in zip(phantoms, results, strict=True)
    }


def segment(
    model: Model, phantoms: Sequence[NodulePhantom], texts: Mapping[str, str], options: SegmentOptions
) -> list[Result]:
    """The segmentation of each phantom."""
    encoded, prepared = model.texts(texts), model.prepare(options)
    return [
        prepared.run(prepared.read(Volume(phantom.image[None], phantom.geometry)), encoded.get(phantom.case))
        for phantom in phantoms
    ]


def alternatives(fold: Path, args: argparse.Namespace) -> dict:
    """How often the single mask and the best of the alternatives are right, without texts."""
    model = Model.load(fold.parent, folds=[args.fold], device=args.device)
    if model.plan.diffusion is None:
        return {"skipped": NO_SAMPLES}
    options = SegmentOptions(mirroring=False, alternatives=ALTERNATIVES)
    single, best = [], []  # Dice of each phantom
    for phantom in phantoms_to_score(args):
        (result,) = segment(model, [phantom], {}, options)
        truth = phantom.labels == 1
        single.append(dice(result.labels == 1, truth) or 0.0)
        best.append(max(dice(alternative.labels == 1, truth) or 0.0 for alternative in result.alternatives))
    hits = {"single_mask": single, "best_alternative": best}
    return {name: float((np.array(scores) > HIT).mean()) for name, scores in hits.items()}


def judge_alternatives(drawn: Sequence[dict]) -> dict:
    """The claim on alternatives, from the shares of each seed."""
    claim = {"claim": "one of four alternatives is right where a single mask is not", "seeds": list(drawn)}
    measured = [figures for figures in drawn if "skipped" not in figures]
    if not measured:
        return claim | {"verdict": OPEN}
    single, best = (
        float(np.mean([figures[name] for figures in measured])) for name in ("single_mask", "best_alternative")
    )
    return claim | {"verdict": HOLDS if best >= MIN_HITS and single <= MAX_SINGLE_HITS else FAILS}


def report(
    scores: dict[str, dict[int, Scores]], trainings: dict, drawn: Sequence[dict], args: argparse.Namespace
) -> dict:
    """All figures and verdicts."""

    def claim(statement: str, ours: str, theirs: str, bar: float) -> dict:
        gaps = {seed: case_gaps(scores[ours][seed], scores[theirs][seed]) for seed in scores[ours]}
        return judge(statement, gaps, bar)

    claims = [
        claim(f"{OWN}, a case is above the model {WITHOUT}", OWN, WITHOUT, BARS["gain"]),
        claim(f"{OTHER}, a case is below the model {WITHOUT}", WITHOUT, OTHER, BARS["shuffled"]),
        claim(f"{NONE}, a case is within .01 of the model {WITHOUT}", NONE, WITHOUT, BARS["no_text"]),
        claim("texts are read: another case's text costs Dice", OWN, OTHER, BARS["read"]),
    ]
    ways = {
        way: {str(seed): label_means(found) for seed, found in of_seeds.items()} for way, of_seeds in scores.items()
    }
    return (
        {"benchmark": "sentences", "dataset": NAME, "fold": args.fold}
        | {"minutes": args.minutes, "training": args.training, "sampler_share": args.sampler_share}
        | machine(args.device)
        | {"trainings": trainings, "ways": ways, "claims": claims}
        | ({"alternatives": judge_alternatives(drawn)} if args.alternatives else {})
    )


if __name__ == "__main__":
    sys.exit(main())
