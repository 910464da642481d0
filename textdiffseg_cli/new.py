"""`tds_new`: make a data set from a folder of scans and a folder of masks."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from plans.choices import MISSING
from plans.commands import command_line
from plans.layout import RawFolder, tree
from plans.raw.folders import id_and_title
from textdiffseg_cli.common import add_root, command, console, print_lines, run, whole_number
from textdiffseg_cli.output import add_output, print_json

if TYPE_CHECKING:
    from plans.raw.gaps import LabelGap
    from textdiffseg.tasks.new import NewDataset

MAX_LISTED = 20  # files without a partner
LARGEST_ID = 10**6


def make_parser() -> argparse.ArgumentParser:
    """The command line of `tds_new`."""
    parser = command(
        "tds_new",
        "Make a data set from a folder of scans and a folder of masks. Scans and masks are paired by their names. The "
        "data set holds links to your files. DICOM, and .nhdr and .mhd files, are converted.",
        """
        tds_new scans masks
        tds_new scans masks --name Abdomen --labels liver=1 spleen=2
        tds_new cases.csv --labels labels.json --channels T1 FLAIR
        tds_new dicom dicom --root /data
        """,
    )
    listed = "folder of scans, or a CSV file with the columns case, image and mask"
    parser.add_argument("images", type=Path, metavar="IMAGES", help=listed)
    parser.add_argument(
        "masks",
        type=Path,
        metavar="MASKS",
        nargs="?",
        help="folder of masks: label maps, one file per structure, DICOM segmentations, or structure sets (RTSTRUCT)",
    )
    add_root(parser)
    parser.add_argument("-o", dest="folder", type=Path, metavar="FOLDER", help="folder to make (default: below raw/)")
    parser.add_argument("--name", metavar="NAME", help="name of the data set (default: from the folder of the scans)")
    parser.add_argument("--id", type=_number, metavar="N", help="its number (default: the first free one)")
    parser.add_argument(
        "--labels",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="the labels, or one JSON file with them (default: label 1, label 2, ..., or the names in DICOM)",
    )
    parser.add_argument(
        "--channels",
        nargs="+",
        default=[],
        metavar="NAME",
        help="the channels of a scan, such as CT (default: CT or MRI, by the intensities)",
    )
    parser.add_argument(
        "--missing",
        choices=MISSING,
        default="auto",
        help="what it means that a mask lacks a label: the scan does not contain it, or nobody drew it (default: auto, "
        "which prints its choice for each label)",
    )
    parser.add_argument("--overwrite", action="store_true", help="make the data set of the same scans and masks again")
    add_output(parser)
    return parser


def _number(text: str) -> int:
    if (number := whole_number(text)) >= LARGEST_ID:
        raise argparse.ArgumentTypeError(f"expected a number below {LARGEST_ID}, found {text}")
    return number


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_new, make_parser().parse_args(argv))


def _new(args: argparse.Namespace) -> None:
    import textdiffseg as tds
    from textdiffseg_cli.bars import Bars

    with Bars(args.quiet, args.json) as bars:
        made = tds.new_dataset(
            args.images,
            args.masks,
            root=args.root,
            folder=args.folder,
            name=args.name,
            number=args.id,
            labels=args.labels,
            channels=args.channels,
            missing=args.missing,
            overwrite=args.overwrite,
            report=bars.print_line,
            progress=bars,
        )
    if args.json:
        print_json(made)
        return
    if made.made:
        _print_found(made)
        _print_gaps(made.labels)
    else:
        left = " ".join(made.notes) or "Nothing is left to do."
        print_lines(
            f"{made.dataset.folder} was made from these files before ({len(made.dataset.cases)} cases). {left} To make "
            "it again, give --overwrite."
        )
    _print_next(made)


def _print_found(made: "NewDataset") -> None:
    """Print the files without a partner, the table of labels, the channels, and the pictures."""
    from rich.table import Table

    sources, cases = made.sources, len(made.dataset.cases)
    assert sources is not None, "expected a data set that was made now"
    for what, names in (("Scans without a mask", sources.images), ("Masks without a scan", sources.masks)):
        if names:
            more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
            print_lines(f"{what} ({len(names)}): {', '.join(names[:MAX_LISTED])}{more}")
    print_lines(*sources.doubtful)
    print_lines(*(f"Not read: {line}" for line in sources.unread))
    print_lines(*(f"Left out: {line}" for line in made.left_out))
    table = Table(
        "value", "label", "cases", "median ml", "a mask without it", title=f"{made.dataset.name}, {cases} cases"
    )
    for gap in made.labels:
        unclear = gap.missing and gap.cases
        meaning = "–" if not unclear else "does not contain it" if gap.annotated else "was not drawn for it"
        volume = "–" if gap.median_ml is None else f"{gap.median_ml:.3g}"
        table.add_row(str(gap.value), gap.name, f"{gap.cases} of {cases}", volume, meaning)
    console().print(table)
    how = " (guessed from the intensities; --channels names them)" if made.guessed else ""
    print_lines(f"Channels: {', '.join(made.dataset.channels)}{how}.", *made.notes)


def _print_gaps(labels: "tuple[LabelGap, ...]") -> None:
    """Print what a missing label means, and why."""
    undrawn = [gap.name for gap in labels if gap.missing and not gap.annotated and gap.cases]
    absent = [gap.name for gap in labels if gap.missing and gap.annotated and gap.cases]
    if undrawn:
        print_lines(
            f"Not drawn where missing: {', '.join(undrawn)}. The volume differs little between cases, as that of an "
            "organ does. A case without the label does not train it. If it is really absent there: --missing absent."
        )
    if absent:
        print_lines(
            f"Absent where missing: {', '.join(absent)}. The volume differs much between cases, as that of a lesion "
            "does, or few cases hold it. If it was only not drawn there: --missing not-annotated."
        )


def _print_next(made: "NewDataset") -> None:
    """Print what was written, and the next commands."""
    folder = made.dataset.folder
    if made.pictures:
        print_lines(f"Look at {len(made.pictures)} pictures of scans with masks: {made.pictures[0].parent}")
    print_lines(f"Written: {RawFolder(folder).header}")
    if any(gap.name == f"label {gap.value}" for gap in made.labels):
        print_lines("Name the labels there, or with --labels NAME=VALUE ... --overwrite: the model reads their names.")
    below = folder.resolve().parent == tree(made.root, "raw").resolve()
    number = id_and_title(folder.name)[0]
    name = str(number) if below and number is not None else folder.name if below else str(folder)
    print_lines(f"Next: {command_line('tds_run', name, '--hours', '4', root=made.root)}")
    print_lines(f"  or: {command_line('tds_plan_and_preprocess', name, root=made.root)}")
