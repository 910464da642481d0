"""How a command ends: exit codes and messages."""

import os
import signal
import subprocess
import sys

import pytest

from plans.errors import UserError
from textdiffseg_cli.common import (
    add_root,
    command,
    console,
    positive_float,
    positive_int,
    print_lines,
    run,
    whole_number,
)


def test_a_command_that_worked_returns_0_or_its_own_code():
    assert run(lambda: None) == 0
    assert run(lambda value: value, 3) == 3


def test_user_errors_are_one_line_each_and_exit_with_2(raiser, capsys):
    assert run(raiser(UserError("first fault.", "second fault."))) == 2
    assert capsys.readouterr().err == "error: first fault.\nerror: second fault.\n"


def test_interrupting_names_the_way_to_resume(raiser, capsys):
    assert run(raiser(KeyboardInterrupt())) == 130
    assert "again" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "code_of_exit"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_that_ends_the_command_unwinds_so_that_files_get_closed(name, code_of_exit):
    code = (
        "import os, signal, sys\n"
        "from textdiffseg_cli.common import run\n"
        f"signal.signal(signal.{name}, signal.SIG_DFL)\n"  # the tests may run under nohup
        "def work():\n"
        "    try:\n"
        f"        os.kill(os.getpid(), signal.{name})\n"
        "        signal.pause()\n"
        "    finally:\n"
        "        print('closed', flush=True)\n"
        "sys.exit(run(work))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False, timeout=20)
    assert done.returncode == code_of_exit, done.stderr
    assert done.stdout == "closed\n"


def test_a_sigterm_that_a_callback_swallows_comes_again():
    code = (
        "import os, signal, sys, time\n"
        "from textdiffseg_cli.common import run\n"
        "class Last:\n"
        "    def __del__(self):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        time.sleep(1)\n"
        "def work():\n"
        "    Last()\n"
        "    time.sleep(60)\n"
        "sys.exit(run(work))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False, timeout=20)
    assert (done.returncode, done.stderr) == (143, "")


def test_the_old_signal_handler_comes_back():
    before, hook = signal.getsignal(signal.SIGTERM), sys.unraisablehook
    run(lambda: None)
    assert signal.getsignal(signal.SIGTERM) is before
    assert sys.unraisablehook is hook


def test_root_is_the_current_folder_by_default():
    parser = command("tds_test", "Tests.", "tds_test --root x")
    add_root(parser)
    assert os.path.samefile(parser.parse_args([]).root, ".")
    assert "tds_test --root x" in parser.format_help()


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (positive_int, "3", "0"),
        (positive_int, str(2**53), str(2**53 + 1)),
        (whole_number, "0", "-1"),
        (whole_number, "7", "9" * 30),
        (positive_float, "0.5", "nan"),
        (positive_float, "1", "inf"),
    ],
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


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_closed_pipe_ends_quietly(python, lines):
    """One line fails when the interpreter ends, many while they are printed."""
    done = python(f"sys.exit(run(lambda: [print('x' * 9) for _ in range({lines})] and None))", "$RUN | true; exit 0")
    assert (done.returncode, done.stderr) == (0, "")
    done = python("sys.exit(run(lambda: print_lines('x')))", "set -o pipefail; (sleep 1; $RUN) | true")
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_an_output_whose_disk_is_full_is_one_line(python):
    done = python("sys.exit(run(lambda: print('x')))", "$RUN > /dev/full")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: The disk is full")


def test_names_in_tables_are_printed_as_they_are(capsys):
    console().print("[bold] :heart:")
    assert capsys.readouterr().out == "[bold] :heart:\n"


def test_control_characters_in_tables_are_escaped(capsys):
    from rich.table import Table

    table = Table("a\x1b[31mb")
    table.add_row("c\x07d\ne")
    console().print("f\x1b]g")
    console().print(table)
    shown = capsys.readouterr().out
    assert not {"\x1b", "\x07"} & {*shown}
    for escaped in ("f\\x1b]g", "a\\x1b[31mb", "c\\x07d ", " e "):
        assert escaped in shown


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_characters_that_the_encoding_lacks_are_escaped(python, encoding):
    code = (
        "from plans.errors import UserError\n"
        "def work():\n    print('\u2013 \u03b1')\n    raise UserError('\u2013')\nsys.exit(run(work))"
    )
    done = python(code, "$RUN", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stdout, done.stderr) == (2, "\\u2013 \\u03b1\n", "error: \\u2013\n")


def test_a_stream_is_as_before_afterwards():
    before = sys.stdout.errors
    assert run(lambda: 1 if sys.stdout.errors == before else 0) == 0
    assert sys.stdout.errors == before


def test_names_of_others_are_printed_as_one_harmless_line(raiser, capsys):
    assert run(lambda: print_lines("a\x1b[31m\nerror: b\x07", "x" * 9000)) == 0
    first, second, rest = capsys.readouterr().out.split("\n")
    assert (first, rest) == ("a\\x1b[31m\\nerror: b\\x07", "")
    assert len(second) < 4100
    assert run(raiser(UserError("liver\x1b[31m\nerror: lung"))) == 2
    assert capsys.readouterr().err == "error: liver\\x1b[31m\\nerror: lung\n"


def test_a_table_whose_reader_is_gone_ends_quietly(python):
    code = "from textdiffseg_cli.common import console; sys.exit(run(lambda: console().print('x')))"
    done = python(code, "set -o pipefail; (sleep 1; $RUN) | true")
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_change_no_exit_code(closed):
    code = "import sys; from textdiffseg_cli.common import run; sys.exit(run(print, 'x'))"
    assert subprocess.run(f'{sys.executable} -c "{code}" {closed}', shell=True, check=False, timeout=60).returncode == 0


def test_a_name_that_is_too_long_is_one_line(capsys):
    assert run(os.stat, "x" * 300) == 2
    assert "the name is too long for this file system. Choose a shorter one." in capsys.readouterr().err
