"""Runs of the tests on planted bugs.

Each copy of the source tree holds one bug at a time. The tests run in stages, and the first failing test ends them.
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from compileall import compile_dir
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import NamedTuple

from forking import Job, in_turns, packages, preload, tested
from mutating import Mutation
from mutation_results import CAUGHT, NOT_RUN, SURVIVED, TIMEOUT, Result, keep, log

NETWORK_USERS = tuple(
    f"tests/textdiffseg/{name}"
    for name in ("training/test_objectives.py", "training/test_wiring_step.py", "training/test_paper.py")
)
# tests outside the mirrored folder that run a folder's code
EXTRA_TESTS = {"textdiffseg/networks": NETWORK_USERS, "textdiffseg/diffusion": NETWORK_USERS}
END_TO_END = ("tests/test_golden.py",)
LAST = "tests/test_accuracy_floor.py"
MIN_LIMIT_SECONDS, LIMIT_FACTOR = 60.0, 5.0  # a test's time limit; the factor applies to the stage's slowest test
MAX_BASELINE_SECONDS = 1200.0  # of one test on the unchanged copy
MAX_NEIGHBOUR_SECONDS = 20.0  # of a test file that runs before the end-to-end tests
NOT_COPIED = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", ".hypothesis", "demo", "*.egg-info")


class Times(NamedTuple):
    """Seconds by test file on the unchanged source."""

    total: dict[str, float]
    longest: dict[str, float]  # of its slowest test or fixture


def stages(
    repository: Path, module: str, seconds: Mapping[str, float], without: Collection[str] = ()
) -> list[list[str]]:
    """The test files for a module, one list per stage. Within a stage, the fastest file comes first (`seconds`).

    The stages: the module's own tests; its folder's tests with `EXTRA_TESTS`; the end-to-end tests; the folder's slow
    tests; `LAST`. The tests of a/b/c.py are tests/a/b/test_c.py and its neighbours. Missing files are left out.
    """
    path = Path(module)
    folder = repository / "tests" / path.parent
    own = folder / f"test_{path.stem}.py"
    neighbours = [file.relative_to(repository).as_posix() for file in folder.glob("test_*.py") if file != own]
    neighbours += EXTRA_TESTS.get(path.parent.as_posix(), ())
    quick = [file for file in neighbours if seconds.get(file, 0.0) <= MAX_NEIGHBOUR_SECONDS]
    slow = sorted(set(neighbours) - set(quick))
    planned = [[own.relative_to(repository).as_posix()], quick, END_TO_END, slow, [LAST]]
    existing = [[file for file in files if (repository / file).is_file() and file not in without] for files in planned]
    return [sorted(files, key=lambda file: (seconds.get(file, 0.0), file)) for files in existing if files]


def run(mutations: list[Mutation], args: argparse.Namespace, clock: float) -> Iterator[Result]:
    """The result of each mutation, in the order in which they finish.

    Raises `RuntimeError` if the tests fail on the unchanged source.
    """
    if not mutations:
        return
    preload(args.preload)
    deadline = clock + 60 * args.minutes
    with tempfile.TemporaryDirectory(prefix="mutations_") as temporary:
        copies = [copied(args.repository, Path(temporary) / str(number)) for number in range(args.processes)]
        os.environ.setdefault("TDS_SHARED_DATA", str(args.repository.parent / "shared" / "data"))
        without = frozenset(args.without)
        modules = sorted({mutation.file for mutation in mutations})
        times = baseline(copies, args.repository, modules, deadline, without)
        left = {mutation.key: mutation for mutation in mutations}
        jobs = (
            partial(judge, mutation=mutation, repository=args.repository, times=times, without=without)
            for mutation in mutations
        )
        for done, result in enumerate(in_turns(jobs, copies, deadline), start=1):
            del left[result.mutation.key]
            keep(result, args.output)
            location = f"{result.mutation.file}:{result.mutation.line}"
            log(f"{done}/{len(mutations)} {result.outcome} in {result.seconds:.1f} s: {location}, by {result.by}")
            yield result
    for mutation in left.values():
        yield Result(mutation, NOT_RUN)


def copied(repository: Path, copy: Path) -> Path:
    """A compiled copy of the repository. Compiled files are matched to the source by hash, not by time."""
    shutil.copytree(repository, copy, ignore=NOT_COPIED)
    for package in packages(copy):
        compile_dir(copy / package, quiet=1, invalidation_mode=PycInvalidationMode.CHECKED_HASH)
    return copy


def baseline(
    copies: list[Path], repository: Path, modules: list[str], deadline: float, without: frozenset[str] = frozenset()
) -> Times:
    """Seconds by test file on the unchanged source. Raises `RuntimeError` if a test fails or a module has no tests."""
    by_folder: dict[str, list[str]] = {}
    for module in modules:
        if not (plan := stages(repository, module, {}, without)):
            raise RuntimeError(f"{module} has no tests")
        for file in chain.from_iterable(plan):
            folder = str(Path(file).parent)
            by_folder.setdefault(file if folder == "tests" else folder, []).append(file)
    runs = sorted((sorted(set(files)) for files in by_folder.values()), key=len, reverse=True)
    times = Times({}, {})
    jobs = (partial(tested, tests=files, limit=MAX_BASELINE_SECONDS) for files in runs)
    for answer in in_turns(jobs, copies, deadline):
        if answer.failed is not None:
            raise RuntimeError(f"the tests fail on the unchanged source: {answer.failed}: {answer.reason}")
        times = Times(times.total | answer.seconds, times.longest | answer.longest)
        log("unchanged: " + ", ".join(f"{file} {seconds:.1f} s" for file, seconds in answer.seconds.items()))
    if missing := set(chain(*runs)) - set(times.total):
        raise RuntimeError(f"no time left to run on the unchanged source: {', '.join(sorted(missing))}")
    return times


def judge(
    copy: Path, mutation: Mutation, repository: Path, times: Times, without: frozenset[str] = frozenset()
) -> Job[Result]:
    """The result of one mutation: the stages run on a changed copy until a test fails."""
    clock = time.monotonic()
    with changed(copy, mutation):
        for files in stages(repository, mutation.file, times.total, without):
            limit = max(MIN_LIMIT_SECONDS, LIMIT_FACTOR * max(times.longest[file] for file in files))
            answer = yield from tested(copy, files, limit)
            if answer.failed is not None:
                outcome = TIMEOUT if answer.late else CAUGHT
                return Result(mutation, outcome, answer.failed, answer.reason, time.monotonic() - clock)
    return Result(mutation, SURVIVED, seconds=time.monotonic() - clock)


@contextmanager
def changed(copy: Path, mutation: Mutation) -> Iterator[None]:
    """Apply the mutation to the copy inside the context, and undo it afterwards."""
    path = copy / mutation.file
    source = path.read_bytes()
    path.write_bytes(mutation.apply(source))
    try:
        yield
    finally:
        path.write_bytes(source)
