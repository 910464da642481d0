"""How a command ends: exit codes and what it says."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from plans.errors import UserError
from textdiffseg_cli.common import add_root, command, positive_float, positive_int, run, whole_number


def raiser(error: BaseException):
    def work():
        raise error

    return work


def test_a_command_that_worked_returns_0_or_its_own_code():
    assert run(lambda: None) == 0
    assert run(lambda value: value, 3) == 3


def test_user_errors_are_one_line_each_and_exit_with_2(capsys):
    assert run(raiser(UserError("first fault.", "second fault."))) == 2
    assert capsys.readouterr().err == "error: first fault.\nerror: second fault.\n"


def test_a_full_disk_is_said_with_the_file(capsys):
    assert run(raiser(OSError(errno.ENOSPC, "No space left on device", "results/x.safetensors"))) == 2
    told = capsys.readouterr().err
    assert "disk is full" in told
    assert "results/x.safetensors" in told
    assert "again" in told


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOTDIR])
def test_a_place_that_cannot_be_written_is_said(capsys, number):
    assert run(raiser(OSError(number, os.strerror(number), "out/x.nii.gz"))) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: out/x.nii.gz: {os.strerror(number)}.")
    assert told.count("\n") == 1


def test_a_gpu_whose_memory_is_full_is_said(capsys):
    import torch

    assert run(raiser(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))) == 2
    assert capsys.readouterr().err.startswith("error: The GPU is out of memory. Close")


@pytest.mark.parametrize(
    "error", [MemoryError("Unable to allocate 26 GiB"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_memory_that_is_full_is_said(capsys, error):
    assert run(raiser(error)) == 2
    assert capsys.readouterr().err.startswith("error: The memory is full. Close")


def test_other_errors_keep_their_traceback():
    with pytest.raises(OSError, match="No such file"):
        run(raiser(OSError(errno.ENOENT, "No such file", "x")))
    with pytest.raises(ZeroDivisionError):
        run(raiser(ZeroDivisionError()))
    with pytest.raises(RuntimeError, match="mismatch"):
        run(raiser(RuntimeError("shape mismatch")))


def test_interrupting_says_how_to_go_on(capsys):
    assert run(raiser(KeyboardInterrupt())) == 130
    assert "again" in capsys.readouterr().err


def test_sigterm_unwinds_so_that_files_get_closed():
    code = (
        "import os, signal, sys\n"
        "from textdiffseg_cli.common import run\n"
        "def work():\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        signal.pause()\n"
        "    finally:\n"
        "        print('closed', flush=True)\n"
        "sys.exit(run(work))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False, timeout=20)
    assert done.returncode == 143, done.stderr
    assert done.stdout == "closed\n"


def test_the_old_signal_handler_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    run(lambda: None)
    assert signal.getsignal(signal.SIGTERM) is before


def test_root_is_the_current_folder_by_default():
    parser = command("tds_test", "Tests.", "tds_test --root x")
    add_root(parser)
    assert os.path.samefile(parser.parse_args([]).root, ".")
    assert "tds_test --root x" in parser.format_help()


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [(positive_int, "3", "0"), (whole_number, "0", "-1"), (positive_float, "0.5", "nan"), (positive_float, "1", "inf")],
)
def test_numbers_out_of_range_are_refused_with_the_rule(capsys, kind, good, bad):
    parser = command("tds_test", "Tests.", "tds_test")
    parser.add_argument("--number", type=kind)
    assert parser.parse_args([f"--number={good}"]).number == float(good)
    with pytest.raises(SystemExit) as end:
        parser.parse_args([f"--number={bad}"])
    assert end.value.code == 2
    assert "expected" in capsys.readouterr().err


@pytest.mark.parametrize(("before", "after"), [(None, "AVX512_CORE_BF16"), ("AVX2", "AVX2")])
def test_commands_switch_off_onednn_s_faulty_kernels_unless_the_user_has_chosen(monkeypatch, before, after):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    if before:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", before)
    assert run(lambda: 7 if os.environ["ONEDNN_MAX_CPU_ISA"] == after else 0) == 7
