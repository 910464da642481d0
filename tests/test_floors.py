"""The floors hold: who may import whom (read from the source, imports inside functions included), and what is light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ANY_ROOM = {"queries", "regions", "execution", "transfer"}  # modules of the library itself, open to all rooms
ROOMS = {
    "imaging": set(),
    "preprocessing": {"imaging"},
    "data": {"imaging", "preprocessing"},
    "text": set(),
    "networks": set(),
    "diffusion": set(),
    "evaluation": {"imaging"},
}
HEAVY = ("torch", "numpy", "pydantic")


def sources(folder: Path) -> list[Path]:
    found = sorted(folder.rglob("*.py"))
    assert found, f"no source in {folder}"
    return found


def imported(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it; `from a import b` counts as a and a.b."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def packages(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imported(path)}


def rooms(path: Path) -> set[str]:
    """The library's rooms (and top modules) that a file imports."""
    return {name.split(".")[1] for name in imported(path) if name.startswith("textdiffseg.")}


def test_plans_imports_nothing_of_the_floors_above_nor_torch(repository):
    for path in sources(repository / "plans"):
        forbidden = packages(path) & {"textdiffseg", "textdiffseg_cli", "torch", "SimpleITK", "monai"}
        assert not forbidden, f"{path} imports {forbidden}"


def test_the_library_does_not_import_the_commands(repository):
    for path in sources(repository / "textdiffseg"):
        assert "textdiffseg_cli" not in packages(path), path


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_the_rooms_below(repository, room):
    for path in sources(repository / "textdiffseg" / room):
        beyond = rooms(path) - ROOMS[room] - ANY_ROOM - {room}
        assert not beyond, f"{path} imports {beyond}"


@pytest.mark.parametrize(("room", "other"), [("training", "inference"), ("inference", "training")])
def test_training_and_inference_do_not_import_each_other(repository, room, other):
    for path in sources(repository / "textdiffseg" / room):
        assert other not in rooms(path), path


def test_scans_are_read_and_written_in_one_place(repository):
    users = {path.name for path in sources(repository / "textdiffseg") if "SimpleITK" in packages(path)}
    assert users == {"io.py"}


def test_nothing_is_pickled(repository):
    for floor in ("plans", "textdiffseg", "textdiffseg_cli"):
        for path in sources(repository / floor):
            assert not packages(path) & {"pickle", "joblib", "dill"}, path


def test_plans_is_ours(repository):
    import plans

    assert Path(plans.__file__).resolve().parent == repository / "plans", "another package named plans shadows ours"


def python(code: str, *arguments: str) -> None:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr


def test_importing_plans_loads_no_heavy_library():
    python(f"import sys, plans; found = [m for m in {HEAVY} if m in sys.modules]; assert not found, found")


def test_the_whole_deciding_floor_loads_no_torch(repository):
    modules = [f"plans.{path.stem}" for path in sources(repository / "plans") if path.stem != "__init__"]
    python(f"import importlib, sys; [importlib.import_module(m) for m in {modules}]; assert 'torch' not in sys.modules")


def test_stored_cases_are_trained_on_and_scored_without_simpleitk():
    python(
        "import sys; sys.modules['SimpleITK'] = None\n"
        "import textdiffseg.data.loader, textdiffseg.training.loop\n"
        "import textdiffseg.validation.score, textdiffseg.validation.choose\n"
        "import textdiffseg.evaluation.metrics, textdiffseg.evaluation.report\n"
    )


def test_predicting_does_not_import_monai():
    """It costs several seconds."""
    python(
        "import sys\n"
        "import textdiffseg.inference.predictor, textdiffseg.folds.ensemble, textdiffseg.inference.export\n"
        "import textdiffseg_cli.predict\n"
        "assert 'monai' not in sys.modules"
    )
