"""The devices, cores and memory that this process may use, on its machine or in its container."""

import errno
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from plans.errors import UserError

if TYPE_CHECKING:
    import torch

DEVICES = ("cpu", "cuda")

CONTROL_GROUP = Path("/sys/fs/cgroup")
_HOST_MEMORY_SIGNS = (  # in the messages of libraries that have no type of their own for full memory
    "DefaultCPUAllocator",  # torch's for host memory
    "cannot allocate memory",
    "Cannot allocate memory",
    "std::bad_alloc",
)


def choose_device(device: str | None = None) -> str:
    """`device`, by default cuda if there is a GPU, else cpu. `UserError` for any other, or for cuda without a GPU."""
    import torch

    if device not in (None, *DEVICES):
        raise UserError(f"device: expected 'cpu' or 'cuda', found {device!r}. CUDA_VISIBLE_DEVICES chooses among GPUs.")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU here. Use --device cpu, or install a CUDA build of torch.")
    return device or ("cuda" if torch.cuda.is_available() else "cpu")


def loading_workers(device: str) -> int:
    """The number of processes that load and augment: up to 12 for a GPU, 0 for a CPU, which trains on its cores."""
    return 0 if device == "cpu" else max(1, min(12, cores() - 1))


def default_workers(bytes_per_item: float) -> int:
    """The number of processes, 1 or more: at most one per core, and what fits into 75% of the free memory."""
    fit = int(0.75 * free_memory() / max(bytes_per_item, 1))
    return max(1, min(cores(), fit))


def cores() -> int:
    """The number of CPU cores that this process may use, by its affinity and its container's quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for quota, period in (("cpu.max",) * 2, ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        with suppress(OSError, ValueError):  # another version of control groups, or "max" (no limit)
            share = int(_control_group(quota)[0]) / int(_control_group(period)[-1])
            if share > 0:  # -1 also stands for no limit
                return min(allowed, ceil(share))
    return allowed


@dataclass(frozen=True)
class CpuUse:
    """The CPU seconds that were used up to a moment."""

    all: float  # of all programs, on the cores that this process may use
    own: float  # of this process
    clock: float  # the moment, in seconds of a monotonic clock


def cpu_use() -> CpuUse:
    """The CPU seconds up to now."""
    import psutil

    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    used = [
        sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)
        for core, times in enumerate(psutil.cpu_times(percpu=True))
        if core in allowed
    ]
    return CpuUse(sum(used), time.process_time(), time.monotonic())


def idle_cores(before: CpuUse, now: CpuUse | None = None) -> int:
    """The number of cores, 1 or more, that other programs left idle between `before` and now."""
    now = now or cpu_use()
    busy = (now.all - before.all) - (now.own - before.own)
    return max(1, round(cores() - max(0.0, busy) / max(now.clock - before.clock, 1e-3)))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of the host or of a GPU. CUDA's libraries report it as plain `RuntimeError`s."""
    if is_out_of_host_memory(error) or type(error).__name__ == "OutOfMemoryError":  # torch's
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("out of memory" in text or "ALLOC_FAILED" in text)


def is_out_of_host_memory(error: BaseException) -> bool:
    """Whether the memory of the host ran out. torch and other libraries report it as plain `RuntimeError`s."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, RuntimeError | ImportError):
        return any(sign in str(error) for sign in _HOST_MEMORY_SIGNS)
    return isinstance(error, MemoryError)


def own_memory() -> float:
    """The memory in bytes that this process holds."""
    import psutil

    return float(psutil.Process().memory_info().rss)


def free_memory() -> float:
    """The free memory in bytes, of the machine or of the container if that has a limit."""
    import psutil

    free = psutil.virtual_memory().available
    for limit, used, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        with suppress(OSError, ValueError):
            left = int(_control_group(limit)[0]) - int(_control_group(used)[0])
            stat = _control_group(f"{used.rpartition('memory.')[0]}memory.stat")
            reclaimable = int(stat[stat.index(cached) + 1])  # cached files, which the system drops when needed
            return min(free, max(0, left + reclaimable))
    return free


def free_on(device: "torch.device") -> float:
    """The free memory of a GPU in bytes, with what torch holds in reserve."""
    import torch

    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return float(torch.cuda.mem_get_info(device)[0] + cached)


def _control_group(file: str) -> list[str]:
    """The words in a file of this process's control group."""
    return (CONTROL_GROUP / file).read_text(encoding="ascii").split()
