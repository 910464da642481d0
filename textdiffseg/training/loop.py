"""The training loop: one fold, from a fresh or an interrupted start to its last iteration."""

import copy
import shutil
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from plans.plan import Plan
from textdiffseg.data.loader import Batch
from textdiffseg.data.sampling import first_subset_iteration
from textdiffseg.data.splits import Fold
from textdiffseg.training.checkpoint import TrainingState, read_progress
from textdiffseg.training.log import EpochLog, draw_progress, read_log, write_log
from textdiffseg.training.optimise import StepLosses, learning_rate, train_step
from textdiffseg.training.run import Run, TrainingOptions, check_request, compile_ahead, open_run, plan_length
from textdiffseg.training.stop import stop_requests
from textdiffseg.training.validate import validate_patches

READ_EVERY = 10  # iterations: to read losses is to wait for a GPU, which then waits for its next work


def fit(preprocessed: Path, fold: Fold, folder: Path, options: TrainingOptions, report: Callable[[str], None]) -> Plan:
    """Train a fold into `folder`, going on where an earlier run stopped; returns its plan.

    `report` gets sentences for the user. Raises `UserError` where what is there does not fit what is asked, and
    `KeyboardInterrupt` or `SystemExit` after saving when it is told to stop.
    """
    if options.restart:
        shutil.rmtree(folder, ignore_errors=True)
    progress = read_progress(folder)
    if progress is not None:
        check_request(progress, options, folder)
    run = open_run(preprocessed, fold, folder, options, report, progress)
    if progress is None:
        state = run.fresh(plan_length(run, options, report))
    else:
        if progress.limit_seconds is not None:
            compile_ahead(run, progress)
        state = run.fresh(progress)
        state.load(folder)
        report(
            f"Going on at iteration {progress.iteration} of {progress.total}, the length that its first call gave it."
        )
    train(run, state)
    return run.plan


def train(run: Run, state: TrainingState) -> None:
    """The loop itself."""
    log = [epoch for epoch in read_log(run.folder / "log.jsonl") if epoch.iteration <= state.progress.iteration]
    per_epoch = state.progress.iterations_per_epoch
    bar = tqdm(total=state.progress.total, initial=state.progress.iteration, unit="it", dynamic_ncols=True)
    with bar, stop_requests() as stop:
        clock = time.perf_counter()  # it runs on while an epoch is written down
        while not state.progress.finished:
            epoch, start = divmod(state.progress.iteration, per_epoch)
            subsets_from = first_subset_iteration(state.progress.total) - epoch * per_epoch
            batches = _until_stopped(run.loader.epoch(epoch, per_epoch, start, subsets_from), stop)
            while steps := [_step(run, state, batch, bar) for batch in islice(batches, READ_EVERY)]:
                sums = _summed(state.progress.sums, steps)
                seconds = state.progress.seconds + time.perf_counter() - clock
                clock = time.perf_counter()
                state.progress = state.progress.after(sums=sums, seconds=seconds)
                bar.set_postfix(_shown(sums, state.progress.iteration - epoch * per_epoch, log), refresh=False)
            if state.progress.iteration < (epoch + 1) * per_epoch:
                state.save(run.folder)
                raise stop.pop(0)
            log.append(end_epoch(run, state, epoch))
            seconds = state.progress.seconds + time.perf_counter() - clock
            clock = time.perf_counter()
            state.progress = state.progress.after(sums={}, seconds=seconds).in_time()
            bar.total = state.progress.total
            write_log(run.folder / "log.jsonl", log)
            state.save(run.folder)
            draw_progress(run.folder / "progress.png", log, f"{run.plan.dataset}, {run.plan.preset}, {run.folder.name}")
            if stop:
                raise stop.pop(0)


def _until_stopped(batches: Iterator[Batch], stop: list[BaseException]) -> Iterator[Batch]:
    """The batches until there is a stop request. It may have ended the processes that load them, too."""
    while not stop:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except RuntimeError:  # DataLoader's, of a process that is gone
            if stop:
                return
            raise
        yield batch


def _step(run: Run, state: TrainingState, batch: Batch, bar: tqdm) -> StepLosses:
    """One iteration, counted."""
    losses = train_step(state, run.bank, run.schedule, batch, run.compiled)
    state.progress = state.progress.after(iteration=state.progress.iteration + 1)
    bar.update()
    return losses


def end_epoch(run: Run, state: TrainingState, epoch: int) -> EpochLog:
    """Validate the averaged weights and keep them if they are the best so far."""
    averaged = copy.deepcopy(state.model)
    averaged.load_state_dict(state.ema)
    scores = validate_patches(averaged, run.bank, run.patches, run.device, state.progress.seed)
    progress = state.progress
    entry = EpochLog(
        epoch=epoch,
        iteration=progress.iteration,
        learning_rate=learning_rate(run.plan.training, progress.iteration - 1, progress.total),
        losses={name: value / progress.iterations_per_epoch for name, value in progress.sums.items()},
        dice=scores.dice,
        reconstruction_dice=scores.reconstruction,
        seconds=progress.seconds,
    )
    if entry.mean_dice >= progress.best:
        state.progress = progress.after(best=entry.mean_dice)
        state.save_best(run.folder)
    return entry


def _summed(sums: dict[str, float], steps: list[StepLosses]) -> dict[str, float]:
    """The losses of the running epoch with those of further steps, for which this waits."""
    for step in steps:
        sums = {name: sums.get(name, 0.0) + value for name, value in step.read().items()}
    return sums


def _shown(sums: dict[str, float], iterations: int, log: list[EpochLog]) -> dict[str, str]:
    """What the progress bar tells: the mean loss of the running epoch and the last validation's Dice."""
    dice = {"dice": f"{log[-1].mean_dice:.3f}"} if log else {}
    return {"loss": f"{sum(sums.values()) / iterations:.3f}"} | dice
