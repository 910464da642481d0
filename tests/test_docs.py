"""The README and the pages of docs/: their commands, options, links and JSON examples are right."""

import argparse
import configparser
import importlib
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from plans.raw.header import DatasetHeader, labels_of
from plans.raw.prompts import PromptFile, Prompts

REPOSITORY = Path(__file__).resolve().parent.parent
MAX_README_LINES = 120
PAGES = ("README.md", "AGENTS.md", *(f"docs/{path.name}" for path in sorted((REPOSITORY / "docs").glob("*.md"))))
SHARED = {"-h", "--help", "--version"}  # of all commands
OF_OTHERS = {"--ipc", "--no-deps", "--shm-size", "--user"}  # options of docker and pip
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
OPTION = re.compile(r"(?<![\w-])(--?[a-z][\w-]*)")


def setup() -> configparser.ConfigParser:
    found = configparser.ConfigParser()
    found.read(REPOSITORY / "setup.cfg")
    return found


def parser_of(entry: str) -> argparse.ArgumentParser:
    """The parser of a console script: `textdiffseg_cli.train:main`."""
    return importlib.import_module(entry.partition(":")[0]).make_parser()


PARSERS = {
    name: parser_of(entry)
    for name, entry in (
        line.replace(" ", "").split("=")
        for line in setup()["options.entry_points"]["console_scripts"].strip().splitlines()
    )
}


def text(page: str) -> str:
    return (REPOSITORY / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return [body for kind, body in BLOCK.findall(text(page)) if kind == language]


def inline(page: str) -> list[str]:
    """The code spans outside of code blocks."""
    return re.findall(r"`([^`\n]+)`", BLOCK.sub("", text(page)))


def command_lines() -> Iterator[tuple[str, str]]:
    """Each page and command line of ours in a code block, without its comment; `$` marks a shell's variable."""
    for page in PAGES:
        for body in blocks(page, ""):
            yield from ((page, line) for line in body.splitlines() if line.startswith("tds_") and "$" not in line)


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    return {option for action in parser._actions for option in action.option_strings} - SHARED


def section(page: str, heading: str) -> str:
    """What stands below `## heading`, to the next heading of that level."""
    return text(page).partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def slugs(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", text(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(("page", "line"), list(command_lines()))
def test_command_lines_parse(page, line):
    name, *arguments = shlex.split(line, comments=True)
    assert name in PARSERS, f"{page}: no such command"
    PARSERS[name].parse_args(arguments)  # exits with a message where it does not fit


def test_there_are_command_lines():
    assert {page for page, _ in command_lines()} >= {"README.md", "docs/commands.md", "docs/data.md", "docs/paper.md"}


@pytest.mark.parametrize("page", PAGES)
def test_named_options_exist(page):
    """An option behind a command is that command's; one that stands alone is of any command or benchmark."""
    known = OF_OTHERS.union(*map(options_of, PARSERS.values()))
    sources = "".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "benchmarks").glob("*.py"))
    faults = []
    for code in inline(page):
        first, options = code.split()[0], {*OPTION.findall(code)} - SHARED
        if first in PARSERS:
            faults += [code for option in options if option not in options_of(PARSERS[first])]
        elif first.startswith("-"):
            faults += [code for option in options if option not in known and f'"{option}"' not in sources]
    assert faults == []


@pytest.mark.parametrize("name", PARSERS)
def test_every_option_is_explained(name):
    rows = [row.split("|")[1] for row in section("docs/commands.md", name).splitlines() if row.startswith("|")]
    explained = set(OPTION.findall(" ".join(rows)))
    assert options_of(PARSERS[name]) - explained == set()


@pytest.mark.parametrize("page", PAGES)
def test_links_resolve(page):
    for target in re.findall(r"\]\(([^)]+)\)", BLOCK.sub("", text(page))):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        path = (REPOSITORY / page).parent / file if file else REPOSITORY / page
        assert path.is_file(), target
        assert not anchor or anchor in slugs(path.relative_to(REPOSITORY).as_posix()), target


def test_files_that_are_named_for_developers_exist():
    named = [code for code in inline("AGENTS.md") if re.fullmatch(r"[\w./-]+(\.py|\.md|\.json|/)|tests/\w+", code)]
    assert len(named) >= 15
    assert [name for name in named if not (REPOSITORY / name).exists()] == []


def test_benchmarks_that_are_named_exist_with_their_options():
    shared = (REPOSITORY / "benchmarks" / "stored.py").read_text(encoding="utf-8")
    for page in PAGES:
        for name, rest in re.findall(r"python benchmarks/(\w+)\.py([^`\n]*)", text(page)):
            source = (REPOSITORY / "benchmarks" / f"{name}.py").read_text(encoding="utf-8") + shared
            assert [option for option in OPTION.findall(rest) if f'"{option}"' not in source] == [], f"{page}: {name}"


def test_make_targets_exist():
    makefile = text("Makefile")
    for page in PAGES:
        for target in re.findall(r"^make ([\w-]+)|`make ([\w-]+)", text(page), re.MULTILINE):
            assert re.search(rf"^{''.join(target)}:", makefile, re.MULTILINE), f"{page}: make {''.join(target)}"


def test_extras_exist():
    named = set(re.findall(r"(?:`|\.)\[(\w+)\]", text("README.md")))
    assert "train" in named
    assert named <= {*setup()["options.extras_require"]}


def test_json_examples_are_right():
    for body in (*blocks("docs/data.md", "json"), *blocks("docs/paper.md", "json")):
        data = json.loads(body)
        if "version" in data:
            ours = Prompts if "scan" in data else PromptFile
            assert ours.parse(data, "example").labels
        elif "labels" in data:
            faults: list[str] = []
            assert labels_of(DatasetHeader.parse(data, "example"), "example", faults).labels
            assert faults == []


def test_the_readme_is_short():
    assert len(text("README.md").splitlines()) <= MAX_README_LINES


def test_a_cell_of_the_readme_holds_one_figure_of_the_figures_page():
    """STYLE "Words first": long measurements live in docs/figures.md."""
    cells = {cell.strip().removeprefix("0.") for row in text("docs/figures.md").splitlines() for cell in row.split("|")}
    (table,) = re.findall(r"\| Dice \|\n\|[-| ]+\n((?:\|.*\n)+)", text("README.md"))
    for row in table.splitlines():
        figure = row.split("|")[3].strip()
        assert re.fullmatch(r"0|0\.\d+", figure), row
        assert {figure, figure[1:], figure.removeprefix("0.")} & cells, f"{row} is not in docs/figures.md"
