"""The wheel holds the three packages and what they need, and the library works from it."""

import subprocess
import sys
import zipfile

import pytest

pytestmark = pytest.mark.slow
PREDICTS = """
import sys
import numpy as np
import plans, textdiffseg as tds, textdiffseg_cli
assert all(module.__file__.startswith(sys.argv[1]) for module in (plans, tds, textdiffseg_cli)), tds.__file__
from textdiffseg_cli import plan_and_preprocess, predict, train
"""


@pytest.fixture(scope="module")
def wheel(repository, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(folder),
        str(repository),
    ]
    subprocess.run(command, check=True)
    (found,) = folder.glob("textdiffseg-*.whl")
    return found


def test_the_wheel_holds_code_types_and_licence(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for package in ("plans", "textdiffseg", "textdiffseg_cli"):
        assert f"{package}/__init__.py" in names
        assert f"{package}/py.typed" in names
    assert any(name.endswith("LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]


def test_the_library_is_imported_from_where_the_wheel_is_installed(wheel, tmp_path):
    target = tmp_path / "installed"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(command, check=True)
    command = [sys.executable, "-c", PREDICTS, str(target)]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(target), "PATH": ""}, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
