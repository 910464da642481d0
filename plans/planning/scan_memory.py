"""Host memory and disk space of scans, and the bytes of the sums over windows, computed before a scan is read."""

from math import prod

from plans.geometry import Triple
from plans.planning.memory import FIXED_BYTES, GB

SLAB_BYTES = 1 << 28  # of the probabilities that leave the sums over windows at once, unless a plane needs more
MAX_SUMS_BYTES = 3e9  # of the sums in float32; larger sums are kept in float16
LIBRARIES_BYTES = 0.15 * GB  # on the host: numpy, SimpleITK and others, without torch


def bytes_per_sum(classes: int, voxels: int) -> int:
    """The bytes of a number in the sums over windows: 4, or 2 where 4 would exceed `MAX_SUMS_BYTES`.

    It depends on the scan's shape and on the labels alone. So masks do not depend on the machine.
    """
    return 4 if 4 * classes * voxels <= MAX_SUMS_BYTES else 2


def sums_bytes(classes: int, voxels: int) -> float:
    """The bytes of sums over windows, for `voxels` of one patch along D (`inference.windows`)."""
    return voxels * (bytes_per_sum(classes, voxels) * classes + 4.0)


def slab_bytes(classes: int, voxels: int, plane: int) -> float:
    """The bytes of a slab that leaves the sums: at most `SLAB_BYTES`, but at least one plane of `plane` voxels."""
    return min(max(SLAB_BYTES, 4.0 * classes * plane), 4.0 * classes * voxels)


def reading_bytes(
    channels: int,
    shape: Triple,
    original_shape: Triple,
    cropped_shape: Triple | None = None,
    value_bytes: int = 4,
    masked: bool = True,
) -> float:
    """The host memory of reading a case and resampling it to `shape`, in bytes. All shapes have the same axes.

    The scan, its mask of nonzero voxels, one normalised channel, the result, and what lies between them: the axes are
    resampled one by one, the one that shrinks most first. Channels in several files are joined, which takes a copy.

    Args:
        channels: of the scan.
        shape: on the plan's grid.
        original_shape: on the file's grid.
        cropped_shape: what the crop leaves of it; None: all.
        value_bytes: of a value of the scan as it was read.
        masked: whether there is a mask of nonzero voxels.
    """
    inside = cropped_shape or original_shape
    original, cropped, between = prod(original_shape), prod(inside), list[float]()
    steps = sorted(new / old for new, old in zip(shape, inside, strict=True) if new != old)
    for step in steps[:-1]:
        between.append((between[-1] if between else cropped) * step)
    scan = value_bytes * channels * original
    resampling = scan + 4.0 * (channels * prod(shape) + cropped + sum(between))
    joining = 2 * scan if channels > 1 else 0
    return max(resampling, joining) + (original if masked else 0)


def ram_bytes(
    channels: int,
    labels: int,
    patch: Triple,
    shape: Triple,
    original_shape: Triple,
    windows: float = 0.0,
    classes_bytes: float | None = None,
    restoring: float | None = None,
) -> float:
    """The host memory of predicting one case slab by slab, in bytes.

    On the plan's grid: the image, the sums over one patch along D, and a slab that is used, or `windows` bytes of the
    windows that are computed. On the file's grid: the classes; after the last slab also their copies and the file.
    `classes_bytes` and `restoring` are the bytes of both; None: as if nothing were cropped.
    """
    voxels, plane, classes = patch[0] * shape[1] * shape[2], shape[1] * shape[2], 1 + labels
    slabs = sums_bytes(classes, voxels) + max(windows, 1.5 * slab_bytes(classes, voxels, plane))
    beside = 2.0 * prod(original_shape) if classes_bytes is None else classes_bytes
    after = max(slabs + beside, 8.0 * prod(original_shape) if restoring is None else restoring)
    return 4.0 * channels * prod(shape) + after


def case_ram_bytes(channels: int, labels: int, patch: Triple, shape: Triple, original_shape: Triple) -> float:
    """The host memory of a case in bytes: of reading or of predicting it, whichever is larger, with all libraries."""
    reading = reading_bytes(channels, shape, original_shape)
    libraries = FIXED_BYTES["cpu"] + LIBRARIES_BYTES
    return libraries + max(reading, ram_bytes(channels, labels, patch, shape, original_shape))


def disk_bytes(channels: int, shapes: tuple[Triple, ...], original_shapes: tuple[Triple, ...]) -> float:
    """The disk space of stored cases, in bytes. Compression leaves two thirds of an image, a few per cent of labels."""
    images = sum(2 * channels * prod(shape) for shape in shapes) * 0.67
    return images + 0.1 * sum(prod(shape) for shape in (*shapes, *original_shapes)) + 50_000 * len(shapes)
