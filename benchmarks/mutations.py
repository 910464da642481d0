"""Do the tests notice a wrong line? Random one-line bugs are planted one at a time, and the tests run on each.

    python benchmarks/mutations.py [--seed 0] [--count 120] [--minutes 60] [--processes 2]
        [--known | --only-survivors FILE] [--output FILE [--resume]]

This process imports the third-party libraries once, and forks a child for each run of tests. A child imports the
library from a copy of the source tree, in which one place is changed. The tests run in stages, the likeliest first;
the first failing test ends them. Before that every stage runs on the unchanged copy and must pass.

Prints JSON: the share of caught bugs, and for each bug the changed line, its outcome and the test that failed.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from compileall import compile_dir
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import NamedTuple

from forking import Job, in_turns, packages, preload, tested
from known_mutations import EXCUSED, KNOWN, Known
from mutating import Mutation, draw, edit, function_at, read_sources, sites

REPOSITORY = Path(__file__).resolve().parent.parent
ROOMS = tuple(
    f"textdiffseg/{room}"
    for room in (
        *("training", "diffusion", "networks", "inference", "preprocessing", "data"),
        *("folds", "validation", "readout.py", "segmenter.py"),
    )
)
USERS = tuple(
    f"tests/textdiffseg/{name}"
    for name in ("training/test_objectives.py", "training/test_wiring_step.py", "training/test_paper.py")
)
ALSO = {"textdiffseg/networks": USERS, "textdiffseg/diffusion": USERS}  # tests elsewhere that call a folder's code
END_TO_END = ("tests/test_golden.py",)
LAST = "tests/test_accuracy_floor.py"
MIN_LIMIT_SECONDS, LIMIT_FACTOR = 60.0, 5.0  # a test must exceed this, and so many times a stage's slowest test
MAX_BASELINE_SECONDS = 1200.0  # of one test on the unchanged copy
MAX_NEIGHBOUR_SECONDS = 20.0  # of a test file that runs before the end-to-end tests
CAUGHT, SURVIVED, TIMEOUT, NOT_RUN, LISTED = "caught", "survived", "timeout", "not run", "excused"
OUTCOMES = (CAUGHT, SURVIVED, TIMEOUT, NOT_RUN, LISTED)
PRELOADED = (  # what tests of the library import, none of it the library itself
    *("numpy", "scipy.ndimage", "scipy.sparse", "pydantic", "torch", "torch.utils.data", "torch._dynamo"),
    *("safetensors.torch", "blosc2", "SimpleITK", "batchgeneratorsv2", "transformers", "huggingface_hub", "tqdm"),
    *("rich", "matplotlib.figure", "psutil", "filelock", "pytest", "hypothesis", "monai"),
)
NOT_COPIED = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", ".hypothesis", "demo", "*.egg-info")


@dataclass(frozen=True)
class Result:
    """The outcome of one mutation."""

    mutation: Mutation
    outcome: str
    by: str | None = None  # the test that failed
    reason: str | None = None  # the first line of its error, or why the mutation is excused
    seconds: float = 0.0

    def record(self) -> dict[str, object]:
        """One line of the report."""
        mutation = {name: getattr(self.mutation, name) for name in ("file", "line", "function", "operator")}
        texts = {"before": self.mutation.before, "after": self.mutation.after}
        found = {"outcome": self.outcome, "by": self.by, "reason": self.reason, "seconds": round(self.seconds, 1)}
        return mutation | texts | found


class Times(NamedTuple):
    """Seconds by test file on the unchanged source."""

    total: dict[str, float]
    longest: dict[str, float]  # of its slowest test or fixture


def main() -> int:
    args = parse()
    clock = time.monotonic()
    try:
        mutations = choose(args)
        kept = recorded(args.output) if args.resume else {}
        kept |= excused(mutations)
        todo = [one for one in mutations if one.key not in kept]
        kept |= {result.mutation.key: result.record() for result in run(todo, args, clock)}
    except (FileNotFoundError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 2
    records = [kept[one.key] for one in mutations]
    print(json.dumps(report(records, args.seed, time.monotonic() - clock), indent=1))
    return 0


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="of the choice of bugs (default: 0)")
    parser.add_argument("--count", type=int, default=120, metavar="N", help="bugs to plant (default: 120)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--known", action="store_true", help="plant the bugs of known_mutations.py instead")
    which.add_argument("--only-survivors", type=Path, metavar="FILE", help="plant those that survived in FILE instead")
    rooms = {"nargs": "+", "default": ROOMS, "metavar": "PATH"}
    parser.add_argument("--rooms", **rooms, help="files and folders to change (default: %(default)s)")
    parser.add_argument("--without", nargs="+", default=[], metavar="FILE", help="test files that are not run")
    parser.add_argument("--minutes", type=float, default=60.0, help="for everything (default: 60)")
    parser.add_argument("--processes", type=int, default=2, help="runs of tests at a time (default: 2)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="append each result to this file (JSON lines)")
    parser.add_argument("--resume", action="store_true", help="keep the results that --output holds already")
    parser.add_argument("--repository", type=Path, default=REPOSITORY, metavar="DIR", help="default: this one")
    libraries = {"nargs": "*", "default": PRELOADED, "metavar": "NAME"}
    parser.add_argument("--preload", **libraries, help="modules to import before forking (default: %(default)s)")
    args = parser.parse_args()
    args.repository = args.repository.resolve()
    if args.resume and args.output is None:
        parser.error("--resume needs --output")
    return args


# Which mutations


def choose(args: argparse.Namespace) -> list[Mutation]:
    """The mutations that are asked for. Raises `FileNotFoundError` or `RuntimeError` where one does not exist."""
    if args.known:
        return known_mutations(args.repository)
    if args.only_survivors is None:
        return draw(read_sources(args.repository, args.rooms), args.count, args.seed)
    return survivors(args.repository, args.only_survivors)


def survivors(repository: Path, path: Path) -> list[Mutation]:
    """The mutations that survived in a file of results, where their lines are now; those that are gone are reported."""
    wanted = {key: one for key, one in recorded(path).items() if one["outcome"] == SURVIVED}
    files = sorted({file for file, *_ in wanted if (repository / file).is_file()})
    sources = read_sources(repository, files)
    possible = list(chain.from_iterable(sites(source, file) for file, source in sources.items()))
    names = {one["operator"] for one in wanted.values()}
    possible += [_known_mutation(repository, one) for one in KNOWN if one.name in names]
    found = {one.key: one for one in possible if one.key in wanted}
    for file, function, before, _ in sorted(set(wanted) - set(found)):
        say(f"{file}, {function}: this line is gone: {before}")
    return list(found.values())


def known_mutations(repository: Path) -> list[Mutation]:
    """The table of known bugs. Raises `RuntimeError` where a text does not occur exactly once."""
    return [_known_mutation(repository, one) for one in KNOWN]


def _known_mutation(repository: Path, known: Known) -> Mutation:
    source = (repository / known.file).read_bytes()
    count, start = source.count(known.before.encode()), source.find(known.before.encode())
    if count != 1:
        raise RuntimeError(f"known_mutations.py, {known.name}: {count} times in {known.file}: {known.before}")
    function = function_at(source, 1 + source.count(b"\n", 0, start))
    end = start + len(known.before.encode())
    return edit(source, known.file, function, known.name, start, end, known.after)


def recorded(path: Path) -> dict[tuple[str, str, str, str], dict]:
    """The results in a file of JSON lines, by the mutation's key; of several the last. Those not run are left out."""
    if not path.exists():
        return {}
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    keys = ("file", "function", "before", "after")
    return {tuple(one[key] for key in keys): one for one in records if one["outcome"] != NOT_RUN}


# Which tests


def stages(
    repository: Path, module: str, seconds: Mapping[str, float], without: Collection[str] = ()
) -> list[list[str]]:
    """The test files for a module, a list a stage; `seconds` by file, where they are known, put the fastest first.

    The module's own tests, its folder's and those of `ALSO`, the end-to-end ones, the folder's slow ones, `LAST`.
    The tests of a/b/c.py are tests/a/b/test_c.py and its neighbours. Files that do not exist are left out.
    """
    path = Path(module)
    folder = repository / "tests" / path.parent
    own = folder / f"test_{path.stem}.py"
    neighbours = [file.relative_to(repository).as_posix() for file in folder.glob("test_*.py") if file != own]
    neighbours += ALSO.get(path.parent.as_posix(), ())
    quick = [file for file in neighbours if seconds.get(file, 0.0) <= MAX_NEIGHBOUR_SECONDS]
    slow = sorted(set(neighbours) - set(quick))
    wanted = [[own.relative_to(repository).as_posix()], quick, END_TO_END, slow, [LAST]]
    found = [[file for file in files if (repository / file).is_file() and file not in without] for files in wanted]
    return [sorted(files, key=lambda file: (seconds.get(file, 0.0), file)) for files in found if files]


# Running


def run(mutations: list[Mutation], args: argparse.Namespace, clock: float) -> Iterator[Result]:
    """The result of each mutation, as they come. Raises `RuntimeError` if the tests fail without any."""
    if not mutations:
        return
    preload(args.preload)
    deadline = clock + 60 * args.minutes
    with tempfile.TemporaryDirectory(prefix="mutations_") as temporary:
        copies = [copied(args.repository, Path(temporary) / str(number)) for number in range(args.processes)]
        os.environ.setdefault("TDS_SHARED_DATA", str(args.repository.parent / "shared" / "data"))
        without = frozenset(args.without)
        times = baseline(copies, args.repository, sorted({one.file for one in mutations}), deadline, without)
        left = {one.key: one for one in mutations}
        jobs = (
            partial(judged, mutation=one, repository=args.repository, times=times, without=without) for one in mutations
        )
        for done, result in enumerate(in_turns(jobs, copies, deadline), start=1):
            del left[result.mutation.key]
            keep(result, args.output)
            place = f"{result.mutation.file}:{result.mutation.line}"
            say(f"{done}/{len(mutations)} {result.outcome} in {result.seconds:.1f} s: {place}, by {result.by}")
            yield result
    for one in left.values():
        yield Result(one, NOT_RUN)


def copied(repository: Path, copy: Path) -> Path:
    """A copy of the repository, compiled; compiled files are matched to the source by its hash, not by its time."""
    shutil.copytree(repository, copy, ignore=NOT_COPIED)
    for package in packages(copy):
        compile_dir(copy / package, quiet=1, invalidation_mode=PycInvalidationMode.CHECKED_HASH)
    return copy


def baseline(
    copies: list[Path], repository: Path, modules: list[str], deadline: float, without: frozenset[str] = frozenset()
) -> Times:
    """Run the stages on the unchanged source. Raises `RuntimeError` where a test fails or there is none."""
    by_folder: dict[str, list[str]] = {}
    for module in modules:
        if not (plan := stages(repository, module, {}, without)):
            raise RuntimeError(f"{module} has no tests")
        for file in chain.from_iterable(plan):
            folder = str(Path(file).parent)
            by_folder.setdefault(file if folder == "tests" else folder, []).append(file)
    runs = sorted((sorted(set(files)) for files in by_folder.values()), key=len, reverse=True)  # the longest first
    times = Times({}, {})
    jobs = (partial(tested, tests=files, limit=MAX_BASELINE_SECONDS) for files in runs)
    for answer in in_turns(jobs, copies, deadline):
        if answer.failed is not None:
            raise RuntimeError(f"the tests fail on the unchanged source: {answer.failed}: {answer.reason}")
        times = Times(times.total | answer.seconds, times.longest | answer.longest)
        say("unchanged: " + ", ".join(f"{file} {seconds:.1f} s" for file, seconds in answer.seconds.items()))
    if missing := set(chain(*runs)) - set(times.total):
        raise RuntimeError(f"no time left to run on the unchanged source: {', '.join(sorted(missing))}")
    return times


def judged(
    copy: Path, mutation: Mutation, repository: Path, times: Times, without: frozenset[str] = frozenset()
) -> Job[Result]:
    """Run the stages on a changed copy until one fails."""
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
    """The copy with the mutation."""
    path = copy / mutation.file
    source = path.read_bytes()
    path.write_bytes(mutation.apply(source))
    try:
        yield
    finally:
        path.write_bytes(source)


# The report


def keep(result: Result, output: Path | None) -> None:
    """Append a result to the file, where there is one."""
    if output is not None:
        with output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result.record()) + "\n")


def report(records: list[dict], seed: int, seconds: float) -> dict[str, object]:
    """The figures and lists. A timeout counts as caught; what is excused or was not run does not count."""
    of = {outcome: [one for one in records if one["outcome"] == outcome] for outcome in OUTCOMES}
    caught, survived = len(of[CAUGHT]) + len(of[TIMEOUT]), len(of[SURVIVED])
    return {
        "benchmark": "mutations",
        "seed": seed,
        "count": len(records),
        "caught": caught,
        "survived": survived,
        "timeout": len(of[TIMEOUT]),
        "excused": len(of[LISTED]),
        "not_run": len(of[NOT_RUN]),
        "share": round(caught / (caught + survived), 3) if caught + survived else None,
        "minutes": round(seconds / 60, 1),
        "survivors": of[SURVIVED],
        "excused_mutants": of[LISTED],
        "mutants": records,
    }


def excused(mutations: list[Mutation]) -> dict[tuple[str, str, str, str], dict]:
    """The results of those in the table of excused changes, which are not run."""
    reasons = {(one.file, one.before, one.after): one.reason for one in EXCUSED}
    listed = [one for one in mutations if (one.file, one.before, one.after) in reasons]
    return {one.key: Result(one, LISTED, reason=reasons[one.file, one.before, one.after]).record() for one in listed}


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
