"""`tds_doctor`: whether this machine has what training and prediction need."""

import argparse

from textdiffseg_cli.common import FAILED, add_root, command, console, run
from textdiffseg_cli.output import print_json

MARKS = {"good": "ok", "note": "note", "bad": "problem"}


def make_parser() -> argparse.ArgumentParser:
    """The command line of `tds_doctor`."""
    parser = command(
        "tds_doctor",
        "Examine this machine: GPU, memory, disk, versions, text encoder, write access, shared memory. Print what to "
        "change. The exit code is 2 if something will not work.",
        """
        tds_doctor
        tds_doctor --root /data --json
        """,
    )
    add_root(parser)
    parser.add_argument("--json", action="store_true", help="print JSON for other programs")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_examine, make_parser().parse_args(argv))


def _examine(args: argparse.Namespace) -> int:
    from textdiffseg.tasks.doctor import examine, worst

    findings = examine(args.root)
    state = worst(findings)
    if args.json:
        print_json({"state": state, "findings": findings})
    else:
        from rich.table import Table

        table = Table("part", "", "found")
        for finding in findings:
            table.add_row(finding.name, MARKS[finding.state], finding.found)
        console().print(table)
        for finding in findings:
            if finding.advice:
                print(f"{finding.name}: {finding.advice}")
        print(
            {
                "good": "This machine has everything that training and prediction need.",
                "note": "Everything works here, with the limits above.",
                "bad": "Something will not work here: see the problems above.",
            }[state]
        )
        print("Next: change that, and type tds_doctor again." if state == "bad" else "Next: tds_new SCANS MASKS")
    return FAILED if state == "bad" else 0
