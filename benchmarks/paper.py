"""The publication, its ablations, other networks, `unet` and `default`: the same cases, fold, seed and minutes.

Prints JSON: for each preset the mean Dice and NSD on the original grids, the publication's figure (Table II, liver
tumour), iterations and their rate. With --picture, it draws the masks of all methods on the same validation cases.

The claim of the publication is that `paper` is above every method of its Table I (`TABLE_I`) and above its ablations.
Every preset gets the same cases, patches and minutes. Only the publication's own presets have another optimiser.

    python benchmarks/paper.py [--data DIR] [--minutes 20] [--device cpu] [--root DIR] [--picture FILE]

Presets are trained one after the other. With --root the trained folds are kept, and an interrupted run resumes.
--picture needs the raw scans, and SimpleITK for the masks of the validation.
"""

import argparse
import importlib.util
import json
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from accuracy import describe, train, trained, training
from stored import fold_parser, held_out, in_own_process, left_out, machine, prepare

from plans.choices import PRESETS, Preset
from plans.errors import UserError
from plans.layout import FoldFolder, PreprocessedFolder
from plans.plan import Plan
from plans.planning.recipes import RECIPES
from textdiffseg.imaging.panels import Panel, draw_panels
from textdiffseg.networks.peers.build import LIBRARIES
from textdiffseg_cli.common import positive_float, run, whole_number

# The publication's Table II: Dice in percent on liver tumour, of the model and its ablations. zeta 1 has one figure.
TABLE_II: dict[Preset, float] = {
    "paper": 84.47,
    "paper-no-text": 72.54,
    "paper-concatenation": 72.54,
    "paper-no-image-encoder": 69.32,
    "paper-no-label-encoder": 75.45,
}
# The methods of Table I. docs/paper.md describes the networks.
TABLE_I: dict[Preset, str] = {
    "peer-unet": "3D U-Net",
    "peer-swinunetr": "SwinUNETR",
    "peer-unetrpp": "UNETR++",
    "peer-diffunet": "Diff-UNet",
    "paper": "TextDiffSeg",
}
MAX_SHOWN_CASES = 3  # in the picture


def main() -> int:
    """Train and score the presets, print the report and draw the picture."""
    parser = fold_parser(__doc__)
    parser.add_argument("--minutes", type=positive_float, default=20.0, help="of training, for each preset")
    parser.add_argument("--seed", type=whole_number, default=0)
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=PRESETS)
    parser.add_argument("--text-encoder", metavar="NAME", help="of the paper's presets (default: Bio_ClinicalBERT)")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the same cases side by side")
    return run(compare, parser.parse_args())


def compare(args: argparse.Namespace) -> None:
    """Print the figures of every preset with those of the publication."""
    check(args)
    with tempfile.TemporaryDirectory() as temporary:
        root = args.root or Path(temporary)
        folders, figures = {}, {}
        for preset in args.presets:
            preprocessed = prepare(args.data, root, preset, args.device, text_encoder_option(args, preset))
            check_text_encoder(preprocessed, preset, args)
            cases = held_out(preprocessed, args.fold, args.cases)
            folder = folders[preset] = trained(root, args, preset, args.seed)
            in_own_process(train, preprocessed, folder, preset, args.seed, args)
            figures[preset] = in_own_process(describe, preprocessed, folder, cases, args.device)
            figures[preset] |= training(folder) | published(preset, folder)
        note = "percent, liver tumour of LiTS; Dice here is a fraction, and comparable only after training on that data"
        settings = {name: getattr(args, name) for name in ("fold", "seed", "minutes")}
        report = {"benchmark": "paper", "dataset": args.data.name} | settings | machine(args.device)
        print(json.dumps(report | {"left_out": left_out(), "table_ii": note, "presets": figures}, indent=1), flush=True)
        if args.picture:
            draw(args, folders, args.picture)


def check(args: argparse.Namespace) -> None:
    """Raise `UserError` before the training for options that could not be carried out after it."""
    faults = []
    for module, presets in peers_by_library(args.presets).items():
        if importlib.util.find_spec(module) is None:
            faults.append(f"{', '.join(presets)}: {module} is not installed: name other --presets.")
    if args.picture and importlib.util.find_spec("SimpleITK") is None:
        faults.append("--picture reads masks with SimpleITK, which is not installed: leave it out.")
    if args.picture and not (args.data / "dataset.json").is_file():
        faults.append(f"--picture shows the raw scans, and {args.data} holds no data set: leave it out.")
    if faults:
        raise UserError(*faults)


def peers_by_library(presets: Iterable[Preset]) -> dict[str, list[Preset]]:
    """The peers among the presets that need each library."""
    needed_by: dict[str, list[Preset]] = {}
    for preset in presets:
        for module in LIBRARIES.get(RECIPES[preset].peer, ()):
            needed_by.setdefault(module, []).append(preset)
    return needed_by


def check_text_encoder(preprocessed: Path, preset: str, args: argparse.Namespace) -> None:
    """Raise `UserError` if the root was planned with another text encoder than --text-encoder."""
    encoder = Plan.read(PreprocessedFolder(preprocessed).plan(preset)).text.encoder
    if text_encoder_option(args, preset) and encoder != args.text_encoder:
        raise UserError(f"{preprocessed} was planned with the text encoder {encoder}: choose another --root.")


def published(preset: str, folder: Path) -> dict:
    """The publication's figure and name, and the text encoder and notes that the comparison needs."""
    text = Plan.read(FoldFolder(folder).plan).text
    notes = [text.note] if text.note else []
    tables = {"table_i": TABLE_I.get(preset), "table_ii_dice": TABLE_II.get(preset)}
    return {"text_encoder": text.encoder, "notes": notes} | tables


def text_encoder_option(args: argparse.Namespace, preset: str) -> list[str]:
    """The option --text-encoder for presets `paper*`; [] for other presets, or if it is not given."""
    return ["--text-encoder", args.text_encoder] if args.text_encoder and preset.startswith("paper") else []


def draw(args: argparse.Namespace, folders: dict[str, Path], path: Path) -> None:
    """Draw the masks: one row per case, one column per method."""
    from plans.raw.dataset import read_dataset
    from textdiffseg.imaging.sources.files import read_labels, read_volume
    from textdiffseg.imaging.volume import to_canonical

    dataset = read_dataset(args.data)
    validated = [folder / "validation" for folder in folders.values()]
    complete = [case for case in dataset.cases if all((masks / f"{case.id}.nii.gz").is_file() for masks in validated)]
    cases = complete[:MAX_SHOWN_CASES]
    if not cases:
        print("No scan has a mask of every method: no figure.", file=sys.stderr)
        return
    panels = []
    for case in cases:
        scan, _ = to_canonical(read_volume(case.images))
        reference, _ = to_canonical(read_labels(case.label))
        for preset, folder in folders.items():
            mask, _ = to_canonical(read_labels(folder / "validation" / f"{case.id}.nii.gz"))
            arrays = (scan.array[0], mask.array[0], reference.array[0])
            panels.append(Panel(f"{preset}\n{case.id}", *arrays, scan.geometry.spacing))
    draw_panels(panels, {label.value: label.name for label in dataset.labels}, path, rows=len(cases))


if __name__ == "__main__":
    sys.exit(main())
