"""The setup of a training run: its constant objects, and its first position."""

import copy
import math
import statistics
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil
from pathlib import Path

import torch

from plans.choices import Preset, Tracker
from plans.errors import UserError
from plans.layout import FoldFolder, PreprocessedFolder
from plans.plan import Plan
from textdiffseg.data.loader import TrainingLoader, workers_that_fit
from textdiffseg.data.samples import ValidationPatches
from textdiffseg.data.splits import Split
from textdiffseg.files import hash_files, temporary_folder, write_record
from textdiffseg.folds.cases import FoldCases, write_cases
from textdiffseg.folds.changed import contents_of
from textdiffseg.folds.plans import plan_of_fold
from textdiffseg.folds.position import TrainingPosition
from textdiffseg.networks.model import SegmentationNetwork, build_model
from textdiffseg.pace import duration
from textdiffseg.progress import OnProgress, ProgressEvent, Report, silent
from textdiffseg.segmenter import Segmenter
from textdiffseg.text.bank import TextBank
from textdiffseg.text.case_texts import read_case_texts
from textdiffseg.text.stored import stored_case_texts, stored_words
from textdiffseg.training.checkpoint import TrainingState
from textdiffseg.training.compiling import Compiled, compile_modules
from textdiffseg.training.dry_run import fitted_plan
from textdiffseg.training.initial import Initial, initial_weights
from textdiffseg.training.length import split_stages, with_mask_epochs
from textdiffseg.training.optimise import train_step
from textdiffseg.training.options import TrainingOptions
from textdiffseg.training.validate import validate_patches

VALIDATION_PATCHES = 16
WARM_UP_ITERATIONS = 3  # before iterations are timed
TIMED_ITERATIONS, ITERATIONS_PER_READING = 20, 5  # to read the clock, the host waits for the GPU
MIN_EPOCHS = 7  # for the masks, with a time limit: the run follows the machine's pace by whole epochs
MAX_EPOCHS = 20  # of such a run, unless epochs would exceed MAX_EPOCH_SECONDS
MAX_EPOCH_SECONDS = 300.0  # the most that is lost if a run is killed without a signal
MAX_VALIDATION_SHARE = 0.05  # of such a run's time, unless that leaves fewer than MIN_EPOCHS
TIMED_SHARE = 0.1  # of --max-minutes: a slow or busy machine times fewer iterations
MIN_SAMPLER_COST = 0.1  # of a measured one, should the timing fail
FEW_ITERATIONS = 100  # with fewer, few structures are found
USUAL_ITERATIONS = 300  # find most structures (docs/figures.md)


class TooShort(UserError):
    """The time of a run is too short for a few iterations."""

    def __init__(self, *lines: str, needed_minutes: float = math.inf) -> None:
        super().__init__(*lines)
        self.needed_minutes = needed_minutes


@dataclass(frozen=True)
class TrainingSetup:
    """The objects that do not change during the training of a fold."""

    plan: Plan
    bank: TextBank
    fold: FoldFolder
    cases: FoldCases
    device: torch.device
    loader: TrainingLoader
    patches: ValidationPatches
    model: SegmentationNetwork  # the same object for the whole run, so that it is compiled once
    compiled: Compiled
    initial: Initial | None = None  # weights to start from; None: random ones
    track: Tracker | None = None

    def fresh(self, position: TrainingPosition) -> TrainingState:
        """The initial state. The model gets untrained weights, a function of the seed, or those of `initial`."""
        with torch.random.fork_rng(devices=[]):  # does not change the caller's random numbers
            torch.default_generator.manual_seed(position.seed)
            weights = build_model(self.plan).state_dict()
        self.model.load_state_dict(weights | (self.initial.weights if self.initial else {}))
        return TrainingState.start(self.model, position)


def set_up_fold(
    preprocessed: Path,
    split: Split,
    fold: FoldFolder,
    options: TrainingOptions,
    preset: Preset,
    report: Report,
    position: TrainingPosition | None,
) -> TrainingSetup:
    """The plan, words, data and network of a fold. `position`: of the run to resume; None: a new run.

    A new fold gets copies of the plan and the words, and a list of its cases. It then needs no other folder.
    """
    device = torch.device(options.chosen_device)
    source = PreprocessedFolder(preprocessed)
    if position is None:
        _write_new_fold(source, split, fold, fitted_plan(source, preset, device, report))
    plan = plan_of_fold(fold)
    bank = TextBank.load(fold.words)
    cases = FoldCases.of(plan.dataset, split.train, split.validation)
    if plan.text.note:
        report(plan.text.note)
    if plan.reads_texts:
        names = (*split.train, *split.validation)
        bank = replace(bank, texts=read_case_texts(stored_case_texts(source, plan), bank, names))
        report(f"Texts: {len(bank.texts)} of {len(set(names))} cases have one. About half of their samples read it.")
    phrasings = [len(phrases) for phrases in bank.phrasings.values()]
    seed = position.seed if position else options.seed or 0
    on_gpu = device.type == "cuda"
    workers = _workers(plan, options, report)
    model = build_model(plan).to(device)
    initial = None
    if options.init_from and position is None:
        initial = initial_weights(Path(options.init_from), fold, cases, plan, bank, model.state_dict())
        report(initial.note)
    return TrainingSetup(
        plan=plan,
        bank=bank,
        fold=fold,
        cases=cases,
        device=device,
        loader=TrainingLoader(preprocessed, split.train, plan, phrasings, seed, workers, on_gpu),
        patches=ValidationPatches(preprocessed, split.validation, plan, seed, VALIDATION_PATCHES),
        model=model,
        compiled=compile_modules(model.compilable_modules, device, options.compile and on_gpu, report),
        initial=initial,
        track=options.track,
    )


def _write_new_fold(source: PreprocessedFolder, split: Split, fold: FoldFolder, plan: Plan) -> None:
    """Write the plan, the cases and the words of a new fold."""
    fold.path.mkdir(parents=True, exist_ok=True)
    write_record(fold.plan, plan)
    cases = FoldCases.of(plan.dataset, split.train, split.validation)
    write_cases(fold, cases.model_copy(update={"contents": contents_of(source.path, split.train)}))
    TextBank.load(stored_words(source, plan)).save(fold.words)


def _workers(plan: Plan, options: TrainingOptions, report: Report) -> int:
    """The number of processes that load batches. Fewer than wanted are reported."""
    workers = workers_that_fit(plan, options.chosen_workers)
    if workers < options.chosen_workers:
        report(
            f"{workers} of {options.chosen_workers} processes load batches: shared memory (/dev/shm) is too small for "
            "more. A container gets more with --ipc=host or --shm-size."
        )
    return workers


def first_position(
    setup: TrainingSetup, options: TrainingOptions, report: Report, progress: OnProgress = silent
) -> TrainingPosition:
    """The first position of a new run, with its length. `UserError` if `max_minutes` is too short for a few epochs.

    With `max_minutes`, the length is computed from timed iterations. Their weights are discarded.
    """
    training = setup.plan.training
    position = TrainingPosition(
        seed=options.seed or 0,
        epochs=training.epochs if options.epochs is None else options.epochs,
        iterations_per_epoch=training.iterations_per_epoch,
        cases=setup.cases.hash,
        plan=hash_files([setup.fold.plan]),
        initial=setup.initial.hash if setup.initial else None,
        denoiser_share=setup.plan.diffusion.share if setup.plan.diffusion else 0.0,
    )
    position = split_stages(position)
    if options.max_minutes is None:
        return position
    return _filling(position, options.max_minutes, setup, report, progress)


def _filling(
    position: TrainingPosition, max_minutes: float, setup: TrainingSetup, report: Report, progress: OnProgress
) -> TrainingPosition:
    """The position with as many iterations as fill `max_minutes`, by timed iterations and a timed validation.

    Raises `TooShort` if a few epochs do not fit.
    """
    state = setup.fresh(position)
    seconds = 60 * max_minutes
    compute = _step_seconds(setup, state, progress, TIMED_SHARE * seconds)
    step = max(compute, setup.loader.seconds_per_batch())
    validation = _epoch_end_seconds(setup, state)
    if setup.device.type == "cuda" and position.sampler_iteration is not None:
        sampler = setup.fresh(position.after(iteration=position.sampler_iteration))
        cost = _step_seconds(setup, sampler, progress, TIMED_SHARE * seconds) / compute
        position = position.after(denoiser_cost=max(cost, MIN_SAMPLER_COST))
    highest = max(MAX_EPOCHS, int(seconds / MAX_EPOCH_SECONDS))
    epochs = max(MIN_EPOCHS, min(highest, int(MAX_VALIDATION_SHARE * seconds / validation)))
    of_masks = 1 - position.denoiser_share
    per_epoch = int((of_masks * seconds / epochs - validation) / step)
    if per_epoch < 1:
        missing = ceil((MIN_EPOCHS * (step + validation) / of_masks - seconds) / 60) + 1  # one to spare
        raise TooShort(
            f"--max-minutes leaves {duration(seconds)} to train: {MIN_EPOCHS} iterations of {step:.3g} s and as many "
            f"validations of {validation:.1f} s do not fit. Give {missing} more minutes or plan a smaller network.",
            needed_minutes=max_minutes + missing,
        )
    position = with_mask_epochs(position.after(iterations_per_epoch=per_epoch, limit_seconds=seconds), epochs)
    compiling = ", which start after compilation" if setup.compiled.active else ""
    report(
        f"An iteration takes {step:.3g} s: {epochs} epochs of {per_epoch} iterations{_further(position)} fill the "
        f"{round(max_minutes, 2):g} minutes{compiling}; "
        "the number of epochs is updated after each epoch."
    )
    return position


def _further(position: TrainingPosition) -> str:
    """The iterations of the sampler in words; empty if there are none."""
    first = position.sampler_iteration
    return "" if first is None else f" and {position.total - first} of the sampler"


def report_few_iterations(position: TrainingPosition, report: Report) -> None:
    """Report a run limited by minutes that is too short to learn much, and how long one that learns would be."""
    if position.limit_seconds is None or position.total >= FEW_ITERATIONS:
        return
    enough = duration(usual_seconds(position.limit_seconds, position.total))
    report(
        f"Note: {position.total} iterations are too few for a good segmentation. On this machine {USUAL_ITERATIONS} "
        f"take about {enough}. After this run, tds_train with more --max-minutes trains it longer."
    )


def usual_seconds(seconds: float, iterations: int) -> float:
    """The seconds of `USUAL_ITERATIONS`, at the pace of a run of so many seconds and iterations."""
    return seconds * USUAL_ITERATIONS / iterations


def _step_seconds(setup: TrainingSetup, state: TrainingState, progress: OnProgress, allowed: float) -> float:
    """The median seconds of an iteration after compilation. The timing ends early after `allowed` seconds."""
    ticks: list[tuple[int, float]] = []  # iterations done, and when
    progress(ProgressEvent("Time the first iterations", 0, WARM_UP_ITERATIONS + TIMED_ITERATIONS, "it"))
    for done, batch in enumerate(setup.loader.epoch(0, WARM_UP_ITERATIONS + TIMED_ITERATIONS), start=1):
        losses = train_step(state, setup.bank, batch, setup.compiled)
        progress(ProgressEvent("Time the first iterations", done, WARM_UP_ITERATIONS + TIMED_ITERATIONS, "it"))
        late = bool(ticks) and time.perf_counter() - ticks[0][1] > allowed
        if late or (done >= WARM_UP_ITERATIONS and (done - WARM_UP_ITERATIONS) % ITERATIONS_PER_READING == 0):
            losses.read()  # waits for the device
            ticks.append((done, time.perf_counter()))
        if late:
            break
    return statistics.median((end - start) / (after - before) for (before, start), (after, end) in pairwise(ticks))


def _epoch_end_seconds(setup: TrainingSetup, state: TrainingState) -> float:
    """The seconds of the end of an epoch: of its validation, and of writing both checkpoints."""
    plain = Segmenter.of(copy.deepcopy(state.model), setup.device)  # not compiled, as in the loop
    for _ in range(2 if setup.device.type == "cuda" else 1):  # in the first, a GPU searches its fastest kernels
        began = time.perf_counter()
        validate_patches(plain, setup.bank, setup.patches, setup.device, state.position.seed)
    with temporary_folder(setup.fold.plan) as folder:
        for write in (state.save, state.save_best):
            write(FoldFolder(folder))
    return time.perf_counter() - began


def compile_ahead(setup: TrainingSetup, position: TrainingPosition) -> None:
    """Compile, and let a GPU search its fastest kernels, before the time is measured. The weights are discarded."""
    losses = train_step(setup.fresh(position), setup.bank, setup.loader.batch(0, 0), setup.compiled)
    losses.values.tolist()  # waits for the device
