"""Do the tests notice a wrong line? Random one-line bugs are planted one at a time, and the tests run on each bug.

    python benchmarks/mutations.py [--seed 0] [--count 120] [--minutes 60] [--processes 2]
        [--known | --only-survivors FILE] [--output FILE [--resume]]

This process imports the third-party libraries once and forks a child for each run of tests. The child imports the
library from a copy of the source tree in which one place is changed. The tests run in stages; the most likely to fail
come first, and the first failure ends the run. Before that, every stage must pass on the unchanged copy.

Prints JSON: the share of caught bugs, and for each bug the changed line, its outcome and the failed test.
"""

import argparse
import json
import sys
import time
from itertools import chain
from pathlib import Path

from known_mutations import KNOWN, Known
from mutating import Mutation, draw, edit, function_at, read_sources, sites
from mutation_results import SURVIVED, excused, log, recorded, report
from mutation_runs import run

REPOSITORY = Path(__file__).resolve().parent.parent
ROOMS = tuple(
    f"textdiffseg/{room}"
    for room in (
        *("training", "diffusion", "networks", "inference", "preprocessing", "data"),
        *("folds", "validation", "readout.py", "segmenter.py"),
    )
)
PRELOADED = (  # third-party libraries that the tests import
    *("numpy", "scipy.ndimage", "scipy.sparse", "pydantic", "torch", "torch.utils.data", "torch._dynamo"),
    *("safetensors.torch", "blosc2", "SimpleITK", "batchgeneratorsv2", "transformers", "huggingface_hub", "tqdm"),
    *("rich", "matplotlib.figure", "psutil", "filelock", "pytest", "hypothesis", "monai", "surface_distance"),
)


def main() -> int:
    args = parse()
    clock = time.monotonic()
    try:
        mutations = choose(args)
        kept = recorded(args.output) if args.resume else {}
        kept |= excused(mutations)
        todo = [mutation for mutation in mutations if mutation.key not in kept]
        kept |= {result.mutation.key: result.record() for result in run(todo, args, clock)}
    except (FileNotFoundError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 2
    records = [kept[mutation.key] for mutation in mutations]
    print(json.dumps(report(records, args.seed, time.monotonic() - clock), indent=1))
    return 0


def parse() -> argparse.Namespace:
    """The command line's options."""
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


def choose(args: argparse.Namespace) -> list[Mutation]:
    """The mutations that the options select. Raises `FileNotFoundError` or `RuntimeError` if one does not exist."""
    if args.known:
        return known_mutations(args.repository)
    if args.only_survivors is None:
        return draw(read_sources(args.repository, args.rooms), args.count, args.seed)
    return survivors(args.repository, args.only_survivors)


def survivors(repository: Path, path: Path) -> list[Mutation]:
    """The mutations that survived in a file of results, at their present lines. Missing lines are reported."""
    wanted = {key: record for key, record in recorded(path).items() if record["outcome"] == SURVIVED}
    files = sorted({file for file, *_ in wanted if (repository / file).is_file()})
    sources = read_sources(repository, files)
    possible = list(chain.from_iterable(sites(source, file) for file, source in sources.items()))
    names = {record["operator"] for record in wanted.values()}
    possible += [_known_mutation(repository, known) for known in KNOWN if known.name in names]
    found = {mutation.key: mutation for mutation in possible if mutation.key in wanted}
    for file, function, before, _ in sorted(set(wanted) - set(found)):
        log(f"{file}, {function}: this line is gone: {before}")
    return list(found.values())


def known_mutations(repository: Path) -> list[Mutation]:
    """The mutations in the table of known bugs. Raises `RuntimeError` if a text does not occur exactly once."""
    return [_known_mutation(repository, known) for known in KNOWN]


def _known_mutation(repository: Path, known: Known) -> Mutation:
    source = (repository / known.file).read_bytes()
    count, start = source.count(known.before.encode()), source.find(known.before.encode())
    if count != 1:
        raise RuntimeError(f"known_mutations.py, {known.name}: {count} times in {known.file}: {known.before}")
    function = function_at(source, 1 + source.count(b"\n", 0, start))
    end = start + len(known.before.encode())
    return edit(source, known.file, function, known.name, start, end, known.after)


if __name__ == "__main__":
    sys.exit(main())
