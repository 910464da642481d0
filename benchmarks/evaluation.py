"""Time and memory of NSD and HD95 on a whole CT, beside MONAI and DeepMind's surface-distance.

The masks are made by code: a body, a large organ and a small one, and predictions that are moved and bent. The body
alone and all three labels are scored by each program, in a process of its own. MONAI and surface-distance get the box
of each label, as ours does.

Prints JSON: seconds, CPU seconds and peak memory above the masks of each program, the ratios to ours, and the largest
difference of the scores.

    python benchmarks/evaluation.py [--shape 275 512 512] [--peers surface_distance monai]

At the default shape MONAI takes 10 GB and surface-distance 5 GB.
"""

import argparse
import importlib.util
import json
import sys
import warnings
from collections.abc import Callable

import numpy as np
from peaks import measured
from stored import in_own_process

from plans.errors import UserError
from textdiffseg.evaluation.metrics import score_case
from textdiffseg_cli.common import positive_int, run

SPACING = (2.0, 0.8, 0.8)  # mm
TOLERANCE_MM = 1.0
BODY, ORGAN, SMALL = 1, 2, 3
SETS = {"body": (BODY,), "three labels": (BODY, ORGAN, SMALL)}
PEERS = ("surface_distance", "monai")
BARS = {"peak_mb": 2000.0, "score_difference": 1e-4}
Scores = dict[str, tuple[float, float]]
"""NSD and HD95 in mm, by label."""


def main() -> int:
    """Measure each program and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shape", type=positive_int, nargs=3, default=(275, 512, 512), metavar="N", help="D H W")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS, help="programs beside ours")
    return run(measure, parser.parse_args())


def measure(args: argparse.Namespace) -> None:
    """Print the report."""
    left_out = [name for name in args.peers if importlib.util.find_spec(name) is None]
    if importlib.util.find_spec("surface_distance") is None:
        raise UserError("surface-distance is not installed, and the scores need it: pip install surface-distance")
    programs = ("textdiffseg", *(name for name in args.peers if name not in left_out))
    report = {"benchmark": "evaluation", "shape": list(args.shape), "spacing": SPACING, "tolerance_mm": TOLERANCE_MM}
    report["left_out"] = [f"{name} is not installed" for name in left_out]
    figures, passed = {}, True
    for name, labels in SETS.items():
        reports = {program: in_own_process(scored, program, tuple(args.shape), labels) for program in programs}
        figures[name] = {program: cost for program, (_, cost) in reports.items()}
        ours, cost = reports["textdiffseg"]
        for program in programs[1:]:
            scores, theirs = reports[program]
            figures[name][program] = theirs | {
                **{f"{figure}_ratio": round(theirs[figure] / cost[figure], 1) for figure in cost if cost[figure]},
                "nsd_difference": max(abs(scores[label][0] - ours[label][0]) for label in ours),
                "hd95_difference_mm": max(abs(scores[label][1] - ours[label][1]) for label in ours),
            }
        passed &= cost["peak_mb"] <= BARS["peak_mb"]
        if "surface_distance" in programs:
            theirs = figures[name]["surface_distance"]
            passed &= max(theirs["nsd_difference"], theirs["hd95_difference_mm"]) <= BARS["score_difference"]
    print(json.dumps(report | {"figures": figures, "bars": BARS, "passed": passed}, indent=1))


def scored(program: str, shape: tuple[int, int, int], labels: tuple[int, ...]) -> tuple[Scores, dict[str, float]]:
    """The scores of one program and its cost. The first call on small masks loads its libraries, and is not counted."""
    work: Callable[[np.ndarray, np.ndarray, tuple[int, ...]], Scores] = PROGRAMS[program]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        work(*(label_map((12, 24, 24), bent) for bent in (True, False)), (BODY,))
        scores, cost = measured(work, label_map(shape, True), label_map(shape, False), labels)
    return scores, {name: round(value, 2) for name, value in cost._asdict().items()}


def label_map(shape: tuple[int, int, int], bent: bool) -> np.ndarray:
    """A body (D, H, W) that nearly fills the scan, with two organs; `bent` moves their outlines by up to 5 mm."""
    d, h, w = (np.linspace(-1, 1, size, dtype=np.float32) for size in shape)
    d, h, w = d[:, None, None], h[None, :, None], w[None, None, :]
    wave = 0.025 * (np.sin(9 * d) + np.cos(7 * w + 3 * h)) if bent else 0.0
    labels = np.zeros(shape, np.uint8)
    radii = {BODY: (0.98, 0.8, 0.95), ORGAN: (0.5, 0.35, 0.4), SMALL: (0.12, 0.1, 0.1)}
    for value, (a, b, c) in radii.items():
        shift = 0.3 * (value == SMALL)
        inside = ((d - shift) / a) ** 2 + ((h - shift) / b) ** 2 + ((w - 2 * shift) / c) ** 2 + wave < 1
        labels[inside] = value
    return labels


def ours(prediction: np.ndarray, reference: np.ndarray, labels: tuple[int, ...]) -> Scores:
    """The scores of this project."""
    scores = score_case(prediction, reference, SPACING, {value: str(value) for value in labels}, TOLERANCE_MM)
    return {name: (label_scores.nsd, label_scores.hd95) for name, label_scores in scores.labels.items()}


def of_surface_distance(prediction: np.ndarray, reference: np.ndarray, labels: tuple[int, ...]) -> Scores:
    """The scores of DeepMind's surface-distance. It crops the box itself."""
    from surface_distance import metrics

    scores = {}
    for value in labels:
        distances = metrics.compute_surface_distances(reference == value, prediction == value, SPACING)
        nsd = metrics.compute_surface_dice_at_tolerance(distances, TOLERANCE_MM)
        scores[str(value)] = (float(nsd), float(metrics.compute_robust_hausdorff(distances, 95)))
    return scores


def of_monai(prediction: np.ndarray, reference: np.ndarray, labels: tuple[int, ...]) -> Scores:
    """The scores of MONAI. Its HD95 counts edge voxels, so that it differs."""
    import torch
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from monai.metrics.surface_dice import compute_surface_dice
    from scipy.ndimage import find_objects

    scores = {}
    for value in labels:
        (box,) = find_objects(((prediction == value) | (reference == value)).astype(np.uint8))
        masks = [
            torch.from_numpy(np.pad(label_map[box] == value, 1))[None, None] for label_map in (prediction, reference)
        ]
        options = {"include_background": True, "spacing": SPACING}
        nsd = compute_surface_dice(*masks, [TOLERANCE_MM], use_subvoxels=True, **options)
        scores[str(value)] = (float(nsd), float(compute_hausdorff_distance(*masks, percentile=95, **options)))
    return scores


PROGRAMS = {"textdiffseg": ours, "surface_distance": of_surface_distance, "monai": of_monai}


if __name__ == "__main__":
    sys.exit(main())
