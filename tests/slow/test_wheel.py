"""The wheel holds the three packages, and its base requirements are enough to plan and to predict."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import version

import pytest

import textdiffseg
from textdiffseg_cli import plan_and_preprocess, train

pytestmark = pytest.mark.slow
EXTRAS = ("surface_distance", "monai", "einops", "matplotlib", "batchgenerators", "batchgeneratorsv2", "distributed")
INSTALLED = f"""
import sys
from importlib.util import find_spec
import plans, textdiffseg as tds, textdiffseg_cli
assert all(module.__file__.startswith(sys.argv[1]) for module in (plans, tds, textdiffseg_cli)), plans.__file__
assert tds.__version__ == {textdiffseg.__version__!r}
found = [name for name in {EXTRAS} if find_spec(name)]
assert not found, found
"""


@pytest.fixture(scope="module")
def wheel(repository, tmp_path_factory):
    """Built from a copy, so that nothing of an earlier build in the source tree gets into it."""
    folder, source = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("source")
    for name in ("plans", "textdiffseg", "textdiffseg_cli"):
        shutil.copytree(repository / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(repository / name, source)
    where = ("--no-deps", "--wheel-dir", str(folder), str(source))
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", *where], check=True)
    (found,) = folder.glob("textdiffseg-*.whl")
    return found


@pytest.fixture(scope="module")
def fresh(wheel, tmp_path_factory):
    """The folder of the programs of a new environment that holds the wheel and its base requirements alone."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=True)
    torch = f"torch=={version('torch').partition('+')[0]}"
    install = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", torch, str(wheel))
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # it may hold this package
    subprocess.run([str(folder / "bin" / "python"), *install], check=True, cwd=folder, env=clean)
    return folder / "bin"


@pytest.fixture(scope="module")
def trained(tmp_path_factory, write_raw, shrink_plan):
    """A root with a small model, trained by the environment that runs the tests."""
    root = tmp_path_factory.mktemp("root")
    name = write_raw(root).name
    at = ["--root", str(root)]
    assert plan_and_preprocess.main([name, *at, "--workers", "0"]) == 0
    shrink_plan(root / "preprocessed" / name / "plan.json")
    assert train.main([name, "0", *at, "--epochs", "1"]) == 0
    return root


def run(program, *arguments, where) -> subprocess.CompletedProcess[str]:
    """Run a program of the fresh environment, with nothing of this one's in its way."""
    command = [str(program), *map(str, arguments)]
    return subprocess.run(command, cwd=where, env={"PATH": "/usr/bin:/bin"}, capture_output=True, encoding="utf-8")


def test_the_wheel_holds_code_types_and_licence(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for package in ("plans", "textdiffseg", "textdiffseg_cli"):
        assert f"{package}/__init__.py" in names
        assert f"{package}/py.typed" in names
    assert any(name.endswith("LICENSE") for name in names)
    for name in ("page.css", "viewer.js", "vendor/LICENSES.md", "vendor/niivue-0.69.0.umd.js"):
        assert f"textdiffseg/report/{name}" in names
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"plans", "textdiffseg", "textdiffseg_cli"}


def test_the_packages_are_imported_from_the_fresh_environment(fresh, tmp_path):
    """`plans` too, a name that another package has; and no extra is installed."""
    done = run(fresh / "python", "-c", INSTALLED, fresh.parent, where=tmp_path)
    assert done.returncode == 0, done.stderr
    done = run(fresh / "tds_predict", "--version", where=tmp_path)
    assert done.stdout == f"tds_predict {textdiffseg.__version__}\n"


def test_a_scan_is_predicted_from_the_fresh_environment(fresh, trained, tmp_path):
    scan = trained / "raw" / "Dataset901_Tiny" / "imagesTr" / "tiny_00_0000.nii.gz"
    done = run(fresh / "tds_predict", "-i", scan, "-o", tmp_path / "out", "--root", trained, where=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "out").glob("*.nii.gz")] == ["tiny_00.nii.gz"]


def test_a_data_set_is_planned_from_the_fresh_environment(fresh, tmp_path, write_raw):
    write_raw(tmp_path)
    done = run(fresh / "tds_plan_and_preprocess", "901", "--workers", "0", where=tmp_path)
    assert done.returncode == 0, done.stderr
    done = run(fresh / "tds_train", "901", "0", where=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: tds_train needs batchgeneratorsv2")
    assert done.stderr.endswith("pip install 'textdiffseg[train]'\n")
    assert done.stderr.count("\n") == 1
