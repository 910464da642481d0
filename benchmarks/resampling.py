"""Resampling of a 512 x 512 x 200 CT from 0.8/0.8/2.5 mm to 1 mm, order 3, one thread, compared with scipy's zoom.

Prints JSON. The bars: mean difference at most 1e-3 HU, at most 1/6 of scipy's time, at most 700 MB besides the input.

    python benchmarks/resampling.py [--repeats 3]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # read when numpy is loaded

import numpy as np  # noqa: E402
from peaks import measured  # noqa: E402
from scipy import ndimage  # noqa: E402

SHAPE, SPACING, TARGET = (200, 512, 512), (2.5, 0.8, 0.8), (1.0, 1.0, 1.0)
BARS = {"mean_difference_hu": 1e-3, "time_ratio": 1 / 6, "peak_mb": 700.0}


def main() -> None:
    """Time both methods, compare their results, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peak", metavar="NPY", help=argparse.SUPPRESS)  # one run in a process of its own
    args = parser.parse_args()
    if args.peak:
        print(peak_above_input(args.peak))
        return
    ct = ct_like(seed=0)
    shape = target_shape()
    ours, theirs = [], []
    for _ in range(args.repeats):
        mine, seconds = timed(resample_ours, ct, shape)
        ours.append(seconds)
        reference, seconds = timed(resample_scipy, ct, shape)
        theirs.append(seconds)
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/ct.npy", ct)
        command = [sys.executable, __file__, "--peak", f"{folder}/ct.npy"]
        peak = float(subprocess.run(command, check=True, capture_output=True).stdout)
    figures = {
        "mean_difference_hu": float(np.abs(mine[0] - reference).mean(dtype=np.float64)),
        "time_ratio": statistics.median(ours) / statistics.median(theirs),
        "peak_mb": peak,
    }
    report = {
        "shape": ct.shape[1:],
        "resampled_shape": shape,
        "seconds": [round(value, 2) for value in ours],
        "scipy_seconds": [round(value, 2) for value in theirs],
        **{name: float(f"{value:.3g}") for name, value in figures.items()},
        "bars": {name: float(f"{value:.3g}") for name, value in BARS.items()},
        "passed": all(figures[name] <= bar for name, bar in BARS.items()),
    }
    print(json.dumps(report, indent=1))


def ct_like(seed: int) -> np.ndarray:
    """An image like a CT scan (1, D, H, W) in HU: air, a body of soft tissue, bones, organs and noise."""
    rng = np.random.default_rng(seed)
    d, h, w = (np.linspace(-1, 1, size, dtype=np.float32) for size in SHAPE)
    d, h, w = d[:, None, None], h[None, :, None], w[None, None, :]
    ct = np.full(SHAPE, -1000, dtype=np.float32)
    ct[np.broadcast_to((h / 0.7) ** 2 + (w / 0.9) ** 2 < 1, SHAPE)] = 40
    for value in (60, 120, -80, -850, 300, 900, 1200, 20):
        centre, radius = rng.uniform(-0.5, 0.5, 3), rng.uniform(0.05, 0.35, 3)
        inside = sum(((x - c) / r) ** 2 for x, c, r in zip((d, h, w), centre, radius, strict=True)) < 1
        ct[inside] = value
    for plane in ct:
        plane += rng.normal(0, 15, plane.shape).astype(np.float32)
    return np.rint(ct, out=ct)[None]


def target_shape() -> tuple[int, ...]:
    """The shape (D, H, W) with the same extent at the target spacing."""
    return tuple(round(n * a / b) for n, a, b in zip(SHAPE, SPACING, TARGET, strict=True))


def resample_ours(ct: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The project's resampling with an empty matrix cache, as for the first case."""
    from textdiffseg.imaging.resample import resample, spline_matrix

    spline_matrix.cache_clear()
    return resample(ct, shape, order=3)


def resample_scipy(ct: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """scipy's zoom, clipped to the input's range."""
    factors = [m / n for n, m in zip(ct.shape[1:], shape, strict=True)]
    zoomed = ndimage.zoom(ct[0], factors, order=3, mode="nearest", grid_mode=True)
    return np.clip(zoomed, ct.min(), ct.max(), out=zoomed)


def peak_above_input(path: str) -> float:
    """The peak memory of resampling in MB, without the input."""
    import textdiffseg.imaging.resample  # noqa: F401  imported first, so that it does not count

    return measured(resample_ours, np.load(path), target_shape())[1].peak_mb


def timed(function, *arguments):
    """The result and its wall seconds."""
    start = time.perf_counter()
    result = function(*arguments)
    return result, time.perf_counter() - start


if __name__ == "__main__":
    main()
