"""What a release needs beside its code: version, citation and changes agree, and nothing is invented."""

import configparser
import re
import subprocess

import yaml

import textdiffseg


def test_the_version_has_one_source(repository):
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(repository / "setup.cfg", encoding="utf-8")
    assert setup["metadata"]["version"] == "attr: textdiffseg.__version__"
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", textdiffseg.__version__)


def test_the_changelog_begins_with_this_version(repository):
    text = (repository / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## \[(.*?)\]", text, re.MULTILINE)[1] == textdiffseg.__version__


def test_the_citation_is_that_of_the_publication(repository):
    """What CFF 1.2.0 requires is there; names, identifiers and addresses that nobody gave are not."""
    text = (repository / "CITATION.cff").read_text(encoding="utf-8")
    citation = yaml.safe_load(text)
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == textdiffseg.__version__
    assert citation["authors"] == [{"name": "The TextDiffSeg developers"}]
    published = citation["preferred-citation"]
    paper = " ".join((repository / "docs" / "paper.md").read_text(encoding="utf-8").split())
    assert re.search(rf"\*{re.escape(published['title'])}\*\W+{published['year']}\b", paper)
    assert {"type", "authors"} <= published.keys()
    assert not {"doi", "url", "repository-code", "identifiers"} & {*citation, *published}
    assert "http" not in text


def test_every_root_page_names_only_targets_that_make_has(repository):
    targets = set(re.findall(r"^([a-z-]+):", (repository / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for name in ("README.md", "CONTRIBUTING.md"):
        text = (repository / name).read_text(encoding="utf-8")
        named = set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE))
        assert named, name
        assert named <= targets, name


def test_hooks_are_local_and_run_the_tools_of_the_environment(repository):
    (local,) = yaml.safe_load((repository / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert local["repo"] == "local"
    assert [hook["entry"].split()[0] for hook in local["hooks"]] == ["ruff", "ruff", "mypy"]
    assert all(hook["language"] == "system" for hook in local["hooks"])


def test_make_alone_lists_every_target(repository):
    done = subprocess.run(["make", "-C", str(repository)], capture_output=True, encoding="utf-8", check=True)
    listed = set(re.findall(r"^make ([a-z-]+) +\S", done.stdout, re.MULTILINE))
    makefile = (repository / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.*)", makefile, re.MULTILINE)
    assert listed == set(phony.split())
