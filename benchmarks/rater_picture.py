"""Draw what alternatives show: two references of a generated scan, its mask, and four alternatives with their shares.

    python benchmarks/rater_picture.py --root DIR [--seed 0] [--case 3] -o docs/alternatives.png

The root is that of raters.py, which trains the model. Needs matplotlib.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from raters import ALTERNATIVES, FOLD, LABELS, NAME, Scan
from stored import held_out

from plans.layout import FoldFolder
from textdiffseg.data.store import open_case
from textdiffseg.folds.weights import load_network
from textdiffseg.inference.alternatives import choose_alternatives
from textdiffseg.text.bank import TextBank
from textdiffseg_cli.common import run, whole_number


def main() -> int:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", type=Path, required=True, help="that of raters.py")
    parser.add_argument("--seed", type=whole_number, default=0, metavar="N", help="of the trained model")
    parser.add_argument("--case", type=whole_number, default=3, metavar="N", help="which of the scored scans")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="PNG file to write")
    return run(draw, parser.parse_args())


def draw(args: argparse.Namespace) -> None:
    """Write the picture: the plane with the most voxels of the first organ."""
    from matplotlib.figure import Figure

    preprocessed = args.root / "preprocessed" / NAME
    fold = FoldFolder(args.root / "results" / NAME / f"default_seed{args.seed}" / f"fold_{FOLD}")
    network = load_network(fold)
    case = open_case(preprocessed, held_out(preprocessed, FOLD)[args.case])
    scan = Scan(case, TextBank.load(fold.words), "cpu", args.seed)
    values = tuple(range(1, 1 + len(LABELS)))
    chosen = choose_alternatives(np.stack(scan.drawn(network)), values, ALTERNATIVES)
    shown = {f"reader {index + 1}": case.original_labels(index) for index in range(case.record.references)}
    shown |= {"mask": scan.masks(network)}
    shown |= {f"alternative {number}: {one.share:.0%}": one.labels for number, one in enumerate(chosen, start=1)}
    plane = int((shown["mask"] == 1).sum((1, 2)).argmax())
    figure = Figure(figsize=(2.2 * len(shown), 2.2))
    for axes, (title, labels) in zip(figure.subplots(1, len(shown)), shown.items(), strict=True):
        axes.imshow(labels[plane], cmap="viridis", vmin=0, vmax=len(LABELS), interpolation="nearest")
        axes.set_title(title, fontsize=9)
        axes.axis("off")
    figure.savefig(args.output, dpi=80, bbox_inches="tight")
    print(f"Written: {args.output}")


if __name__ == "__main__":
    sys.exit(main())
