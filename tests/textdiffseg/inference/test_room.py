"""Out of memory: fewer windows, then sums on the host, then an error."""

from types import SimpleNamespace

import pytest
import torch

from textdiffseg.inference import room
from textdiffseg.inference.room import DeviceRoom, windows_at_once

STARTS = tuple((0, 0, 16 * number) for number in range(8))


class Sums:
    """Sums that lie on a GPU."""

    def __init__(self):
        self.to("cuda")

    def to(self, device):
        self.total = SimpleNamespace(device=torch.device(device))


def device_for(most, sums):
    """A function that runs out of memory for more than `most` windows while the sums are on the device."""

    def function(starts):
        if len(starts) > (most if sums.total.device.type == "cuda" else 1):
            raise torch.OutOfMemoryError
        return starts

    return function


def test_fewer_windows_are_computed_together_and_all_of_them_in_order(plan):
    rooms, sums = DeviceRoom(plan, torch.device("cuda"), 8), Sums()
    parts = rooms.compute(device_for(3, sums), STARTS, [sums])
    assert [len(part) for part in parts] == [2, 2, 2, 2]
    assert sum(parts, ()) == STARTS
    assert rooms.windows == 2, "and later groups, too"
    assert sums.total.device.type == "cuda"


def test_sums_move_to_the_host_if_a_single_window_does_not_fit(plan):
    rooms, sums = DeviceRoom(plan, torch.device("cuda"), 2), Sums()
    parts = rooms.compute(device_for(0, sums), STARTS[:2], [sums])
    assert sum(parts, ()) == STARTS[:2]
    assert sums.total.device.type == "cpu"


def test_after_that_it_is_an_error(plan):
    def never(starts):
        raise torch.OutOfMemoryError

    rooms, sums = DeviceRoom(plan, torch.device("cuda"), 4), Sums()
    with pytest.raises(torch.OutOfMemoryError):
        rooms.compute(never, STARTS, [sums])
    assert (rooms.windows, sums.total.device.type) == (1, "cpu")


def test_other_errors_are_not_memory(plan):
    def broken(starts):
        raise RuntimeError("shapes")

    rooms = DeviceRoom(plan, torch.device("cuda"), 4)
    with pytest.raises(RuntimeError, match="shapes"):
        rooms.compute(broken, STARTS, [])
    assert rooms.windows == 4


def test_a_gpu_computes_the_windows_that_fit(plan, monkeypatch):
    def windows(free):
        monkeypatch.setattr(room, "free_on", lambda _: free)
        return windows_at_once(plan, torch.device("cuda"))

    assert windows(80e9) == 8
    assert windows(1) == 1
    assert windows_at_once(plan, torch.device("cpu")) == 2
    gpu, cpu = DeviceRoom(plan, torch.device("cuda"), 8), DeviceRoom(plan, torch.device("cpu"), 2)
    assert [gpu.filled(count) for count in (1, 2, 3, 5, 8)] == [1, 2, 4, 8, 8]
    assert [cpu.filled(count) for count in (1, 2)] == [2, 2]
    large = plan.model_copy(update={"patch": (64, 160, 168), "labels": plan.labels * 60})
    assert windows_at_once(large, torch.device("cpu")) == 1
