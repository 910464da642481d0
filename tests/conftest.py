"""Fixtures that every test may use: the shared real data, and small generated raw data sets."""

import json
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")  # as the commands set it, before torch is imported

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the source tree."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets; tests that need it are skipped where it is absent.

    It is named by the environment variable TDS_SHARED_DATA, by default ../shared/data beside the repository.
    """
    folder = Path(os.environ.get("TDS_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} does not exist (set TDS_SHARED_DATA)")
    return folder


@pytest.fixture(scope="session")
def write_raw() -> Callable[..., Path]:
    """A function that writes a small raw data set and returns its folder; see `make_raw` for what it takes."""
    return make_raw


@pytest.fixture(scope="session")
def shrink_plan() -> Callable[[Path], None]:
    """A function that makes training by a plan file a matter of seconds: few iterations of a narrow network."""

    def shrink(path: Path) -> None:
        plan = json.loads(path.read_text())
        plan["training"]["iterations_per_epoch"], plan["mirror_axes"], plan["text_axes"] = 3, [2], []
        for stage in plan["stages"]:
            stage["width"] = 8
        path.write_text(json.dumps(plan))

    return shrink


@pytest.fixture(scope="module")
def few_patches() -> Iterator[None]:
    """Four patches are validated after an epoch, not sixteen: these would take longer than a short training itself."""
    from textdiffseg.training import setup

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "VALIDATION_PATCHES", 4)
        yield


@pytest.fixture(scope="session")
def leave_temporary() -> Callable[[Path], Path]:
    """A function that leaves the temporary file of a killed process beside a path, and returns it."""
    from textdiffseg.files import temporary_name

    def leave(beside: Path) -> Path:
        path = beside.with_name(temporary_name(beside.name).replace(f"-{os.getpid()}-", "-99999999-"))
        path.write_text("half")
        return path

    return leave


@pytest.fixture
def full_disk() -> Callable[[], AbstractContextManager[None]]:
    """A function whose context ends every file after one byte. The system names no file, as with a full disk."""

    @contextmanager
    def limited() -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


@pytest.fixture
def tiny_raw(tmp_path: Path) -> Path:
    """root/raw/Dataset901_Tiny of four small MR scans with a bright cube and a dark one; `tmp_path` is the root."""
    return make_raw(tmp_path)


def make_raw(
    root: Path,
    name: str = "Dataset901_Tiny",
    cases: int = 4,
    shape: tuple[int, int, int] = (20, 24, 28),
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    channels: tuple[str, ...] = ("MRI",),
    labels: tuple[str, ...] = ("bright cube", "dark cube"),
    values: tuple[int, ...] | None = None,
    seed: int = 0,
    **header: object,
) -> Path:
    """Write `cases` noisy scans, each with one cube a label, in nnU-Net's layout under root/raw; returns the folder.

    shape and spacing (mm) are in the order (z, y, x); values are the labels' numbers in the files (1, 2, ...);
    `header` adds to or replaces fields of dataset.json.
    """
    import SimpleITK as sitk

    values = values or tuple(range(1, len(labels) + 1))
    folder = Path(root) / "raw" / name
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True, exist_ok=True)

    def write(array: np.ndarray, path: Path) -> None:
        image = sitk.GetImageFromArray(array)
        image.SetSpacing([float(step) for step in spacing[::-1]])
        sitk.WriteImage(image, str(path))

    for index in range(cases):
        rng = np.random.default_rng((seed, index))
        truth, clean = np.zeros(shape, np.uint8), np.full(shape, 100.0)
        size = min(shape) // 3
        for position, value in enumerate(values):
            start = [int(rng.integers(1, max(2, extent - size))) for extent in shape]
            start[2] = 1 + position * (shape[2] - 1) // len(values)  # side by side, so that none hides another
            box = tuple(slice(first, first + size) for first in start)
            truth[box] = value
            clean[box] = 200.0 if position % 2 == 0 else 30.0
        case = f"tiny_{index:02d}"
        for channel in range(len(channels)):
            scan = (clean + rng.normal(0, 10, shape)).astype(np.float32)
            write(scan, folder / "imagesTr" / f"{case}_{channel:04d}.nii.gz")
        write(truth, folder / "labelsTr" / f"{case}.nii.gz")
    fields = {
        "channel_names": {str(number): channel for number, channel in enumerate(channels)},
        "labels": {"background": 0, **dict(zip(labels, values, strict=True))},
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(fields | header))
    return folder
