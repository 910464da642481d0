"""A training run before its loop starts: what the user chose, what stays the same, and how long it will be."""

import copy
import statistics
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch

from plans.errors import UserError
from plans.layout import FoldFolder, PreprocessedFolder
from plans.plan import Plan
from plans.presets import Preset
from textdiffseg.data.loader import TrainingLoader, ValidationPatches, workers_that_fit
from textdiffseg.data.splits import Fold
from textdiffseg.files import write_record
from textdiffseg.folds.cases import FoldCases, write_cases
from textdiffseg.folds.progress import TrainingProgress
from textdiffseg.networks.model import SegmentationNetwork, build_model
from textdiffseg.pace import duration
from textdiffseg.progress import OnProgress, ProgressEvent, Report, silent
from textdiffseg.resources import choose_device, loading_workers
from textdiffseg.segmenter import Segmenter
from textdiffseg.text.bank import TextBank
from textdiffseg.text.case_texts import read_case_texts
from textdiffseg.text.places import stored_case_texts, stored_words
from textdiffseg.training.checkpoint import TrainingState
from textdiffseg.training.compiling import Compiled, compile_modules
from textdiffseg.training.dry_run import fitted_plan
from textdiffseg.training.optimise import train_step
from textdiffseg.training.validate import validate_patches

VALIDATION_PATCHES = 16
WARM_UP = 3  # iterations before the clock of --max-minutes starts
TIMED, TIMED_TOGETHER = 20, 5  # iterations on that clock, and between two looks at it, for which a GPU has to wait
TIMED_SHARE = 0.1  # of --max-minutes, after which fewer iterations are timed: a slow or busy machine
MAX_EPOCHS, MIN_EPOCHS = 20, 4  # of a run limited by minutes, where that leaves none longer than LONG_EPOCH
LONG_EPOCH = 300.0  # seconds, the most that a run which is killed without a signal is to lose
FEW_ITERATIONS = 100  # with fewer, few structures are found; 300 find most (docs/figures.md)
USUAL_ITERATIONS = 300
VALIDATION_SHARE = 0.05  # of such a run's time, where that leaves MIN_EPOCHS


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """What the user chooses; None leaves it to the plan."""

    epochs: int | None = None
    max_minutes: float | None = None
    device: str | None = None  # "cpu" or "cuda"; None: cuda where there is a GPU
    workers: int | None = None  # processes that load and augment; None: as the device needs them
    seed: int | None = None  # None: 0, or the seed of the run that goes on
    compile: bool = True  # where it pays: on a GPU
    restart: bool = False  # train anew; what the fold holds is deleted with the first checkpoint

    @property
    def chosen_device(self) -> str:
        """The device to train on. `UserError` for cuda where there is no GPU."""
        return choose_device(self.device)

    @property
    def chosen_workers(self) -> int:
        """How many processes load and augment, where there is room for them."""
        return loading_workers(self.chosen_device) if self.workers is None else self.workers


@dataclass(frozen=True)
class Run:
    """What stays the same while a fold trains."""

    plan: Plan
    bank: TextBank
    fold: FoldFolder
    cases: FoldCases
    device: torch.device
    loader: TrainingLoader
    patches: ValidationPatches
    model: SegmentationNetwork  # one for the whole run, so that it is compiled once
    compiled: Compiled

    def fresh(self, progress: TrainingProgress) -> TrainingState:
        """Untrained weights, a function of the seed, in place of what the model holds."""
        with torch.random.fork_rng(devices=[]):  # the caller's own random numbers stay as they are
            torch.manual_seed(progress.seed)
            self.model.load_state_dict(build_model(self.plan).state_dict())
        return TrainingState.start(self.model, progress)


def open_run(
    preprocessed: Path,
    cases: Fold,
    fold: FoldFolder,
    options: TrainingOptions,
    preset: Preset,
    report: Report,
    progress: TrainingProgress | None,
) -> Run:
    """The plan, words and data of a fold; a fresh fold gets its copies of plan and words, so that it stands alone,
    and a list of its cases."""
    device = torch.device(options.chosen_device)
    source = PreprocessedFolder(preprocessed)
    if progress is None:
        plan = fitted_plan(source, preset, device, report)
        fold.path.mkdir(parents=True, exist_ok=True)
        write_record(fold.plan, plan)
        write_cases(fold, FoldCases.of(plan.dataset, cases.train, cases.validation))
        TextBank.load(stored_words(source, plan)).save(fold.words)
    plan, bank = Plan.read(fold.plan), TextBank.load(fold.words)
    if plan.text.note:
        report(plan.text.note)
    if plan.reads_texts:
        names = (*cases.train, *cases.validation)
        bank = replace(bank, texts=read_case_texts(stored_case_texts(source, plan), bank, names))
        report(f"Texts of {len(bank.texts)} of {len(set(names))} cases are read, each for about half of its samples.")
    phrasings = [len(phrases) for phrases in bank.phrasings.values()]
    seed = progress.seed if progress else options.seed or 0
    on_gpu = device.type == "cuda"
    workers = workers_that_fit(plan, options.chosen_workers)
    if workers < options.chosen_workers:
        report(
            f"{workers} of {options.chosen_workers} processes load batches, which lie in shared memory "
            "(/dev/shm): there is too little for more. A container gets more with --ipc=host or --shm-size."
        )
    model = build_model(plan).to(device)
    return Run(
        plan=plan,
        bank=bank,
        fold=fold,
        cases=FoldCases.of(plan.dataset, cases.train, cases.validation),
        device=device,
        loader=TrainingLoader(preprocessed, cases.train, plan, phrasings, seed, workers, on_gpu),
        patches=ValidationPatches(preprocessed, cases.validation, plan, seed, VALIDATION_PATCHES),
        model=model,
        compiled=compile_modules(model.compilable_modules, device, options.compile and on_gpu, report),
    )


def plan_length(run: Run, options: TrainingOptions, report: Report, progress: OnProgress = silent) -> TrainingProgress:
    """How many iterations to train; with --max-minutes from a timed warm-up on weights that are thrown away."""
    training = run.plan.training
    length = TrainingProgress(
        seed=options.seed or 0,
        epochs=options.epochs or training.epochs,
        iterations_per_epoch=training.iterations_per_epoch,
        cases=run.cases.hash,
    )
    if options.max_minutes is None:
        return length
    state = run.fresh(length)
    seconds = 60 * options.max_minutes
    each = max(_step_seconds(run, state, progress, TIMED_SHARE * seconds), run.loader.seconds_a_batch())
    validation = _validation_seconds(run, state)
    most = max(MAX_EPOCHS, int(seconds / LONG_EPOCH))
    epochs = max(MIN_EPOCHS, min(most, int(VALIDATION_SHARE * seconds / validation)))
    per_epoch = int((seconds / epochs - validation) / each)
    if per_epoch < 1:
        raise UserError(
            f"--max-minutes {options.max_minutes:g}: {MIN_EPOCHS} iterations of {each:.3g} s and as many validations "
            f"of {validation:.1f} s do not fit. Give more minutes or plan a smaller network."
        )
    report(
        f"An iteration takes {each:.3g} s: {epochs} epochs of {per_epoch} iterations fill the "
        f"{round(options.max_minutes, 2):g} minutes{', which start after compilation' if run.compiled.active else ''}; "
        "counted anew after each epoch."
    )
    return length.after(epochs=epochs, iterations_per_epoch=per_epoch, limit_seconds=seconds)


def report_few_iterations(length: TrainingProgress, report: Report) -> None:
    """Report a run limited by minutes that is too short to learn much, and how long one that learns would be."""
    if length.limit_seconds is None or length.total >= FEW_ITERATIONS:
        return
    enough = duration(USUAL_ITERATIONS * length.limit_seconds / length.total)
    report(
        f"Note: {length.total} iterations are too few for a good segmentation. On this machine {USUAL_ITERATIONS} "
        f"take about {enough}. After this run, the same command with more --max-minutes trains longer."
    )


def _step_seconds(run: Run, state: TrainingState, progress: OnProgress, allowed: float) -> float:
    """What an iteration takes once all is compiled, the median over looks at the clock.

    The clock is stopped early where the timed iterations take more than `allowed` seconds.
    """
    ticks: list[tuple[int, float]] = []  # iterations done, and when
    progress(ProgressEvent("Time the first iterations", 0, WARM_UP + TIMED, "it"))
    for done, batch in enumerate(run.loader.epoch(0, WARM_UP + TIMED), start=1):
        losses = train_step(state, run.bank, batch, run.compiled)
        progress(ProgressEvent("Time the first iterations", done, WARM_UP + TIMED, "it"))
        late = bool(ticks) and time.perf_counter() - ticks[0][1] > allowed
        if late or (done >= WARM_UP and (done - WARM_UP) % TIMED_TOGETHER == 0):
            losses.read()  # waits until it is done
            ticks.append((done, time.perf_counter()))
        if late:
            break
    return statistics.median((end - start) / (after - before) for (before, start), (after, end) in pairwise(ticks))


def _validation_seconds(run: Run, state: TrainingState) -> float:
    """What the validation at the end of an epoch takes."""
    plain = Segmenter.of(copy.deepcopy(state.model), run.device)  # not compiled, as that of the loop
    for _ in range(2 if run.device.type == "cuda" else 1):  # a GPU's first one looks for the fastest kernels
        clock = time.perf_counter()
        validate_patches(plain, run.bank, run.patches, run.device, state.progress.seed)
    return time.perf_counter() - clock


def compile_ahead(run: Run, progress: TrainingProgress) -> None:
    """One step on weights that are thrown away: what compiles, and looks for kernels, is done before a clock runs."""
    train_step(run.fresh(progress), run.bank, run.loader.batch(0, 0), run.compiled).read()
