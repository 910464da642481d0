"""Error lines of failures that the user can correct: full disks, full memory, places that cannot be written."""

import errno
import os
import sys
from pathlib import Path

import pytest

from textdiffseg_cli import evaluate, export_model, import_model, new, plan_and_preprocess, predict, report, train
from textdiffseg_cli.common import run


def test_a_full_disk_names_the_file(raiser, capsys):
    assert run(raiser(OSError(errno.ENOSPC, "No space left on device", "results/x.safetensors"))) == 2
    shown = capsys.readouterr().err
    assert "disk is full" in shown
    assert "results/x.safetensors" in shown
    assert "again" in shown


EVALUATE = evaluate, "_evaluate", ["predictions", "references"]
TRAIN = train, "_train", ["901", "0"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG])
@pytest.mark.parametrize(
    ("command", "work", "args", "resumes"),
    [
        (*TRAIN, True),
        (predict, "_predict", ["-i", "scans", "-o", "masks"], True),
        (plan_and_preprocess, "_plan_and_preprocess", ["901"], True),
        (*EVALUATE, False),
        (export_model, "_export", ["901", "-o", "model.zip"], False),
        (import_model, "_import", ["model.zip"], False),
        (report, "_report", ["901"], False),
    ],
)
def test_only_a_command_that_resumes_says_so(raiser, monkeypatch, capsys, number, command, work, args, resumes):
    monkeypatch.setattr(command, work, lambda _: raiser(OSError(number, "full", "x"))())
    assert command.main(args) == 2
    assert ("it resumes" in capsys.readouterr().err) is resumes


@pytest.mark.parametrize(
    ("command", "work", "args", "words"),
    [(*TRAIN, "what is finished is kept"), (*EVALUATE, "it starts from the beginning")],
)
def test_an_interrupted_command_says_what_is_kept(raiser, monkeypatch, capsys, command, work, args, words):
    monkeypatch.setattr(command, work, lambda _: raiser(KeyboardInterrupt())())
    assert command.main(args) == 130
    assert capsys.readouterr().err == f"Interrupted. Run the same command again: {words}.\n"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOTDIR])
def test_a_place_that_cannot_be_written_is_reported(raiser, capsys, number):
    assert run(raiser(OSError(number, os.strerror(number), "out/x.nii.gz"))) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"error: out/x.nii.gz: {os.strerror(number)}.")
    assert shown.count("\n") == 1


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EMFILE, errno.EINVAL, errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("place", [("x.json",), ()])
def test_every_other_system_error_is_one_line(raiser, capsys, number, place):
    assert run(raiser(OSError(number, os.strerror(number), *place))) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert shown.count("\n") == 1


def test_a_deleted_current_folder_is_one_line(monkeypatch, tmp_path, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert run(lambda _: 0, Path("x")) == 2
    assert capsys.readouterr().err.startswith("error: The current folder cannot be found")


def test_a_gpu_whose_memory_is_full_is_reported(raiser, capsys):
    import torch

    assert run(raiser(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))) == 2
    assert capsys.readouterr().err.startswith("error: The GPU is out of memory. Close")


@pytest.mark.parametrize(
    "error", [MemoryError("Unable to allocate 26 GiB"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_memory_that_is_full_is_reported(raiser, capsys, error):
    assert run(raiser(error)) == 2
    assert capsys.readouterr().err.startswith("error: The memory is full. Close")


def test_other_errors_keep_their_traceback(raiser):
    with pytest.raises(OSError, match="of a library"):
        run(raiser(OSError("of a library")))
    with pytest.raises(ZeroDivisionError):
        run(raiser(ZeroDivisionError()))
    with pytest.raises(RuntimeError, match="mismatch"):
        run(raiser(RuntimeError("shape mismatch")))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("can't start new thread"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
        ImportError("libx.so: failed to map segment from shared object"),
    ],
)
def test_memory_that_a_limit_keeps_back_is_reported(raiser, capsys, error):
    assert run(raiser(error)) == 2
    assert capsys.readouterr().err.startswith("error: The memory is full. Close")


def test_too_little_address_space_is_one_line(python):
    done = python("sys.exit(run(lambda: 0))", "ulimit -v 600000; $RUN")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: This shell allows 0.6 GB of address space. Raise the limit (ulimit -v")


def test_a_file_beyond_the_shell_s_limit_names_the_file(python, tmp_path):
    code = "from textdiffseg.files import write_atomically as w; sys.exit(run(w, 'x.bin', bytes(100_000)))"
    done = python(code, f"cd {tmp_path} && ulimit -f 1 && $RUN", PYTHONPATH=os.pathsep.join(sys.path))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "while writing x.bin" in done.stderr
    assert "ulimit -f" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_is_not_in_utf_8_is_one_line(tmp_path, capsys):
    folder = tmp_path / os.fsdecode(b"scans\xff")
    folder.mkdir()
    assert new.main([str(folder), str(tmp_path), "--root", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "this path is not in UTF-8. Rename" in error
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_a_shell_without_utf_8_is_the_fault_of_its_locale(python, tmp_path):
    code = "from pathlib import Path; sys.exit(run(print, Path(sys.argv[1])))"
    done = python(code, "$RUN \u00fc", LC_ALL="POSIX", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert done.returncode == 2, done
    assert "set LC_ALL=C.UTF-8" in done.stderr
