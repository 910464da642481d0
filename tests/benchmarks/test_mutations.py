"""Planted bugs in a tiny package: its test notices some of them and cannot notice others."""

import ast
import json
import os
import subprocess
import sys

import psutil
import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")

SOURCE = '''"""A module; 1 < 2."""

from typing import Literal

MOST = 3  # a constant


def clipped(value: int, low: Literal[0] = 0, *, high: int = MOST) -> int:
    """`value` + 1 - 1."""
    if value < low:
        return low
    return min(value, high)


class Sum:
    """Adds up."""

    def __init__(self):
        self.total = 0

    def add(self, value: int) -> None:
        if not isinstance(value, int) or value < -10:
            raise ValueError(f"{value + 1} is " "wrong" + f"{2}")
        self.total += value


def unused(value: int) -> int:
    """No test calls it."""
    return value * 2
'''
TESTS = """import pytest
from tiny.room.sums import Sum, clipped

def test_clipped():
    assert [clipped(value) for value in (-2, -1, 0, 1, 2, 3, 4, 5)] == [0, 0, 0, 1, 2, 3, 3, 3]

def test_sum():
    one = Sum()
    one.add(2)
    one.add(-10)
    assert one.total == -8
    for wrong in (-11, 0.5):
        with pytest.raises(ValueError, match="is wrong"):
            one.add(wrong)
"""
FATAL = ("self.total += value", "self.total -= value")
EQUIVALENT = ("if value < low:", "if value <= low:")


@pytest.fixture
def tiny(tmp_path):
    """A repository of one package with one room."""
    root = tmp_path / "repository"
    for path, text in {
        "tiny/__init__.py": "",
        "tiny/room/__init__.py": "",
        "tiny/room/sums.py": SOURCE,
        "tests/tiny/room/test_sums.py": TESTS,
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


@pytest.fixture
def call(repository, tiny):
    """A function that runs the script on the tiny repository."""

    def run(*options, code=0, env=None, preload=("pytest",)):
        script = repository / "benchmarks" / "mutations.py"
        call = [sys.executable, script, "--repository", tiny, *options, "--preload", *preload]
        done = subprocess.run(
            list(map(str, call)), capture_output=True, encoding="utf-8", check=False, env=os.environ | (env or {})
        )
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout) if code == 0 else done.stderr

    return run


def test_bugs_in_tested_lines_are_caught_and_others_survive(call, tiny, tmp_path):
    output = tmp_path / "results.jsonl"
    found = call("--rooms", "tiny", "--count", 500, "--output", output)
    by_text = {(one["before"], one["after"]): one for one in found["mutants"]}
    assert found["count"] == len(by_text) == len(output.read_text().splitlines())
    fatal, equivalent = by_text[FATAL], by_text[EQUIVALENT]
    assert (fatal["outcome"], equivalent["outcome"]) == ("caught", "survived")
    assert (fatal["function"], fatal["operator"], fatal["line"]) == ("Sum.add", "arithmetic", 24)
    assert fatal["by"] == "tests/tiny/room/test_sums.py::test_sum"
    assert "-8" in fatal["reason"]
    survivors = {(one["function"], one["before"]) for one in found["survivors"]}
    assert all(one["outcome"] == "survived" for one in found["mutants"] if one["function"] == "unused")
    assert {function for function, _ in survivors} <= {"unused", "clipped", "Sum.add"}
    assert found["share"] == pytest.approx(found["caught"] / found["count"], abs=1e-3)
    assert (tiny / "tiny" / "room" / "sums.py").read_text() == SOURCE

    (tiny / "tiny" / "room" / "sums.py").write_text("\n\n" + SOURCE)
    again = call("--only-survivors", output)
    assert {(one["function"], one["before"]) for one in again["mutants"]} == survivors
    assert again["caught"] == 0


def test_an_interrupted_run_resumes(call, tmp_path):
    output = tmp_path / "results.jsonl"
    options = ("--rooms", "tiny/room/sums.py", "--count", 6, "--processes", 1, "--output", output)
    whole = call(*options)
    lines = output.read_text().splitlines()
    output.write_text("\n".join(lines[:4]) + "\n")
    resumed = call(*options, "--resume")
    assert len(output.read_text().splitlines()) == 6
    for one in (*whole["mutants"], *resumed["mutants"]):
        del one["seconds"]
    assert resumed["mutants"] == whole["mutants"]


def test_no_time_left_is_not_a_success(call):
    assert "no time left" in call("--rooms", "tiny", "--minutes", 0, code=2)


def test_failing_tests_and_missing_rooms_end_the_run(call, tiny):
    assert "neither a source file nor a folder" in call("--rooms", "tiny/cellar", code=2)
    (tiny / "tests/tiny/room/test_sums.py").write_text("def test_wrong():\n    assert 1 == 2\n")
    assert "fail on the unchanged source" in call("--rooms", "tiny", code=2)


def test_a_package_that_is_imported_already_ends_the_run(call, tiny):
    message = call("--rooms", "tiny", code=2, env={"PYTHONPATH": str(tiny)}, preload=("pytest", "tiny"))
    assert "tiny was imported before the fork" in message


def test_tests_that_hang_are_stopped_with_what_they_started(repository, tiny, tmp_path):
    started = tmp_path / "pid"
    (tiny / "tests" / "test_hang.py").write_text(
        "import pathlib, subprocess, time\n"
        "def test_hang():\n"
        f"    pathlib.Path({str(started)!r}).write_text(str(subprocess.Popen(['sleep', '60']).pid))\n"
        "    time.sleep(60)\n"
    )
    code = (
        "import pathlib, time; from forking import in_turns, preload, tested; preload(['pytest'])\n"
        f"job = lambda copy: tested(copy, ['tests/test_hang.py'], 6)\n"
        f"print(next(in_turns([job], [pathlib.Path({str(tiny)!r})], time.monotonic() + 60)).late)"
    )
    env = os.environ | {"PYTHONPATH": str(repository / "benchmarks")}
    assert subprocess.check_output([sys.executable, "-c", code], env=env, encoding="utf-8").strip() == "True"
    pid = int(started.read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_only_code_that_runs_is_changed(benchmark):
    mutating = benchmark("mutating")
    source = SOURCE.encode()
    found = mutating.sites(source, "sums.py")
    changed = {one.before for one in found}
    assert not [line for line in changed if '"""' in line or "import" in line or "Literal[1]" in line]
    assert [one.after for one in found if "ValueError" in one.before] == ["pass", "pass"]  # the `if`, the `raise`
    assert {one.operator for one in found} == {
        "comparison",
        "arithmetic",
        "boolean",
        "constant",
        "deletion",
        "arguments",
    }
    assert {one.function for one in found} == {"<module>", "clipped", "Sum.__init__", "Sum.add", "unused"}
    for one in found:
        assert ast.dump(ast.parse(one.apply(source))) != ast.dump(ast.parse(source))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("(a)  # not <\n < (b)", "(a)  # not <\n <= (b)"),
        ("a is  not b", "a is b"),
        ("not (a and b)", "(a and b)"),
        ("not (a and b)", "not (a or b)"),
        ("'ß' in (a, -b)", "'ß' in (a, +b)"),
        ("a[1:]", "a[2:]"),
        ("f((a + 1), b=2)", "f((a - 1), b=2)"),
        ("f((a), b)", "f((b), a)"),
        ("f(a=b, c=d)", "f(a=d, c=b)"),
        ("a // b", "a * b"),
        ("0.5", "1.5"),
        ("True", "False"),
    ],
)
def test_one_place_changes(benchmark, before, after):
    source = f"x = ({before})\n".encode()
    changed = [one.apply(source).decode() for one in benchmark("mutating").sites(source, "x.py")]
    assert f"x = ({after})\n" in changed


def test_the_draw_is_a_function_of_the_seed_and_reaches_every_function(benchmark):
    draw = benchmark("mutating").draw
    sources = {"long.py": b"a = [" + b"1, " * 50 + b"]\n", "sums.py": SOURCE.encode()}
    drawn = draw(sources, 40, 0)
    assert drawn == draw(sources, 40, 0) != draw(sources, 40, 1)
    assert len({one.key for one in drawn}) == 40
    assert {one.function for one in drawn} == {"<module>", "clipped", "Sum.__init__", "Sum.add", "unused"}


def test_the_known_bugs_fit_the_source(benchmark, repository):
    found = benchmark("mutations").known_mutations(repository)
    assert len(found) == 25
    for one in found:
        assert benchmark("mutating").changes_meaning(one, (repository / one.file).read_bytes()), one.operator


def test_excused_changes_are_listed_apart_and_not_counted(benchmark, monkeypatch):
    results = benchmark("mutation_results")
    first, second = benchmark("mutating").sites(b"a = 2\n", "a.py")
    entry = benchmark("known_mutations").Excused("a.py", first.before, first.after, "no reason")
    monkeypatch.setattr(results, "EXCUSED", (entry,))
    listed = results.excused([first, second])
    assert list(listed) == [first.key]
    caught = results.Result(second, results.CAUGHT).record()
    report = results.report([*listed.values(), caught], 0, 60.0)
    assert (report["count"], report["caught"], report["excused"], report["share"]) == (2, 1, 1, 1.0)
    assert [one["reason"] for one in report["excused_mutants"]] == ["no reason"]


def test_the_nearest_tests_run_first_and_slow_ones_late(benchmark, tmp_path):
    for name in ("a/test_own.py", "a/test_quick.py", "a/test_slow.py", "test_golden.py", "test_accuracy_floor.py"):
        (tmp_path / "tests" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tests" / name).touch()
    seconds = {"tests/a/test_slow.py": 99.0, "tests/a/test_own.py": 99.0}
    order = benchmark("mutation_runs").stages(tmp_path, "a/own.py", seconds)
    assert [file.removeprefix("tests/") for (file,) in order] == [
        "a/test_own.py",
        "a/test_quick.py",
        "test_golden.py",
        "a/test_slow.py",
        "test_accuracy_floor.py",
    ]
    quick = [["tests/a/test_own.py", "tests/a/test_quick.py"], ["tests/test_golden.py"]]
    assert (
        benchmark("mutation_runs").stages(tmp_path, "a/other.py", seconds | {"tests/a/test_own.py": 0.0})[:2] == quick
    )
