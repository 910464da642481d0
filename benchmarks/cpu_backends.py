"""The CPU seconds of one window of the mask, with several ways to run the network. Prints JSON.

    taskset -c 1 python benchmarks/cpu_backends.py FOLD_FOLDER [--windows 2] [--repeats 7] [--ways plain channels_last]

- plain: as prediction does it with torch.
- channels_last: weights and image are stored channels last.
- compiled: the modules with convolutions are compiled.
- openvino: as `tds_predict --backend openvino` does it; left out where OpenVINO is not installed.

The ways alternate, so that a busy machine affects all equally. Each figure is the median, on one thread. `gain` is
relative to plain. `difference` is the largest one of a probability.

Last come the windows of a CT of 512 x 512 x 275 voxels (0.8 x 0.8 x 1.24 mm) on the plan's grid, not cropped.
"""

import argparse
import copy
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from stored import machine
from torch import Tensor, nn

from plans.geometry import resampled_shape
from plans.layout import FoldFolder
from textdiffseg.folds.sampling import PredictionSettings
from textdiffseg.folds.weights import load_network
from textdiffseg.inference.openvino import OpenVINOSegmenter
from textdiffseg.inference.predictor import Predictor
from textdiffseg.inference.room import CPU_WINDOWS
from textdiffseg.networks.model import SegmentationNetwork
from textdiffseg.overview import blank
from textdiffseg.queries import Queries
from textdiffseg.segmenter import Segmenter
from textdiffseg.text.bank import TextBank
from textdiffseg.training.compiling import compile_modules
from textdiffseg_cli.common import positive_int, run

CT_SHAPE, CT_SPACING = (275, 512, 512), (1.24, 0.8, 0.8)
WAYS = ("plain", "channels_last", "compiled", "openvino")
Way = Callable[[Tensor], Tensor]


class Mask(nn.Module):
    """A network with fixed queries: image (B, C, D, H, W) -> logits (B, 1 + Q, D, H, W)."""

    def __init__(self, network: SegmentationNetwork, queries: Queries):
        super().__init__()
        self.network, self.queries = network, queries

    def forward(self, image: Tensor) -> Tensor:
        return next(Segmenter.of(self.network).logits(image, self.queries))


def main() -> int:
    """Time each way and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("fold", type=Path, metavar="FOLD_FOLDER", help="a trained fold")
    parser.add_argument("--windows", type=positive_int, default=CPU_WINDOWS, metavar="N", help="at once")
    parser.add_argument("--repeats", type=positive_int, default=7, metavar="N", help="of each way (default: 7)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, metavar="WAY", help="default: all")
    return run(compare, parser.parse_args())


@torch.inference_mode()
def compare(args: argparse.Namespace) -> None:
    """Print the table of a fold."""
    torch.set_num_threads(1)
    fold = FoldFolder(args.fold)
    network, queries = load_network(fold).eval(), TextBank.load(fold.words).all_labels().expand(args.windows)
    channels, overview = len(network.plan.channels), network.plan.overview
    image = torch.randn(args.windows, channels, *network.plan.patch)
    if overview:
        seen = blank(args.windows, channels, overview.edge, overview.cells)
        queries = replace(queries, overview=replace(seen, image=torch.randn_like(seen.image)))
    ways = made(Mask(network, queries), image, args.ways)
    expected, rows = Mask(network, queries)(image).softmax(1), {}
    for name, way in ways.items():
        began = time.process_time()
        difference = float((way(image).softmax(1) - expected).abs().max())
        rows[name] = {"difference": difference, "first_s": round(time.process_time() - began, 2)}
    seconds = timed(ways, image, args.repeats)
    for name, runs in seconds.items():
        rows[name] |= {"s": round(runs / args.windows, 4), "gain": round(seconds["plain"] / runs, 2)}
    shape = resampled_shape(CT_SHAPE, CT_SPACING, network.plan.spacing)
    ct = {"shape": shape, "windows": Predictor([network], PredictionSettings()).windows(shape)}
    ct["minutes"] = round(ct["windows"] * seconds["plain"] / args.windows / 60, 2)
    report = {"benchmark": "cpu_backends", "patch": network.plan.patch, "windows": args.windows}
    print(json.dumps(report | machine("cpu") | {"ways": rows, "ct": ct}, indent=1))


def made(mask: Mask, image: Tensor, wanted: list[str]) -> dict[str, Way]:
    """The ways to run the network, by name; `plain` is always among them."""
    ways: dict[str, Way] = {"plain": mask}
    if "channels_last" in wanted:
        last = copy.deepcopy(mask).to(memory_format=torch.channels_last_3d)
        ways["channels_last"] = lambda x: last(x.contiguous(memory_format=torch.channels_last_3d))
    if "compiled" in wanted:
        ways["compiled"] = compiled = copy.deepcopy(mask)
        compile_modules(compiled.network.compilable_modules, torch.device("cpu"), True, fail)
    if "openvino" in wanted and importlib.util.find_spec("openvino"):
        openvino = OpenVINOSegmenter.of(mask.network)
        ways["openvino"] = lambda x: next(openvino.logits(x, mask.queries))
    return ways


def fail(reason: str) -> None:
    """Raise an error: the figure would be that of another way."""
    raise RuntimeError(reason)


def timed(ways: dict[str, Way], image: Tensor, repeats: int) -> dict[str, float]:
    """The median CPU seconds of each way."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            began = time.process_time()
            way(image)
            seconds[name].append(time.process_time() - began)
    return {name: statistics.median(runs) for name, runs in seconds.items()}


if __name__ == "__main__":
    sys.exit(main())
