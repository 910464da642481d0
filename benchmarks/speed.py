"""The speed of training, and the most expensive operators. Prints JSON.

The planned network is measured eager and (on a GPU) compiled, without and with CUDA graphs:

- iterations per second of the whole loop with loading and augmentation, and with one batch repeated;
- peak memory;
- operators per iteration; on a GPU also kernels, and waits for the device;
- the ten most expensive operators.

The samples per second of one loading process are measured once.

    python benchmarks/speed.py [--root DIR] [--preset default] [--device cuda] [--batch 12] [--iterations 100]

If the root already holds plan and stored cases (e.g. copied to a GPU machine), raw data, SimpleITK and MONAI are not
needed.
"""

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import torch
from stored import add_device, in_own_process, machine, prepare, read_split, shared_data
from torch._dynamo.utils import counters
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from plans.layout import PreprocessedFolder
from plans.plan import Plan
from textdiffseg.data.batch import Batch, SampleKey
from textdiffseg.data.loader import PREFETCH, TrainingLoader
from textdiffseg.folds.position import TrainingPosition
from textdiffseg.networks.model import build_model
from textdiffseg.precision import choose_cuda_kernels
from textdiffseg.resources import loading_workers
from textdiffseg.text.bank import TextBank
from textdiffseg.text.stored import stored_words
from textdiffseg.training.checkpoint import TrainingState
from textdiffseg.training.compiling import compile_modules
from textdiffseg.training.loop import READ_EVERY
from textdiffseg.training.optimise import StepLosses, train_step
from textdiffseg_cli.common import positive_int, run, whole_number

BAR = 25.0  # iterations per second on one H100, 40 x 56 x 40, batch 12, bf16, with loading and augmentation
WARM_UP = 5  # iterations, with compilation
PROFILED = 3  # iterations
WAYS = ("eager", "compiled", "graphs")


def main() -> int:
    """Train and time the network, and print the report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=shared_data() / "Dataset004_Hippocampus", help="the raw data set")
    parser.add_argument("--root", type=Path, help="plans and stored cases (default: a temporary folder)")
    parser.add_argument("--preset", default="default")
    parser.add_argument("--batch", type=positive_int, metavar="N", help="default: the plan's")
    parser.add_argument("--iterations", type=positive_int, default=100, metavar="N", help="timed, after a warm-up")
    parser.add_argument("--workers", type=whole_number, metavar="N", help="loading processes")
    parser.add_argument("--samples", type=positive_int, default=48, metavar="N", help="for the loader alone")
    add_device(parser)
    return run(measure, parser.parse_args())


def measure(args: argparse.Namespace) -> None:
    """Print the figures. Each way of running has its own process."""
    with tempfile.TemporaryDirectory() as temporary:
        preprocessed = prepare(args.data, args.root or Path(temporary), args.preset, args.device)
        plan = planned(preprocessed, args)
        report = {"benchmark": "speed", "dataset": args.data.name, "preset": args.preset} | machine(args.device)
        report |= {"patch": plan.patch, "batch": plan.batch, "bar_iterations_per_second": BAR}
        report["loader"] = in_own_process(loader_alone, preprocessed, args)
        for way in WAYS if args.device == "cuda" else WAYS[:1]:
            report[way] = in_own_process(one_way, preprocessed, args, way)
    print(json.dumps(report, indent=1))


def planned(preprocessed: Path, args: argparse.Namespace) -> Plan:
    """The plan with the batch of --batch."""
    plan = Plan.read(PreprocessedFolder(preprocessed).plan(args.preset))
    return plan.model_copy(update={"batch": args.batch or plan.batch})


def open_loader(preprocessed: Path, args: argparse.Namespace, workers: int) -> TrainingLoader:
    """The training loader of fold 0."""
    plan = planned(preprocessed, args)
    bank = TextBank.load(stored_words(PreprocessedFolder(preprocessed), plan))
    phrasings = [len(phrases) for phrases in bank.phrasings.values()]
    cases = read_split(preprocessed, "0").train
    return TrainingLoader(preprocessed, cases, plan, phrasings, 0, workers, args.device == "cuda")


def loader_alone(preprocessed: Path, args: argparse.Namespace) -> dict[str, float]:
    """The samples per second of one thread that loads and augments."""
    torch.set_num_threads(1)
    samples = open_loader(preprocessed, args, 0).samples
    seconds = []
    for index in range(args.samples + 1):
        clock = time.perf_counter()
        samples[SampleKey(0, index)]
        seconds.append(time.perf_counter() - clock)
    return {"samples_per_second_and_worker": round(args.samples / sum(seconds[1:]), 1)}  # the first one loads libraries


class Trainer:
    """A new model, and training steps with it."""

    def __init__(self, preprocessed: Path, args: argparse.Namespace, way: str):
        plan, self.device = planned(preprocessed, args), torch.device(args.device)
        choose_cuda_kernels()
        torch.manual_seed(0)
        model = build_model(plan).to(self.device)
        self.bank = TextBank.load(stored_words(PreprocessedFolder(preprocessed), plan))
        self.graphs = way == "graphs"
        self.compiled = compile_modules(
            model.compilable_modules,
            self.device,
            way != "eager",
            lambda line: print(line, file=sys.stderr),
            self.graphs,
        )
        length = TrainingPosition(seed=0, epochs=1, iterations_per_epoch=10 * (args.iterations + WARM_UP))
        self.state = TrainingState.start(model, length)

    def step(self, batch: Batch) -> StepLosses:
        """Start one iteration. The device may still be working afterwards."""
        if self.graphs:
            torch.compiler.cudagraph_mark_step_begin()
        losses = train_step(self.state, self.bank, batch, self.compiled)
        self.state.position = self.state.position.after(iteration=self.state.position.iteration + 1)
        return losses

    def seconds(self, batches: Iterable[Batch]) -> float:
        """The seconds of steps on these batches. Losses are read as often as in training."""
        clock = time.perf_counter()
        for index, batch in enumerate(batches, start=1):
            losses = self.step(batch)
            if index % READ_EVERY == 0:
                losses.read()
        losses.read()
        return time.perf_counter() - clock


def one_way(preprocessed: Path, args: argparse.Namespace, way: str) -> dict:
    """All figures of one way of running."""
    trainer = Trainer(preprocessed, args, way)
    workers = loading_workers(args.device) if args.workers is None else args.workers
    loader = open_loader(preprocessed, args, workers)
    batch = loader.batch(0, 0)
    batch = batch.pin_memory() if args.device == "cuda" else batch
    figures = {"workers": workers, "warm_up_seconds": round(trainer.seconds([batch] * WARM_UP), 1)}
    rate = args.iterations / trainer.seconds([batch] * args.iterations)
    figures["same_batch_iterations_per_second"] = round(rate, 3)
    ahead = 1 + 2 * workers * PREFETCH  # batches prepared in advance do not count, as they would improve the rate
    batches = loader.epoch(0, ahead + args.iterations)
    trainer.seconds(islice(batches, ahead))
    rate = args.iterations / trainer.seconds(batches)
    figures["loop_iterations_per_second"] = round(rate, 3)
    figures["compiled_to_the_end"] = trainer.compiled.active
    figures["graphs"] = counters["stats"]["unique_graphs"]  # more than a dozen: modules were compiled again
    if args.device == "cuda":
        figures["peak_cuda_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
        figures["waits_an_iteration"] = device_waits(trainer, batch)
    if way == "eager":
        figures["operators_an_iteration"] = count_operators(trainer, batch)
    return figures | most_expensive(trainer, batch)


def device_waits(trainer: Trainer, batch: Batch) -> float:
    """How often one step waits for the GPU, by torch's warnings."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(PROFILED):
                trainer.step(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught) / PROFILED


class Operators(TorchDispatchMode):
    """Counts operators other than views."""

    count = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.count += not operator.is_view
        return operator(*args, **(kwargs or {}))


def count_operators(trainer: Trainer, batch: Batch) -> float:
    """The number of operators per iteration, including those on the host."""
    with Operators() as counted:
        for _ in range(PROFILED):
            trainer.step(batch)
    return round(counted.count / PROFILED, 1)


def most_expensive(trainer: Trainer, batch: Batch) -> dict:
    """The ten most expensive operators in ms per iteration. On a GPU it is device time, and kernels are counted."""
    on_gpu = trainer.device.type == "cuda"
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA] if on_gpu else [ProfilerActivity.CPU]
    with profile(activities=activities) as profiled:
        trainer.seconds([batch] * PROFILED)
    by = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    hosts = [row for row in profiled.key_averages() if row.device_type == DeviceType.CPU]  # kernels are part of these
    rows = sorted(hosts, key=lambda row: getattr(row, by), reverse=True)[:10]
    figures = {"most_expensive_ms": {row.key[:100]: round(getattr(row, by) / 1e3 / PROFILED, 3) for row in rows}}
    if on_gpu:
        kernels = [event for event in profiled.events() if event.device_type == DeviceType.CUDA]
        figures["kernels_and_copies_an_iteration"] = len(kernels) / PROFILED
    return figures


if __name__ == "__main__":
    sys.exit(main())
