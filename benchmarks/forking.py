"""Runs of pytest in forked children. They share this process's imports of third-party libraries.

A child imports the project from a copy of the source tree. If it imports the installed project instead, the run
raises `RuntimeError`, as it would not see the planted bug.
"""

import contextlib
import gc
import importlib
import importlib.util
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, TypeVar

_LIBRARIES = ("OMP_NUM", "OPENBLAS_NUM", "MKL_NUM", "NUMEXPR_NUM", "NUMEXPR_MAX")
ONE_THREAD = (*(f"{library}_THREADS" for library in _LIBRARIES), "BLOSC_NTHREADS")
MAX_MEMORY_GB = 8  # of a child: a bug may ask for any amount
POLL_SECONDS = 0.02
OPTIONS = ("-x", "-q", "-p", "no:cacheprovider", "--import-mode=importlib")
T = TypeVar("T")
Job = Generator[None, None, T]


@dataclass(frozen=True)
class Answer:
    """The result of a run of tests."""

    failed: str | None = None  # the first failed test; None: all passed
    reason: str | None = None  # the first line of its error
    seconds: dict[str, float] = field(default_factory=dict)  # by test file
    longest: dict[str, float] = field(default_factory=dict)  # seconds of the file's slowest test or fixture
    late: bool = False  # stopped after its time limit


def preload(names: Sequence[str]) -> None:
    """Import the installed libraries of `names` once for all children. Raises `RuntimeError` if this starts threads.

    A fork only copies the calling thread, but also the locks that other threads hold.
    """
    sys.dont_write_bytecode = True
    os.environ |= {name: "1" for name in ONE_THREAD} | {"PYTHONDONTWRITEBYTECODE": "1"}
    for name in names:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
    if hypothesis := sys.modules.get("hypothesis"):
        # the same examples each time, without a time limit: on a busy machine a limit would count as a caught bug
        hypothesis.settings.register_profile("mutations", deadline=None, derandomize=True, database=None)
        hypothesis.settings.load_profile("mutations")
    gc.collect()
    gc.freeze()
    threads = Path("/proc/self/task")
    if threads.is_dir() and len(list(threads.iterdir())) > 1:
        raise RuntimeError(f"importing {', '.join(names)} started threads; a process with threads cannot be forked")


def in_turns(jobs: Iterable[Callable[[Path], Job[T]]], copies: Sequence[Path], deadline: float) -> Iterator[T]:
    """The results of jobs, in the order in which they finish. Each copy has one job at a time.

    Jobs that still run at the deadline are stopped.
    """
    waiting, free = iter(jobs), list(copies)
    running: list[tuple[Path, Job[T]]] = []
    try:
        while time.monotonic() < deadline:
            for job in islice(waiting, len(free)):
                copy = free.pop()
                running.append((copy, job(copy)))
            if not running:
                return
            for copy, steps in list(running):
                try:
                    next(steps)
                except StopIteration as end:
                    running.remove((copy, steps))
                    free.append(copy)
                    yield end.value
            time.sleep(POLL_SECONDS)
    finally:
        for _, steps in running:
            steps.close()


def tested(copy: Path, tests: Sequence[str], limit: float) -> Job[Answer]:
    """The answer of test files that run in a child. It yields while it waits. A test may take at most `limit` seconds.

    The child's process group is killed at the end, together with everything that the tests started.
    """
    temporary = copy.with_name(f"{copy.name}_temporary")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    pulse = temporary / "pulse"  # changed after each test
    pulse.touch()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _run_in_child(copy, tests, temporary)
    try:
        while not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if time.time() - pulse.stat().st_mtime > limit:
                return Answer(tests[0], f"no answer within {limit:.0f} s", late=True)
            yield
        return _read_answer(temporary, tests)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)  # it may not have its own group yet
        os.waitpid(child, 0)


def _read_answer(temporary: Path, tests: Sequence[str]) -> Answer:
    path = temporary / "answer.json"
    if not path.exists():
        return Answer(tests[0], "the process ended without an answer")
    answer = json.loads(path.read_text(encoding="utf-8"))
    if "error" in answer:
        raise RuntimeError(f"{answer['error']}\n{(temporary / 'log').read_text(errors='replace')[-3000:]}")
    return Answer(**answer)


def _run_in_child(copy: Path, tests: Sequence[str], temporary: Path) -> NoReturn:
    """Run pytest, write answer.json, and end the process without the parent's exit handlers."""
    try:
        os.setpgid(0, 0)
        resource.setrlimit(resource.RLIMIT_DATA, (MAX_MEMORY_GB << 30,) * 2)
        _redirect(temporary / "log")
        _enter(copy, temporary)
        answer = asdict(_pytest(copy, tests, temporary))
    except BaseException as error:
        traceback.print_exc()
        answer = {"error": f"{type(error).__name__}: {error}"}
    try:
        partial = temporary / "answer.partial"
        partial.write_text(json.dumps(answer), encoding="utf-8")
        partial.rename(temporary / "answer.json")
    finally:
        os._exit(0)


def _redirect(log: Path) -> None:
    """Send all output to a file, and give no input."""
    output, nothing = os.open(log, os.O_WRONLY | os.O_CREAT), os.open(os.devnull, os.O_RDONLY)
    for number, source in ((0, nothing), (1, output), (2, output)):
        os.dup2(source, number)


def _enter(copy: Path, temporary: Path) -> None:
    """Make this process and its children import from the copy first."""
    os.chdir(copy)
    scripts = str(Path(__file__).resolve().parent)
    sys.path[:] = [str(copy), *(path for path in sys.path if path != scripts)]
    sys.argv[:] = ["pytest"]
    sys.modules["__main__"] = ModuleType("__main__")  # or processes that tests start would import this script
    os.environ |= {"PYTHONPATH": str(copy), "TMPDIR": str(temporary)}
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # their import takes longer than most tests
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(copy.parent / "inductor"))  # shared by all runs
    tempfile.tempdir = None
    importlib.invalidate_caches()
    for package in packages(copy):
        if package in sys.modules:
            raise RuntimeError(f"{package} was imported before the fork")
        origin = importlib.util.find_spec(package).origin
        if not Path(origin).is_relative_to(copy):
            raise RuntimeError(f"{package} is imported from {origin}, not from the copy")


def packages(folder: Path) -> list[str]:
    """The names of the packages in a folder."""
    return [path.parent.name for path in sorted(folder.glob("*/__init__.py"))]


def _pytest(copy: Path, tests: Sequence[str], temporary: Path) -> Answer:
    """The answer of tests that run in this process. Raises `RuntimeError` if the project came from elsewhere."""
    import pytest

    recorder = _Recorder(tests, temporary / "pulse")
    code = pytest.main([*OPTIONS, "--basetemp", str(temporary / "pytest"), *tests], plugins=[recorder])
    own = set(packages(copy))
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name.partition(".")[0] in own and file and not Path(file).is_relative_to(copy):
            raise RuntimeError(f"{name} was imported from {file}, not from the copy")
    failed = None if code == 0 else recorder.failed or tests[0]
    reason = recorder.reason if recorder.failed else f"pytest's exit code {int(code)}"
    return Answer(failed, reason if failed else None, recorder.seconds, recorder.longest)


class _Recorder:
    """A pytest plugin: the first failure, the seconds of each file, and a touch of `pulse` after each test."""

    def __init__(self, tests: Sequence[str], pulse: Path):
        self.failed: str | None = None
        self.reason: str | None = None
        self.seconds, self.longest = dict.fromkeys(tests, 0.0), dict.fromkeys(tests, 0.0)
        self.pulse = pulse

    def pytest_runtest_logreport(self, report: Any) -> None:
        file = report.nodeid.partition("::")[0]
        self.seconds[file] += report.duration
        self.longest[file] = max(self.longest[file], report.duration)
        self.pulse.touch()
        self._note(report)

    def pytest_collectreport(self, report: Any) -> None:
        self._note(report)

    def _note(self, report: Any) -> None:
        if report.failed and self.failed is None:
            lines = report.longreprtext.splitlines() or [""]
            errors = [line[1:].strip() for line in lines if line.startswith("E ")]
            self.failed, self.reason = report.nodeid, (errors or lines[-1:])[0][:300]
