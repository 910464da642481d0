"""The container's files: pinned versions fit setup.cfg, and the Dockerfile copies what the package needs."""

import importlib.util
import re
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

_spec = importlib.util.spec_from_file_location("constraints", Path(__file__).with_name("constraints.py"))
constraints = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(constraints)


@pytest.fixture
def pinned(repository) -> dict[str, str]:
    lines = (repository / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines)


@pytest.fixture
def dockerfile(repository) -> str:
    return (repository / "Dockerfile").read_text(encoding="utf-8")


def test_each_requirement_is_pinned_to_a_version_that_setup_cfg_allows(pinned):
    """If it fails after a change of setup.cfg, run `make constraints`."""
    for one in constraints.requirements():
        assert one.specifier.contains(pinned[canonicalize_name(one.name)]), one


def test_no_pin_belongs_to_one_build_of_torch(pinned):
    assert not any("+" in version for version in pinned.values())
    assert not any(name.startswith("nvidia") for name in pinned)


def test_what_these_require_is_pinned_too(pinned, monkeypatch):
    """einops comes with an extra of monai, markupsafe with jinja2, which torch requires."""
    assert {"einops", "markupsafe", "protobuf"} <= pinned.keys()
    found = {"a": ["b[x]>1", "c; extra == 'y'", "e; python_version < '3'"], "b": ["d; extra == 'x'"], "d": ["a"]}
    monkeypatch.setattr(constraints, "requirements", lambda: [constraints.Requirement("a")])
    monkeypatch.setattr(constraints, "requires", lambda name: found.get(name))
    monkeypatch.setattr(constraints, "version", lambda name: f"1.{ord(name)}+cpu")
    assert constraints.constraints() == {"a": "1.97", "b": "1.98", "d": "1.100"}


def test_the_dockerfile_copies_files_that_exist_and_are_not_ignored(repository, dockerfile):
    copied = [name for line in re.findall(r"^COPY (.+) \S+$", dockerfile, re.MULTILINE) for name in line.split()]
    allowed = {line[1:] for line in (repository / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {"plans", "textdiffseg", "textdiffseg_cli"} <= set(copied) == allowed
    assert all((repository / name).exists() for name in copied)


def test_the_container_runs_without_rights_and_without_a_hub_of_models(dockerfile):
    assert re.search(r"^USER 1000$", dockerfile, re.MULTILINE)
    assert "HF_HUB_OFFLINE=1" in dockerfile
