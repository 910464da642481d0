"""Figures on the structure of the code, as JSON: lines of each room, functions, branches, and the path of a scan.

    python benchmarks/structure.py [--source DIR] [--scan FILE --model FOLDER]

With a scan and a trained model it runs `tds_predict` in this process. It counts the project's functions that receive
the scan or data derived from it: its path, an array, a tensor, or a record with one. `--source` is another checkout
to compare with.
"""

import argparse
import ast
import contextlib
import io
import json
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import FrameType

PACKAGES = ("plans", "textdiffseg", "textdiffseg_cli")
BRANCH = re.compile(r"\bregions is (not )?None\b|\bif (self\.)?(plan|dataset)\.regions\b|\boverlapping\b")
MIN_VALUES = 1000  # of an array that counts as data of a scan
RECORDS = {  # types that hold a scan or data derived from it
    "Volume", "Geometry", "TransformRecord", "Prediction", "ScanResult",
    "Distribution", "Result", "_Volume", "_Windows", "_Sums", "Tiling",
    "Manifest", "Request",
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, default=Path(__file__).resolve().parent.parent, metavar="DIR")
    parser.add_argument("--scan", type=Path, metavar="FILE", help="one scan to predict")
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="a trained model")
    args = parser.parse_args()
    files = [path for package in PACKAGES for path in sorted((args.source / package).rglob("*.py"))]
    report = {"benchmark": "structure", "lines": lines(files, args.source), **functions(files)}
    report["branches_on_overlapping_labels"] = branches(files, args.source)
    if args.scan and args.model:
        sys.path.insert(0, str(args.source))
        report["scan's way"] = way(args.source, args.scan, args.model)
    print(json.dumps(report, indent=1))
    return 0


def room(path: Path, source: Path) -> str:
    """The room of a file, e.g. `textdiffseg/data`, else its package."""
    parts = path.relative_to(source).parts
    return "/".join(parts[:2]) if len(parts) > 2 else parts[0]


def lines(files: list[Path], source: Path) -> dict[str, int]:
    """The number of lines of each room."""
    counts: Counter[str] = Counter()
    for path in files:
        counts[room(path, source)] += len(path.read_text(encoding="utf-8").splitlines())
    return {"all": sum(counts.values()), **dict(sorted(counts.items()))}


def functions(files: list[Path]) -> dict[str, object]:
    """The number of functions, and the longest one."""
    found = [
        (node.end_lineno - node.lineno + 1, f"{path.name}: {node.name}")
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    over = sum(length > 50 for length, _ in found)
    return {"functions": len(found), "functions_over_50_lines": over, "longest_function": max(found)}


def branches(files: list[Path], source: Path) -> dict[str, int]:
    """The number of lines in each room that branch on overlapping labels."""
    counts: Counter[str] = Counter()
    for path in files:
        code = [line.partition("#")[0] for line in path.read_text(encoding="utf-8").splitlines()]
        counts[room(path, source)] += sum(BRANCH.search(line) is not None for line in code)
    return {"all": sum(counts.values()), **{name: count for name, count in sorted(counts.items()) if count}}


def way(source: Path, scan: Path, model: Path) -> dict[str, object]:
    """The functions and files that a scan passes through from `tds_predict -i` to its mask."""
    from textdiffseg_cli import predict

    passed: set[tuple[str, str]] = set()
    folders = tuple(str(source / package) for package in PACKAGES)

    def trace(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(folders) and not code.co_name.startswith("<"):
            names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
            if any(carries(frame.f_locals.get(name), scan) for name in names):
                passed.add((code.co_filename, code.co_qualname))

    with tempfile.TemporaryDirectory() as out, contextlib.redirect_stdout(io.StringIO()):
        sys.setprofile(trace)
        try:
            code = predict.main(["-i", str(scan), "-o", out, "-m", str(model), "--device", "cpu"])
        finally:
            sys.setprofile(None)
    assert code == 0, "the prediction failed"
    files = sorted({str(Path(file).relative_to(source)) for file, _ in passed})
    return {"functions": len(passed), "files": len(files), "names": sorted(name for _, name in passed)}


def carries(value: object, scan: Path) -> bool:
    """Whether an argument is the scan or holds data derived from it."""
    if isinstance(value, Path):
        return value == scan
    if isinstance(value, tuple | list):
        return any(carries(item, scan) for item in value[:4])
    if type(value).__name__ in RECORDS:
        return True
    size = getattr(value, "size", None) if hasattr(value, "dtype") else None
    count = value.numel() if hasattr(value, "numel") else size if isinstance(size, int) else 0
    return count >= MIN_VALUES


if __name__ == "__main__":
    sys.exit(main())
