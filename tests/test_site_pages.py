"""The pages that only the site shows in full: the API page lists every public name, and the notebook uses real ones."""

import ast
import importlib
import json
import re

import pytest

import textdiffseg as tds

ENTRY = re.compile(r"^\.\. auto\w+:: ([\w.]+)$", re.MULTILINE)


@pytest.fixture(scope="module")
def entries(repository) -> list[str]:
    return ENTRY.findall((repository / "docs" / "api.md").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def notebook(repository) -> dict:
    return json.loads((repository / "docs" / "tour.ipynb").read_text(encoding="utf-8"))


def test_the_api_page_lists_every_public_name_once(entries):
    public = [name for name in entries if "." not in name]
    assert sorted(public) == sorted(tds.__all__)


def test_the_other_entries_of_the_api_page_exist(entries):
    others = [name.rpartition(".") for name in entries if "." in name]
    assert others
    assert all(hasattr(importlib.import_module(module), name) for module, _, name in others)


def test_every_page_is_in_the_table_of_contents(repository):
    index = (repository / "docs" / "index.md").read_text(encoding="utf-8")
    trees = "\n".join(re.findall(r"^```\{toctree\}\n(.*?)^```", index, re.MULTILINE | re.DOTALL))
    listed = {re.sub(r".*<(.*)>", r"\1", line) for line in trees.splitlines() if line and not line.startswith(":")}
    pages = [path for ending in ("md", "ipynb") for path in (repository / "docs").glob(f"*.{ending}")]
    assert listed == {path.stem for path in pages} - {"index"}


def test_the_notebook_is_stored_without_outputs(notebook):
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(code) >= 8
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


def test_the_notebook_uses_public_names_alone(notebook):
    source = "\n".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code")
    nodes = list(ast.walk(ast.parse(source)))
    used = {node.attr for node in nodes if isinstance(node, ast.Attribute) and getattr(node.value, "id", None) == "tds"}
    assert {"write_phantoms", "plan", "train", "load", "write_report"} <= used <= {*tds.__all__}
    modules = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert not any(name.startswith(("textdiffseg", "plans")) for name in modules if name)
