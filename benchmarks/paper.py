"""The publication, its ablations, MONAI's peers, `unet` and `default`: the same cases, fold, seed and minutes.

Prints JSON: for each preset the mean Dice and NSD on the original grids beside the publication's Table II (liver
tumour), iterations and their rate; and draws the same validation cases side by side, method against method.

    python benchmarks/paper.py [--data DIR] [--minutes 20] [--device cpu] [--root DIR] [--picture FILE]

Presets are trained one after the other. With --root the trained folds stay there, and a run that was broken off goes
on; --picture needs the masks that validation writes, hence SimpleITK, and the raw scans.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

import torch
from training import describe, machine, train

from plans.plan import Plan
from plans.presets import PRESETS, Preset
from textdiffseg.evaluation.picture import Panel, draw_overlays
from textdiffseg.evaluation.report import Summary

# The publication's Table II, Dice in percent on liver tumour, for whole and ablated model; its zeta 1 is one figure.
TABLE_II: dict[Preset, float] = {
    "paper": 84.47,
    "paper-no-text": 72.54,
    "paper-concatenation": 72.54,
    "paper-no-image-encoder": 69.32,
    "paper-no-label-encoder": 75.45,
}
SHOWN = 3  # cases in the picture


def main() -> None:
    """Train, validate, draw, print."""
    here = Path(__file__).resolve().parents[1]
    shared = Path(os.environ.get("TDS_SHARED_DATA", here.parent / "shared" / "data"))
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=shared / "Dataset004_Hippocampus", help="the raw data set")
    parser.add_argument("--minutes", type=float, default=20.0, help="of training, for each preset")
    parser.add_argument("--fold", default="0")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=PRESETS)
    parser.add_argument("--text-encoder", metavar="NAME", help="of the paper's presets (default: Bio_ClinicalBERT)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--root", type=Path, help="keep everything here (default: a temporary folder)")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the same cases side by side")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        print(json.dumps(compare(args, args.root or Path(temporary)), indent=1))


def compare(args: argparse.Namespace, root: Path) -> dict:
    """Figures of every preset, the publication's beside them."""
    folders = {preset: train(args, root, preset, words(args, preset)) for preset in args.presets}
    figures = {}
    for preset, folder in folders.items():
        summary, plan = Summary.read(folder / "validation" / "summary.json"), Plan.read(folder / "plan.json")
        figures[preset] = describe(summary, folder) | {
            "text_encoder": plan.text.encoder,
            "notes": list(summary.notes),
            "table_ii_dice": TABLE_II.get(preset),
        }
    if args.picture:
        draw(args, folders, args.picture)
    report = {"dataset": args.data.name, "fold": args.fold, "seed": args.seed, "minutes": args.minutes}
    note = "percent, liver tumour of LiTS; Dice here is a fraction, and comparable only after training on that data"
    return report | machine(args.device) | {"table_ii": note, "presets": figures}


def words(args: argparse.Namespace, preset: str) -> list[str]:
    """The text encoder of the paper's presets, where one is named."""
    return ["--text-encoder", args.text_encoder] if args.text_encoder and preset.startswith("paper") else []


def draw(args: argparse.Namespace, folders: dict[str, Path], path: Path) -> None:
    """One row a case, one column a method."""
    from plans.dataset import read_dataset
    from textdiffseg.imaging.io import read_labels, read_volume
    from textdiffseg.imaging.volume import to_canonical

    dataset = read_dataset(args.data)
    validated = [folder / "validation" for folder in folders.values()]
    cases = [case for case in dataset.cases if all((one / f"{case.id}.nii.gz").is_file() for one in validated)][:SHOWN]
    panels = []
    for case in cases:
        scan, _ = to_canonical(read_volume(case.images))
        reference, _ = to_canonical(read_labels(case.label))
        for preset, folder in folders.items():
            mask, _ = to_canonical(read_labels(folder / "validation" / f"{case.id}.nii.gz"))
            arrays = (scan.array[0], mask.array[0], reference.array[0])
            panels.append(Panel(f"{preset}\n{case.id}", *arrays, scan.geometry.spacing))
    draw_overlays(panels, {label.value: label.name for label in dataset.labels}, path, rows=len(cases))


if __name__ == "__main__":
    main()
