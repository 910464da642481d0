"""`tds_demo`: all commands on generated phantoms. Each command is printed as a user would type it."""

import argparse
import shlex
from collections.abc import Callable
from math import ceil
from pathlib import Path

from plans.file_names import NIFTI, channel_file
from plans.layout import REPORT, SUMMARY, FoldFolder, RawFolder, tree
from textdiffseg_cli.common import add_root, command, positive_float, run

STEPS = 6
GOOD_DICE = 0.85  # the goal of the demo (docs/figures.md)


def make_parser() -> argparse.ArgumentParser:
    """The command line of `tds_demo`."""
    parser = command(
        "tds_demo",
        "Make a small data set of 3D phantoms, then plan, train, predict, evaluate and report. Each command is printed "
        "as you would type it. If you interrupt it, run it again: it resumes.",
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
    return run(_demo, make_parser().parse_args(argv), resumes=True)


def _demo(args: argparse.Namespace) -> int:
    import time

    from textdiffseg import phantoms
    from textdiffseg.extras import require
    from textdiffseg_cli import evaluate, plan_and_preprocess, predict, report, train

    require("train", "tds_demo")
    start = time.monotonic()
    raw = RawFolder(tree(args.root, "raw") / phantoms.NAME)
    predictions = args.root / "predictions" / phantoms.NAME
    summary, picture, page = predictions / SUMMARY, args.root / "demo.png", args.root / REPORT
    root = [] if args.root == Path() else ["--root", str(args.root)]
    _title(1, "Make the phantoms: an abdomen with organs, a lesion and two look-alike glands")
    if not raw.header.is_file():
        phantoms.write_phantoms(args.root)
    print(f"{raw.path}: {', '.join(phantoms.LABELS)}")
    minutes = ["--max-minutes", f"{args.minutes:g}"]
    steps: list[tuple[str, str, Callable[[list[str]], int], list[str]]] = [
        ("Plan and preprocess", "tds_plan_and_preprocess", plan_and_preprocess.main, ["900", *root]),
        ("Train fold 0", "tds_train", train.main, ["900", "0", *minutes, *root]),
        (
            "Predict scans that training never saw",
            "tds_predict",
            predict.main,
            ["-i", str(raw.images("Ts")), "-o", str(predictions), "-d", "900", *root],
        ),
        ("Evaluate", "tds_evaluate", evaluate.main, [str(predictions), str(raw.labels("Ts")), "-o", str(summary)]),
        ("Report on the training and its validation", "tds_report", report.main, ["900", "-o", str(page), *root]),
    ]
    for number, (title, name, step, arguments) in enumerate(steps, start=2):
        _title(number, title)
        print(f"$ {shlex.join([name, *arguments])}\n", flush=True)
        if code := step(arguments):
            return code
    _picture(raw, predictions, picture)
    _closing(summary, picture, page, root, time.monotonic() - start)
    if line := _advice(args.root, summary, args.minutes, root):
        print(f"\n{line}")
    return 0


def _title(number: int, text: str) -> None:
    print(f"\n[{number}/{STEPS}] {text}", flush=True)


def _picture(raw: RawFolder, predictions: Path, path: Path) -> None:
    """Draw the first four held-out phantoms with their masks."""
    from textdiffseg import phantoms
    from textdiffseg.imaging.panels import Panel, draw_panels
    from textdiffseg.imaging.sources.files import read_labels, read_volume
    from textdiffseg.imaging.volume import to_canonical

    panels = []
    for reference in sorted(raw.labels("Ts").glob(f"*{NIFTI}"))[:4]:
        case = reference.name.removesuffix(NIFTI)
        scan = raw.images("Ts") / channel_file(case, 0, NIFTI)
        sources = (read_volume((scan,)), read_labels(predictions / reference.name), read_labels(reference))
        volumes = [to_canonical(volume)[0] for volume in sources]
        image, prediction, truth = (volume.array[0] for volume in volumes)
        panels.append(Panel(case, image, prediction, truth, volumes[0].geometry.spacing))
    draw_panels(panels, dict(enumerate(phantoms.LABELS, start=1)), path)


def _closing(summary_path: Path, picture: Path, page: Path, root: list[str], seconds: float) -> None:
    from textdiffseg.evaluation.summary import Summary
    from textdiffseg.phantoms import LOOK_ALIKES

    summary = Summary.read(summary_path)
    print(f"\nHeld-out phantoms, mean Dice: {_score(summary.mean.dice)}")
    for name in LOOK_ALIKES:
        print(f"  {name} (the two glands differ only in place): {_score(summary.labels[name].dice)}")
    print(f"Picture: {picture}\nScores:  {summary_path}\nReport:  {page}. Open it in a browser.")
    print(f"Time:    {seconds / 60:.1f} minutes in total")
    where = [*root[:1], shlex.quote(root[1])] if root else []
    print(
        "\nTo use your own data, type\n"
        f"  {' '.join(['tds_new', 'scans', 'masks', *where])}\n"
        f"  {' '.join(['tds_run', '1', '--hours', '4', *where])}\n"
        f"  {' '.join(['tds_predict', '-i', 'new_scans', '-o', 'segmentations', '-d', '1', *where])}"
    )


def _advice(folder: Path, summary_path: Path, minutes: float, root: list[str]) -> str | None:
    """What to do if the training was too short for a good result; None if it was not."""
    from textdiffseg import phantoms
    from textdiffseg.evaluation.summary import Summary
    from textdiffseg.training.log import read_log
    from textdiffseg.training.setup import USUAL_ITERATIONS

    log = read_log(FoldFolder.of(folder, phantoms.NAME, "default", 0).log)
    dice = Summary.read(summary_path).mean.dice
    if not log or log[-1].iteration >= USUAL_ITERATIONS or (dice or 0) >= GOOD_DICE:
        return None
    longer = ceil(minutes * USUAL_ITERATIONS / log[-1].iteration)
    return (
        f"This training made only {log[-1].iteration} iterations: the machine is slow or busy. After "
        f"{USUAL_ITERATIONS} iterations the mean Dice is about 0.97. To train longer, type\n"
        f"  {shlex.join(['tds_demo', '--minutes', str(longer), *root])}"
    )


def _score(dice: float | None) -> str:
    return "no score" if dice is None else f"{dice:.3f}"
