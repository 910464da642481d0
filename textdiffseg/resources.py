"""What this process may use: devices, cores and memory, of the machine or of its container."""

import os
from contextlib import suppress
from math import ceil
from pathlib import Path

from plans.errors import UserError

CONTROL_GROUP = Path("/sys/fs/cgroup")


def choose_device(asked: str | None = None) -> str:
    """The device asked for, by default cuda where there is a GPU; `UserError` where there is none to be had."""
    import torch

    if asked == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU here. Use --device cpu, or install a CUDA build of torch.")
    return asked or ("cuda" if torch.cuda.is_available() else "cpu")


def loading_workers(device: str) -> int:
    """Processes that load and augment: none beside a CPU that trains, whose cores they need; up to 12 for a GPU."""
    return 0 if device == "cpu" else max(1, min(12, cores() - 1))


def default_workers(bytes_per_item: float) -> int:
    """As many processes as there are cores and as fit into three quarters of the free memory, at least one."""
    fit = int(0.75 * free_memory() / max(bytes_per_item, 1))
    return max(1, min(cores(), fit))


def cores() -> int:
    """CPU cores that this process may use: by its affinity, and by its container's quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for quota, period in (("cpu.max",) * 2, ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        with suppress(OSError, ValueError):  # no such version of control groups; no limit, "max"
            share = int(_control_group(quota)[0]) / int(_control_group(period)[-1])
            if share > 0:  # -1 is no limit, too
                return min(allowed, ceil(share))
    return allowed


def free_memory() -> float:
    """Bytes that this process may still take: of the machine, or of its container where that has a limit."""
    import psutil

    free = psutil.virtual_memory().available
    for limit, used, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        with suppress(OSError, ValueError):
            left = int(_control_group(limit)[0]) - int(_control_group(used)[0])
            stat = _control_group(f"{used.rpartition('memory.')[0]}memory.stat")
            return min(free, max(0, left + int(stat[stat.index(cached) + 1])))  # files read are given up when need be
    return free


def _control_group(file: str) -> list[str]:
    """The words of a file of this process's control group, as a container sees it."""
    return (CONTROL_GROUP / file).read_text(encoding="ascii").split()
