"""Bars on terminals of any size, and lines elsewhere."""

import os
import pty
import select
import sys
import threading

import pytest

from textdiffseg.progress import ProgressEvent
from textdiffseg_cli.bars import Bars


@pytest.fixture
def terminal(monkeypatch):
    """A function that attaches stderr to a terminal without a size. It returns a function that reads the terminal."""
    master, slave = pty.openpty()
    os.set_blocking(master, False)

    def attach():
        stream = os.fdopen(slave, "w")
        monkeypatch.setattr(sys, "stderr", stream)  # in the test itself: before it, pytest puts its own there

        def written():
            stream.flush()
            content = b""
            while select.select([master], [], [], 0.5)[0]:  # a busy system passes the bytes on in parts
                content += os.read(master, 100_000)
            return content.decode()

        return written

    yield attach
    os.close(master)


@pytest.mark.parametrize("columns", [None, "0", "words"])
def test_a_terminal_without_a_size_has_bars(terminal, monkeypatch, columns):
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    written = terminal()
    with Bars() as bars:
        for done in range(5):
            bars(ProgressEvent("Preprocess", done, 4, "case"))
    shown = written()
    assert "Preprocess: 100%|██" in shown
    assert "4.0/4 cases" in shown
    assert max(map(len, shown.replace("\n", "\r").split("\r"))) <= 80


def test_a_line_is_printed_above_the_bar(terminal, capsys):
    written = terminal()
    with Bars() as bars:
        bars(ProgressEvent("Train", 1, 4, "it"))
        bars.print_line("an iteration takes 2 s")
    assert capsys.readouterr().out == "an iteration takes 2 s\n"
    assert "Train" in written()


def test_a_line_of_one_thread_waits_for_the_bar_of_another(monkeypatch, capsys):
    """On a GPU, one thread segments while another writes and reports."""
    moving, may_end = threading.Event(), threading.Event()

    def slow(self, event):
        moving.set()
        assert may_end.wait(10)
        print("moved")

    monkeypatch.setattr("textdiffseg_cli.bars._Lines.update", slow)
    with Bars() as bars:
        bar = threading.Thread(target=bars, args=(ProgressEvent("Predict", 1, 2, "scan"),))
        line = threading.Thread(target=bars.print_line, args=("case_1: the mask is empty",))
        bar.start()
        assert moving.wait(10)
        line.start()
        line.join(0.2)
        assert line.is_alive(), "printed while the bar moves"
        may_end.set()
        bar.join(10)
        line.join(10)
    assert capsys.readouterr().out.splitlines() == ["moved", "case_1: the mask is empty"]


def test_where_there_is_no_terminal_each_case_is_a_line(capsys):
    with Bars() as bars:
        for done in (0.5, 1, 1.7, 2.2, 3):
            bars(ProgressEvent("Predict", done, 3, "scan", f"case_{done:.0f}"))
        bars(ProgressEvent("Choose", 1, 3, "setting"))
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" after")[0] for line in lines] == [
        "Predict: 1 of 3 scans", "Predict: 2 of 3 scans", "Predict: 3 of 3 scans", "Choose: 1 of 3 settings"
    ]  # fmt: skip
    assert all(line.endswith(f"case_{number}") for number, line in enumerate(lines[:3], start=1))


def test_where_there_is_no_terminal_iterations_are_a_line_for_each_tenth(capsys):
    with Bars() as bars:
        for done in range(1, 1001):
            bars(ProgressEvent("Train", done, 1000, "it"))
    lines = capsys.readouterr().err
    assert "\r" not in lines
    assert [line.split()[1] for line in lines.splitlines()] == [str(100 * tenth) for tenth in range(1, 11)]
    assert "Train: 1000 of 1000 iterations after" in lines


def test_a_stage_of_one_step_is_a_line(capsys):
    with Bars() as bars:
        bars(ProgressEvent("Calibrate", 1, 1, "case"))
    assert capsys.readouterr().err.startswith("Calibrate: 1 of 1 cases")
