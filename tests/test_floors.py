"""The floors hold (DESIGN 1): imports go down only, read from the source, imports inside functions included."""

import ast
import itertools
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

FLOORS = (
    {"plans"},
    {"raw"},
    {"planning"},
    {
        "ahead",
        "allocator",
        "arguments",
        "execution",
        "extras",
        "failures",
        "files",
        "leftovers",
        "masks",
        "overlaps",
        "overview",
        "pace",
        "pictures",
        "precision",
        "progress",
        "queries",
    }
    | {"losses", "randomness", "regions", "resources", "shared_setting", "temperature", "tensors", "transfer"},
    {"imaging"},
    {"text", "networks", "diffusion", "preprocessing", "evaluation", "degradations"},
    {"readout", "data", "phantoms"},
    {"segmenter"},
    {"folds"},
    {"training", "inference"},
    {"validation"},
    {"report"},
    {"tasks"},
    {"textdiffseg"},  # the front door
    {"textdiffseg_cli"},
)
HEAVY = ("torch", "numpy", "pydantic")
PACKAGES = ("plans", "textdiffseg", "textdiffseg_cli")


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


def module(path: Path, repository: Path) -> str:
    """`textdiffseg.data.store`; of a package's `__init__.py` the package."""
    parts = path.relative_to(repository).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(name: str) -> str:
    """The room of a module: its package in `plans`, the part after `textdiffseg.`, or the top package."""
    parts = name.split(".")
    inner = parts[1] in ("raw", "planning") if parts[0] == "plans" and parts[1:] else parts[0] == "textdiffseg"
    return parts[1] if inner and len(parts) > 1 else parts[0]


@pytest.fixture(scope="module")
def graph(repository) -> dict[str, set[str]]:
    """Of each module of the three packages, those of them that it imports."""
    paths = [path for package in PACKAGES for path in sources(repository / package)]
    names = {module(path, repository): path for path in paths}
    return {name: (imported(path) & names.keys()) - {name} for name, path in names.items()}


def test_every_room_has_a_floor(graph):
    known = set().union(*FLOORS)
    assert {room(name) for name in graph} <= known


def test_imports_go_down_only(graph):
    """A room may import itself and rooms of lower floors; small modules such as `files` may be mixed."""
    floor = {name: level for level, rooms in enumerate(FLOORS) for name in rooms}
    faults = []
    for name, others in graph.items():
        for other in others:
            mine, theirs = room(name), room(other)
            beside = mine != theirs and floor[mine] == floor[theirs] != floor["files"]
            if floor[theirs] > floor[mine] or beside:
                faults.append(f"{name} (floor {floor[mine]}) imports {other} (floor {floor[theirs]})")
    assert faults == []


def test_there_is_no_circle(graph):
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


def test_prediction_needs_neither_stored_cases_nor_evaluation(graph):
    """DESIGN 1, floor 6."""
    needed, new = set(), {name for name in graph if room(name) == "inference"}
    while new:
        needed |= new
        new = set(itertools.chain.from_iterable(graph[name] for name in new)) - needed
    assert {room(name) for name in needed} & {"data", "evaluation", "training", "validation"} == set()


def test_plans_is_light(repository):
    for path in sources(repository / "plans"):
        assert not packages(path) & {"textdiffseg", "textdiffseg_cli", "torch", "SimpleITK", "monai"}, path


def test_simpleitk_reads_and_writes_in_one_place_each(repository):
    library = repository / "textdiffseg"
    users = {module(path, repository) for path in sources(library) if "SimpleITK" in packages(path)}
    types_only = {"textdiffseg.imaging.sources.objects"}
    readers = {"textdiffseg.imaging.sources.itk", "textdiffseg.imaging.sources.dicom.decompress"}
    assert users - types_only == readers | {"textdiffseg.imaging.writers.files"}


def test_hashes_and_temporary_names_are_made_in_one_place(repository):
    users = {path.name for path in sources(repository / "textdiffseg") if packages(path) & {"hashlib", "secrets"}}
    assert users == {"files.py"}


def test_nothing_is_pickled(repository):
    for package in PACKAGES:
        for path in sources(repository / package):
            assert not packages(path) & {"pickle", "joblib", "dill"}, path


def test_no_function_is_longer_than_fifty_lines(repository):
    long = [
        f"{path.relative_to(repository)}: {node.name}"
        for package in PACKAGES
        for path in sources(repository / package)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno >= 50
    ]
    assert long == []


def test_plans_is_ours(repository):
    import plans

    assert Path(plans.__file__).resolve().parent == repository / "plans", "another package named plans shadows ours"


def python(code: str, *arguments: str) -> None:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr


def test_importing_plans_loads_no_heavy_library():
    python(f"import sys, plans; found = [m for m in {HEAVY} if m in sys.modules]; assert not found, found")


def test_the_front_door_loads_no_torch():
    """DESIGN 2."""
    python("import sys, textdiffseg as tds; assert 'torch' not in sys.modules and 'load' in dir(tds)")


def test_the_whole_deciding_floor_loads_no_torch(repository):
    modules = [module(path, repository) for path in sources(repository / "plans")]
    python(f"import importlib, sys; [importlib.import_module(m) for m in {modules}]; assert 'torch' not in sys.modules")


def test_workers_that_read_and_store_cases_load_no_torch():
    """It would take 190 MB in each of them."""
    modules = "textdiffseg.data.preparing, textdiffseg.preprocessing.fingerprinting, textdiffseg.imaging.sources.nifti"
    python(f"import sys, {modules}; assert 'torch' not in sys.modules")
