"""Do alternatives follow one order of names along a chain that is longer than a window?

    python benchmarks/beads.py [--epochs 20] [--seeds 0 1 2] [--root DIR]

The scans show chains of equal beads, three patches long. Two names alternate along a chain, and a fair coin decides
which of them comes first (bead_phantoms.py). A sample is consistent if every bead has the name that one of the two
orders gives it. A bead's name is the label that fills more than half of it.

One model of preset default is trained, with patches of a third of the chain. Its sampler learns for `SAMPLER_SHARE` of
the iterations. Then samples of new chains are drawn, from the same noise:

- `in_turn`: each window continues what earlier windows have drawn, as for --alternatives;
- `alone`: each window is drawn by itself, and probabilities are averaged;
- `one_window`: of the first third of each scan. It shows what the sampler has learned.

Claim: with one sample for each scan, `in_turn` is consistent in 90% of the scans, and `alone` in at most 60%.

Prints JSON: for each way the share of consistent samples, the share of neighbours whose names differ, the share of
beads without a name, and the seconds of a scan; `in_turn` minus `alone` with the 95% interval of a paired bootstrap
over scans; and the verdicts. With --root the trained folds are kept.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from bead_phantoms import LABELS, NAME, PATCH, SHAPE, BeadPhantom, draw_phantom, write_beads
from bootstrap import paired
from claims import FAILS, HOLDS
from phantom_scans import FIRST_SCORED
from stored import fold_parser, in_own_process, machine, prepare, read_split

from plans.layout import FoldFolder, PreprocessedFolder
from plans.plan import Plan
from plans.planning.rules import grid_positions, min_log_snr
from textdiffseg.files import write_record
from textdiffseg.folds.lock import alone
from textdiffseg.folds.sampling import ALTERNATIVE_SAMPLES, PredictionSettings, alternative_settings
from textdiffseg.folds.weights import load_network
from textdiffseg.imaging.volume import Volume
from textdiffseg.inference.alternatives import draw_masks
from textdiffseg.inference.samples import SamplePredictor
from textdiffseg.preprocessing.case import preprocess_image
from textdiffseg.text.bank import TextBank
from textdiffseg.training.loop import train_fold
from textdiffseg.training.options import TrainingOptions
from textdiffseg_cli.common import positive_int, run, whole_number

TRAINING = 60  # phantoms
SAMPLER_SHARE = 0.6  # of the iterations: masks of bright beads are learned soon, their order is not
WAYS = {"in_turn": (True, SHAPE[0]), "alone": (False, SHAPE[0]), "one_window": (False, PATCH[0])}  # length of the scan
BARS = {"in_turn": 0.9, "alone": 0.6}  # at least, at most


def main() -> int:
    """Train the models, draw the samples, and print the report."""
    parser = fold_parser(__doc__, cases=24)
    parser.set_defaults(data=None)
    parser.add_argument("--epochs", type=positive_int, default=20, help="of training, each of 50 iterations")
    parser.add_argument("--samples", type=positive_int, default=ALTERNATIVE_SAMPLES, metavar="N", help="for each scan")
    parser.add_argument("--seeds", type=whole_number, nargs="+", default=[0], metavar="N")
    return run(compare, parser.parse_args())


def compare(args: argparse.Namespace) -> None:
    """Print the figures of every seed, and the verdict."""
    with tempfile.TemporaryDirectory() as temporary:
        root = args.root or Path(temporary)
        preprocessed = planned(write_beads(root, TRAINING), root, args)
        by_seed = {}
        for seed in args.seeds:
            fold = root / "results" / NAME / f"default_seed{seed}_{args.epochs}" / f"fold_{args.fold}"
            in_own_process(train, preprocessed, fold, seed, args)
            by_seed[str(seed)] = in_own_process(measure, fold, args)
    settings = {name: getattr(args, name) for name in ("epochs", "cases", "samples")}
    print(json.dumps({"benchmark": "beads"} | settings | machine(args.device) | report(by_seed), indent=1))


def planned(data: Path, root: Path, args: argparse.Namespace) -> Path:
    """The folder of the stored cases. Its plan has patches of a third of the chain."""
    preprocessed = prepare(data, root, "default", args.device)
    path = PreprocessedFolder(preprocessed).plan("default")
    plan = Plan.read(path)
    assert plan.diffusion is not None, "expected a plan of preset default"
    lowest = min_log_snr(plan.latent.channels, grid_positions(PATCH, plan.latent_stride))
    diffusion = plan.diffusion.model_copy(update={"share": SAMPLER_SHARE, "min_log_snr": lowest})
    write_record(path, plan.model_copy(update={"patch": PATCH, "diffusion": diffusion}))
    return preprocessed


def train(preprocessed: Path, folder: Path, seed: int, args: argparse.Namespace) -> None:
    """Train one fold. A finished one is not trained again."""
    fold, options = FoldFolder(folder), TrainingOptions(epochs=args.epochs, device=args.device, seed=seed)
    with alone(fold):
        train_fold(preprocessed, read_split(preprocessed, args.fold), fold, options, "default", print)


def measure(folder: Path, args: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """The figures of one trained fold: of each way, by scan."""
    fold = FoldFolder(folder)
    network, bank = load_network(fold, device=args.device), TextBank.load(fold.words)
    settings = alternative_settings(network.plan, PredictionSettings()).model_copy(update={"samples": args.samples})
    figures: dict[str, dict[str, list[float]]] = {way: {} for way in WAYS}
    for index in range(FIRST_SCORED, FIRST_SCORED + args.cases):
        phantom = draw_phantom(0, index)
        for way, (in_turn, length) in WAYS.items():
            predictor = SamplePredictor([network], settings, args.device)
            predictor.in_turn = in_turn
            for name, value in of_scan(predictor, bank, phantom.first(length)).items():
                figures[way].setdefault(name, []).append(value)
    return figures


def of_scan(predictor: SamplePredictor, bank: TextBank, phantom: BeadPhantom) -> dict[str, float]:
    """The figures of one scan: means over its samples, and the seconds to draw them."""
    image, transform = preprocess_image(Volume(phantom.image[None], phantom.geometry), predictor.plan)
    start = time.perf_counter()
    masks = draw_masks(predictor, torch.from_numpy(image), transform, bank.all_labels(), len(LABELS))
    seconds = time.perf_counter() - start
    chains = [names_of(mask, phantom.beads) for mask in masks]
    return {
        "consistent": float(np.mean([is_consistent(names) for names in chains])),
        "alternating": float(np.mean([alternating(names).mean() for names in chains])),
        "unnamed": float(np.mean([(names == 0).mean() for names in chains])),
        "seconds": seconds,
    }


def names_of(mask: np.ndarray, beads: np.ndarray) -> np.ndarray:
    """The label number (N,) of each bead along the chain; 0: no label fills more than half of it.

    Beads of which the scan shows less than half are left out. Both arrays are (D, H, W).
    """
    sizes = np.bincount(beads.ravel())[1:]
    shown = [number for number, size in enumerate(sizes, start=1) if 2 * size >= sizes.max()]
    counts = np.array([np.bincount(mask[beads == number], minlength=1 + len(LABELS))[1:] for number in shown])
    filled = 2 * counts.max(1) > sizes[np.array(shown) - 1]
    return np.where(filled, 1 + counts.argmax(1), 0)


def alternating(names: np.ndarray) -> np.ndarray:
    """Whether two neighbours of the chain (N,) have different names, for each of the N - 1 pairs."""
    before, after = names[:-1], names[1:]
    return (before != after) & (before > 0) & (after > 0)


def is_consistent(names: np.ndarray) -> bool:
    """Whether all beads of a chain (N,) follow one of the two orders."""
    return bool(alternating(names).all())


def report(by_seed: dict[str, dict]) -> dict:
    """The means of each way over seeds and scans, the difference, and the verdicts."""
    ways = {
        way: {name: float(np.mean([ways_of_seed[way][name] for ways_of_seed in by_seed.values()])) for name in figures}
        for way, figures in next(iter(by_seed.values())).items()
    }
    ours, control = (
        np.mean([ways_of_seed[way]["consistent"] for ways_of_seed in by_seed.values()], 0)
        for way in ("in_turn", "alone")
    )
    verdicts = {
        "in_turn": HOLDS if ways["in_turn"]["consistent"] >= BARS["in_turn"] else FAILS,
        "alone": HOLDS if ways["alone"]["consistent"] <= BARS["alone"] else FAILS,
    }
    return {"bars": BARS, "ways": ways, "in_turn_minus_alone": paired(ours - control), "verdicts": verdicts}


if __name__ == "__main__":
    sys.exit(main())
