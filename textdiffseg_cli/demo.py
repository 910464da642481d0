"""`tds_demo`: all commands on generated phantoms. Each command is printed as a user would type it."""

import argparse
import shlex
from collections.abc import Callable
from pathlib import Path

from textdiffseg_cli.common import add_root, command, positive_float, run

STEPS = 5


def make_parser() -> argparse.ArgumentParser:
    """The command line of `tds_demo`."""
    parser = command(
        "tds_demo",
        "Make a small data set of 3D phantoms, then plan, train, predict and evaluate. Each command is printed as you "
        "would type it. If you interrupt it, run it again: it resumes.",
        """
        tds_demo
        tds_demo --minutes 10 --root /tmp/demo
        """,
    )
    parser.add_argument(
        "--minutes", type=positive_float, default=3.0, metavar="M", help="minutes of training (default: 3)"
    )
    add_root(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_demo, make_parser().parse_args(argv))


def _demo(args: argparse.Namespace) -> int:
    import time

    from textdiffseg import phantoms
    from textdiffseg.extras import require
    from textdiffseg_cli import evaluate, plan_and_preprocess, predict, train

    require("train", "tds_demo")
    start = time.monotonic()
    raw = args.root / "raw" / phantoms.NAME
    predictions = args.root / "predictions" / phantoms.NAME
    summary, picture = predictions / "summary.json", args.root / "demo.png"
    root = [] if args.root == Path() else ["--root", str(args.root)]
    _title(1, "Make the phantoms: an abdomen with organs, a lesion and two look-alike glands")
    if not (raw / "dataset.json").is_file():
        phantoms.write_phantoms(args.root)
    print(f"{raw}: {', '.join(phantoms.LABELS)}")
    minutes = ["--max-minutes", f"{args.minutes:g}"]
    steps: list[tuple[str, str, Callable[[list[str]], int], list[str]]] = [
        ("Plan and preprocess", "tds_plan_and_preprocess", plan_and_preprocess.main, ["900", *root]),
        ("Train fold 0", "tds_train", train.main, ["900", "0", *minutes, *root]),
        (
            "Predict scans that training never saw",
            "tds_predict",
            predict.main,
            ["-i", f"{raw}/imagesTs", "-o", str(predictions), "-d", "900", *root],
        ),
        ("Evaluate", "tds_evaluate", evaluate.main, [str(predictions), f"{raw}/labelsTs", "-o", str(summary)]),
    ]
    for number, (title, name, step, arguments) in enumerate(steps, start=2):
        _title(number, title)
        print(f"$ {shlex.join([name, *arguments])}\n", flush=True)
        if code := step(arguments):
            return code
    _picture(raw, predictions, picture)
    _closing(summary, picture, root, time.monotonic() - start)
    return 0


def _title(number: int, text: str) -> None:
    print(f"\n[{number}/{STEPS}] {text}", flush=True)


def _picture(raw: Path, predictions: Path, path: Path) -> None:
    """Draw the first four held-out phantoms with their masks."""
    from textdiffseg import phantoms
    from textdiffseg.evaluation.picture import Panel, draw_overlays
    from textdiffseg.imaging.sources.files import read_labels, read_volume
    from textdiffseg.imaging.volume import to_canonical

    panels = []
    for reference in sorted((raw / "labelsTs").glob("*.nii.gz"))[:4]:
        scan = raw / "imagesTs" / reference.name.replace(".nii.gz", "_0000.nii.gz")
        sources = (read_volume((scan,)), read_labels(predictions / reference.name), read_labels(reference))
        volumes = [to_canonical(volume)[0] for volume in sources]
        image, prediction, truth = (volume.array[0] for volume in volumes)
        title = reference.name.removesuffix(".nii.gz")
        panels.append(Panel(title, image, prediction, truth, volumes[0].geometry.spacing))
    draw_overlays(panels, dict(enumerate(phantoms.LABELS, start=1)), path)


def _closing(summary_path: Path, picture: Path, root: list[str], seconds: float) -> None:
    from textdiffseg.evaluation.report import Summary
    from textdiffseg.phantoms import LOOK_ALIKES

    summary = Summary.read(summary_path)
    print(f"\nHeld-out phantoms, mean Dice: {_score(summary.mean.dice)}")
    for name in LOOK_ALIKES:
        print(f"  {name} (the two glands differ only in place): {_score(summary.labels[name].dice)}")
    print(f"Picture: {picture}\nScores:  {summary_path}\nTime:    {seconds / 60:.1f} minutes in total")
    where = shlex.join(root)
    folder = Path(root[1] if root else "") / "raw" / "Dataset001_Mine"
    print(
        "\nTo use your own data, put it into nnU-Net's layout:\n"
        f"  {folder}/dataset.json, imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz\nThen type\n"
        f"  tds_plan_and_preprocess 1 {where}\n"
        f"  tds_train 1 0 {where}\n"
        f"  tds_predict -i new_scans -o segmentations -d 1 {where}"
    )


def _score(dice: float | None) -> str:
    return "no score" if dice is None else f"{dice:.3f}"
