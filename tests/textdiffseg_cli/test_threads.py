"""Threads follow the idle cores, unless the user sets their number."""

import pytest
import torch

from textdiffseg.resources import CpuUse, cores, idle_cores
from textdiffseg_cli import threads


@pytest.mark.parametrize(
    ("busy", "own", "idle"),
    [(0.0, 0.0, 4), (2.0, 2.0, 4), (2.0, 0.0, 3), (3.2, 0.0, 2), (4.0, 2.0, 3), (8.0, 0.0, 1), (50.0, 0.0, 1)],
)
def test_cores_of_other_programs_are_not_idle(monkeypatch, busy, own, idle):
    monkeypatch.setattr("textdiffseg.resources.cores", lambda: 4)
    before, now = CpuUse(100.0, 10.0, 50.0), CpuUse(100.0 + busy, 10.0 + own, 52.0)  # two seconds later
    assert idle_cores(before, now) == idle


def test_the_machine_s_own_counters_give_a_number_of_cores():
    assert 1 <= idle_cores(threads.cpu_use()) <= cores()


@pytest.fixture
def two_threads():
    previous = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(previous)


def test_torch_leaves_busy_cores_alone_and_gets_its_threads_back(monkeypatch, capsys, two_threads):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "idle_cores", lambda before: 1)
    with threads.idle_cores_only():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    assert "OMP_NUM_THREADS sets another number" in capsys.readouterr().out


def test_a_number_of_the_user_and_idle_cores_change_nothing(monkeypatch, capsys, two_threads):
    monkeypatch.setattr(threads, "idle_cores", lambda before: 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with threads.idle_cores_only():
        assert torch.get_num_threads() == 2
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(threads, "idle_cores", lambda before: 2)
    with threads.idle_cores_only():
        assert torch.get_num_threads() == 2
    assert capsys.readouterr().out == ""
