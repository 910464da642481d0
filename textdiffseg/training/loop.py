"""The training loop: one fold, from a fresh or an interrupted start to its last iteration."""

import copy
import shutil
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from plans.layout import FoldFolder
from plans.plan import Plan
from plans.presets import Preset
from textdiffseg.data.loader import Batch
from textdiffseg.data.sampling import first_subset_iteration
from textdiffseg.data.splits import Fold
from textdiffseg.precision import cuda_kernels
from textdiffseg.progress import Cancel, Cancelled, OnProgress, ProgressEvent, Report, never, silent
from textdiffseg.segmenter import Segmenter
from textdiffseg.training.checkpoint import TrainingProgress, TrainingState, read_progress
from textdiffseg.training.log import EpochLog, draw_progress, read_log, write_log
from textdiffseg.training.optimise import StepLosses, learning_rate, train_step
from textdiffseg.training.run import Run, TrainingOptions, check_request, compile_ahead, open_run, plan_length
from textdiffseg.training.stop import stop_requests
from textdiffseg.training.validate import validate_patches

READ_EVERY = 10  # iterations: to read losses is to wait for a GPU, which then waits for its next work


@cuda_kernels()
def fit(
    preprocessed: Path,
    cases: Fold,
    fold: FoldFolder,
    options: TrainingOptions,
    preset: Preset = "default",
    report: Report = silent,
    progress: OnProgress = silent,
    cancel: Cancel = never,
) -> Plan:
    """Train a fold, going on where an earlier run stopped; returns its plan.

    Raises `UserError` where what is there does not fit what is asked. After saving, raises `KeyboardInterrupt` or
    `SystemExit` on a signal and `Cancelled` on `cancel`.
    """
    if options.restart:
        shutil.rmtree(fold.path, ignore_errors=True)
    position = read_progress(fold)
    if position is not None:
        check_request(position, options, fold)
    run = open_run(preprocessed, cases, fold, options, preset, report, position)
    if position is None:
        state = run.fresh(plan_length(run, options, report))
    else:
        if position.limit_seconds is not None:
            compile_ahead(run, position)
        state = run.fresh(position)
        state.load(fold)
        report(
            f"Going on at iteration {position.iteration} of {position.total}, the length that its first call gave it."
        )
    train(run, state, progress, cancel)
    return run.plan


def train(run: Run, state: TrainingState, progress: OnProgress = silent, cancel: Cancel = never) -> None:
    """The loop itself."""
    log = [epoch for epoch in read_log(run.fold.log) if epoch.iteration <= state.progress.iteration]
    per_epoch = state.progress.iterations_per_epoch
    with stop_requests() as stop:
        clock = time.perf_counter()  # it runs on while an epoch is written down
        while not state.progress.finished:
            epoch, start = divmod(state.progress.iteration, per_epoch)
            subsets_from = first_subset_iteration(state.progress.total) - epoch * per_epoch
            batches = _until_stopped(run.loader.epoch(epoch, per_epoch, start, subsets_from), stop, cancel)
            while steps := [_step(run, state, batch, progress, log) for batch in islice(batches, READ_EVERY)]:
                sums = _summed(state.progress.sums, steps)
                seconds = state.progress.seconds + time.perf_counter() - clock
                clock = time.perf_counter()
                state.progress = state.progress.after(sums=sums, seconds=seconds)
            if state.progress.iteration < (epoch + 1) * per_epoch:
                state.save(run.fold)
                raise stop.pop(0)
            log.append(end_epoch(run, state, epoch))
            seconds = state.progress.seconds + time.perf_counter() - clock
            clock = time.perf_counter()
            state.progress = state.progress.after(sums={}, seconds=seconds).in_time()
            write_log(run.fold.log, log)
            state.save(run.fold)
            draw_progress(run.fold.curves, log, f"{run.plan.dataset}, {run.plan.preset}, {run.fold.path.name}")
            if stop:
                raise stop.pop(0)


def _until_stopped(batches: Iterator[Batch], stop: list[BaseException], cancel: Cancel) -> Iterator[Batch]:
    """The batches until there is a stop request. It may have ended the processes that load them, too."""
    while not stop:
        if cancel():
            stop.append(Cancelled("The training was stopped. Call it again: it goes on where it stopped."))
            return
        try:
            batch = next(batches)
        except StopIteration:
            return
        except RuntimeError:  # DataLoader's, of a process that is gone
            if stop:
                return
            raise
        yield batch


def _step(run: Run, state: TrainingState, batch: Batch, progress: OnProgress, log: list[EpochLog]) -> StepLosses:
    """One iteration, counted and reported."""
    losses = train_step(state, run.bank, batch, run.compiled)
    state.progress = state.progress.after(iteration=state.progress.iteration + 1)
    progress(ProgressEvent("Train", state.progress.iteration, state.progress.total, "it", _detail(state.progress, log)))
    return losses


def end_epoch(run: Run, state: TrainingState, epoch: int) -> EpochLog:
    """Validate the averaged weights and keep them if they are the best so far."""
    averaged = copy.deepcopy(state.model)
    averaged.load_state_dict(state.ema)
    segmenter = Segmenter.of(averaged, run.device)
    scores = validate_patches(segmenter, run.bank, run.patches, run.device, state.progress.seed)
    progress = state.progress
    entry = EpochLog(
        epoch=epoch,
        iteration=progress.iteration,
        learning_rate=learning_rate(run.plan.training, progress.iteration - 1, progress.total),
        losses={name: value / progress.iterations_per_epoch for name, value in progress.sums.items()},
        dice=scores.dice,
        latent_dice=scores.reconstruction,
        seconds=progress.seconds,
    )
    if entry.mean_dice >= progress.best:
        state.progress = progress.after(best=entry.mean_dice)
        state.save_best(run.fold)
    return entry


def _summed(sums: dict[str, float], steps: list[StepLosses]) -> dict[str, float]:
    """The losses of the running epoch with those of further steps, for which this waits."""
    for step in steps:
        sums = {name: sums.get(name, 0.0) + value for name, value in step.read().items()}
    return sums


def _detail(position: TrainingProgress, log: list[EpochLog]) -> str:
    """The mean loss of the running epoch, as far as it was read, and the last validation's Dice."""
    read = position.iteration % position.iterations_per_epoch // READ_EVERY * READ_EVERY
    losses = [f"loss={sum(position.sums.values()) / read:.3f}"] if read and position.sums else []
    return ", ".join([*losses, *([f"dice={log[-1].mean_dice:.3f}"] if log else [])])
