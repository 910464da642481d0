"""Work over cases: order, names in errors, errors of all cases together, and workers with one thread."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from types import SimpleNamespace

import pytest

from plans.errors import UserError
from textdiffseg import resources
from textdiffseg.execution import background_executor, run_cases
from textdiffseg.resources import cores, default_workers

NAMES = [f"case_{number}" for number in range(6)]


def squared(number: int) -> int:
    time.sleep(0.01 * (6 - number))  # the last are done first
    return number * number


def picky(number: int) -> int:
    if number in (1, 4):
        raise UserError(f"first fault of {number}.", f"second fault of {number}.")
    return number


def broken(number: int, at: int) -> int:
    return 1 // (number - at)


def killed(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def threads(_: int) -> tuple[str | None, str | None]:
    return os.environ.get("OMP_NUM_THREADS"), os.environ.get("OPENBLAS_NUM_THREADS")


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_results_come_in_order(workers):
    assert list(run_cases(squared, range(6), NAMES, workers)) == [0, 1, 4, 9, 16, 25]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_user_errors_of_all_cases_are_raised_together_after_the_results(workers):
    results = []
    with pytest.raises(UserError) as caught:
        results.extend(run_cases(picky, range(6), NAMES, workers))
    assert results == [0, 2, 3, 5]
    assert caught.value.lines == (
        "case case_1: first fault of 1.",
        "case case_1: second fault of 1.",
        "case case_4: first fault of 4.",
        "case case_4: second fault of 4.",
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unexpected_error_names_its_case(workers):
    with pytest.raises(ZeroDivisionError) as caught:
        list(run_cases(partial(broken, at=3), range(6), NAMES, workers))
    assert caught.value.__notes__ == ["while working on case case_3"]


def test_a_killed_worker_is_explained():
    with pytest.raises(UserError, match=r"killed .* fewer than --workers 2"):
        list(run_cases(killed, range(6), NAMES, 2))


def gone(number: int) -> int:
    return len(open(f"/nowhere/scan_{number}.nii.gz").read()) if number == 3 else number


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_vanished_is_a_fault_of_its_case_and_the_others_go_on(workers):
    results = []
    with pytest.raises(UserError, match=r"case_3: /nowhere/scan_3.nii.gz: No such file.*Restore it") as error:
        results.extend(run_cases(gone, range(6), NAMES, workers))
    assert results == [0, 1, 2, 4, 5]
    assert len(error.value.lines) == 1


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_beside_the_work_is_explained():
    with (
        pytest.raises(UserError, match="process that encodes the words was killed"),
        background_executor(None) as beside,
    ):
        beside.submit(kill_itself).result(60)


def test_a_killed_fork_server_is_explained(monkeypatch):
    def refused(fds):
        raise EOFError("unexpected EOF")

    monkeypatch.setattr("multiprocessing.forkserver.connect_to_new_process", refused)
    with pytest.raises(UserError, match=r"killed before the work began.*fewer than --workers 2"):
        list(run_cases(squared, range(6), NAMES, 2))


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_do_not_run_a_script_without_a_guard_again(workers, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        f"from textdiffseg.execution import background_executor, run_cases\n"
        f"print(list(run_cases(abs, [-1, -2], ['a', 'b'], {workers})))\n"
        f"with background_executor(None) as beside:\n"
        f"    print(beside.submit(abs, -3).result())\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("[1, 2]\n3\n", "")


SLOW_START = """
import pathlib, sys, time
if any("forkserver import" in argument or "spawn_main" in argument for argument in sys.orig_argv):
    pathlib.Path("started").touch()
    time.sleep(1)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
@pytest.mark.parametrize(
    "start",
    ["warm_up('math')", "kept = background_executor(1); kept.__enter__()"],
    ids=["fork server", "process beside the work"],
)
def test_ctrl_c_while_processes_start_leaves_no_traceback_of_theirs(start, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(SLOW_START)
    code = f"""
import os, signal, time
from textdiffseg.execution import background_executor, warm_up
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background processes ignore it
{start}
while not os.path.exists("started"):
    time.sleep(0.01)
try:
    os.killpg(os.getpgrp(), signal.SIGINT)
    time.sleep(10)
except KeyboardInterrupt:
    print("interrupted")
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        timeout=60,
        start_new_session=True,
    )
    assert (done.stdout, done.stderr) == ("interrupted\n", "")


def test_workers_have_one_thread_and_the_parent_keeps_its_own():
    before = dict(os.environ)
    assert set(run_cases(threads, range(4), NAMES[:4], 2)) == {("1", "1")}
    assert dict(os.environ) == before


def test_no_items_give_no_results():
    assert list(run_cases(squared, [], [], 2)) == []


def test_workers_fit_the_memory():
    assert default_workers(1) == cores()
    assert default_workers(1e15) == 1


@pytest.fixture
def contain(tmp_path, monkeypatch):
    """A function that puts this process into a container: 16 cores, and control groups of these files."""

    def contain(files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
        monkeypatch.setattr(resources, "CONTROL_GROUP", tmp_path)
        monkeypatch.setattr(resources.os, "sched_getaffinity", lambda _: range(16), raising=False)

    return contain


@pytest.mark.parametrize(
    "files",
    [
        {
            "cpu.max": "150000 100000",
            "memory.max": "3000000000",
            "memory.current": "2500000000",
            "memory.stat": "anon 1\ninactive_file 700000000\nactive_file 5",
        },
        {
            "cpu/cpu.cfs_quota_us": "150000",
            "cpu/cpu.cfs_period_us": "100000",
            "memory/memory.limit_in_bytes": "3000000000",
            "memory/memory.usage_in_bytes": "2500000000",
            "memory/memory.stat": "cache 1\ntotal_inactive_file 700000000",
        },
    ],
)
def test_a_container_s_limits_are_respected(contain, files):
    contain(files)
    assert resources.cores() == 2
    assert resources.free_memory() == 1.2e9
    assert resources.default_workers(0.4e9) == 2


@pytest.mark.parametrize(
    "files",
    [
        {"cpu.max": "max 100000", "memory.max": "max"},
        {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
        {},
    ],
)
def test_without_limits_the_machine_s_cores_and_memory_count(contain, monkeypatch, files):
    contain(files)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=5e9))
    assert resources.cores() == 16
    assert resources.free_memory() == 5e9


def test_a_scheduler_needs_dask_or_an_address_that_answers():
    with pytest.raises(UserError, match="--scheduler"):
        list(run_cases(squared, range(2), NAMES[:2], 2, scheduler="tcp://127.0.0.1:1"))


SLEEPER = """
import os, time
def nap(_):
    os.write(1, f"{os.getpid()}\\n".encode())  # in one piece, whatever the other writes
    time.sleep(60)
"""
SLEEPERS = """
from sleeper import nap
from textdiffseg.execution import run_cases
list(run_cases(nap, range(2), ["a", "b"], 2))
"""


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_workers_end_with_a_killed_parent(tmp_path):
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    parent = subprocess.Popen([sys.executable, "-c", SLEEPERS], cwd=tmp_path, stdout=subprocess.PIPE, encoding="utf-8")
    workers = [int(parent.stdout.readline()) for _ in range(2)]
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(_alive(worker) for worker in workers):
        time.sleep(0.05)
    assert not any(_alive(worker) for worker in workers)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
