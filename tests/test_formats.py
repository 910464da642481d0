"""docs/formats.md lists every file that has a version, as the code has it."""

import ast
import importlib
import re
from pathlib import Path

ROW = re.compile(r"^\| .+ \| (\d+) \| (\d+) \| `([\w.]+)\.(\w+)` \|$", re.MULTILINE)


def listed(repository: Path) -> dict[tuple[str, str], tuple[int, int]]:
    """The current and the oldest version of each record, by module and class."""
    text = (repository / "docs" / "formats.md").read_text(encoding="utf-8")
    return {(module, name): (int(current), int(oldest)) for current, oldest, module, name in ROW.findall(text)}


def versioned(repository: Path) -> set[tuple[str, str]]:
    """Every class with a field `version`, read from the source."""
    found = set()
    for folder in ("plans", "textdiffseg"):
        for path in (repository / folder).rglob("*.py"):
            module = ".".join(path.relative_to(repository).with_suffix("").parts)
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                fields = node.body if isinstance(node, ast.ClassDef) else []
                if any(isinstance(one, ast.AnnAssign) and ast.unparse(one.target) == "version" for one in fields):
                    found.add((module, node.name))
    return found


def test_every_file_with_a_version_is_listed(repository):
    """DESIGN 3: formats are versioned."""
    assert listed(repository).keys() == versioned(repository)


def test_versions_are_those_of_the_code(repository):
    for (module, name), versions in listed(repository).items():
        record = getattr(importlib.import_module(module), name)
        assert (record.current_version(), record.oldest_version()) == versions, f"{module}.{name}"
