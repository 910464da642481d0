"""The training loop of a fold. It starts a new run, or resumes an earlier one."""

import copy
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from plans.layout import FoldFolder
from plans.plan import Plan
from plans.presets import Preset
from textdiffseg.data.batch import Batch
from textdiffseg.data.sampling import first_subset_iteration
from textdiffseg.data.splits import Fold
from textdiffseg.folds.progress import TrainingProgress, read_progress, refuse_other_plan
from textdiffseg.folds.replacing import replaced
from textdiffseg.networks.model import SegmentationNetwork, TextDiffSeg
from textdiffseg.precision import cuda_kernels
from textdiffseg.progress import Cancel, OnProgress, ProgressEvent, Report, never, silent
from textdiffseg.segmenter import Segmenter
from textdiffseg.training.checkpoint import TrainingState, complete_best
from textdiffseg.training.forecast import TrainingForecast
from textdiffseg.training.initial import refuse_late_start, refuse_own_folder
from textdiffseg.training.length import prolong, wants_longer
from textdiffseg.training.log import EpochLog, draw_progress, read_log, write_log
from textdiffseg.training.optimise import StepLosses, learning_rate, train_step
from textdiffseg.training.options import TrainingOptions
from textdiffseg.training.run import Run, compile_ahead, open_run, plan_length, report_few_iterations
from textdiffseg.training.saving import Saving
from textdiffseg.training.stop import deferring, stop_requests, until_stopped
from textdiffseg.training.timing import IterationTimes
from textdiffseg.training.tracking import tracked
from textdiffseg.training.validate import PatchScores, fit_samples, validate_patches

ONE_MORE_EPOCH = (
    "Note: only the sampler learns in a single further epoch. The masks stay as they are. With two or more further "
    "epochs, the masks learn, too."
)
READ_EVERY = 10  # iterations; to read losses, the host waits for the GPU, which then waits for the host


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
    """The plan of the fold that is trained. An earlier run is resumed.

    Raises `UserError` if the earlier run does not fit the options. On a signal, saves the state and raises
    `KeyboardInterrupt` or `SystemExit`. If `cancel` returns True, saves the state and raises `Cancelled`. If `report`,
    `progress` or `cancel` raises an error between iterations, saves the state before the error leaves.

    Args:
        preprocessed: the folder of the preprocessed data set.
        cases: the training and validation cases.
        fold: the folder to write.
        options: the user's choices.
        preset: of the plan.
        report: called with each message.
        progress: called after each iteration.
        cancel: called before each iteration.
    """
    refuse_own_folder(options.init_from, options.restart, fold)
    with replaced(fold, options.restart, report):
        position = read_progress(fold)
        refuse_other_plan(fold, "latest")
        refuse_late_start(position, options.init_from, fold)
        longer = position is not None and wants_longer(position, options, fold)
        if position is not None and position.finished and not longer:
            complete_best(fold, report)
            with tracked(fold, options.track, read_log(fold.log) if options.track else ()):
                return Plan.read(fold.plan)
        run = open_run(preprocessed, cases, fold, options, preset, report, position)
        state = _first_state(run, position, longer, options, report, progress)
        train(run, state, progress, cancel, report)
        return run.plan


def _first_state(
    run: Run,
    position: TrainingProgress | None,
    longer: bool,
    options: TrainingOptions,
    report: Report,
    progress: OnProgress,
) -> TrainingState:
    """The state from which to train: a new one, or the saved one of a run at `position`, with its new length."""
    if position is None:
        position = plan_length(run, options, report, progress)
        report_few_iterations(position, report)
        return run.fresh(position)
    saved = position
    if longer:
        complete_best(run.fold, report)  # the sampler learns on it
        position = prolong(run, saved, options, report, progress)
    if position.limit_seconds is not None:
        compile_ahead(run, saved)
    state = run.fresh(position)  # a longer run begins with the masks again, unless a single epoch is left
    state.load(run.fold)
    state.position = position
    if longer:
        state.set_spread(0.0)  # samples do not fit masks that learn again
        report(f"Training longer: from iteration {position.iteration} to {position.total}.")
        if position.trains_sampler:
            report(ONE_MORE_EPOCH)
        report_few_iterations(position, report)
    else:
        report(f"Resuming at iteration {position.iteration} of {position.total} (set by the first run).")
    return state


def train(
    run: Run,
    state: TrainingState,
    progress: OnProgress = silent,
    cancel: Cancel = never,
    report: Report = silent,
) -> None:
    """Train until the last iteration of `state.position`, or until a request to stop."""
    log = [epoch for epoch in read_log(run.fold.log) if epoch.iteration <= state.position.iteration]
    progress(_event(state.position, log))
    saving = Saving(run, state, report)
    with stop_requests() as stop, tracked(run.fold, run.track, log) as track:
        follow, forecast = deferring(progress, stop), TrainingForecast(deferring(report, stop))
        clock = time.perf_counter()  # it also counts the time to write an epoch
        while not state.position.finished:
            epoch, start = state.position.epoch, state.position.in_epoch
            if state.position.iteration == state.position.denoiser_iteration:
                state.begin_sampler(run.fold)
            subsets_from = _subsets_from(state.position)
            length = state.position.epoch_iterations
            times, loaded = IterationTimes(), run.loader.epoch(epoch, length, start, subsets_from)
            batches = times.timed(until_stopped(loaded, stop, cancel))
            while steps := [_step(run, state, batch, follow, log, times) for batch in _next(batches, state.position)]:
                sums = _summed(state.position.sums, steps)
                seconds = state.position.seconds + time.perf_counter() - clock
                clock = time.perf_counter()
                state.position = state.position.after(sums=sums, seconds=seconds)
                forecast.update(state.position)
            if state.position.epoch == epoch:
                saving.save()
                raise stop.pop(0)
            log.append(end_epoch(run, state, epoch, log, times))
            seconds = state.position.seconds + time.perf_counter() - clock
            clock = time.perf_counter()
            state.position = state.position.after(sums={}, seconds=seconds).in_time()
            if state.position.finished and state.position.trains_sampler:
                log[-1] = choose_spread(run, state, log[-1])
            write_log(run.fold.log, log)
            saving.save_if_due()
            track(log[-1])
            draw_progress(run.fold.curves, log, f"{run.plan.dataset}, {run.plan.preset}, {run.fold.path.name}")
            if stop:
                saving.save()
                raise stop.pop(0)
    complete_best(run.fold, report)


def _next(batches: Iterator[Batch], position: TrainingProgress) -> Iterator[Batch]:
    """The batches of an epoch until losses are read again."""
    return islice(batches, READ_EVERY - position.in_epoch % READ_EVERY)


def _subsets_from(position: TrainingProgress) -> int:
    """The iteration of the current epoch from which samples may query subsets of the labels.

    A run that is trained longer has learned with all labels before, so this is its first iteration.
    """
    start = position.start.iteration
    _, length = position.schedule
    first = first_subset_iteration(length) if start == 0 and not position.trains_sampler else start
    return first - (position.iteration - position.in_epoch)


def _step(
    run: Run, state: TrainingState, batch: Batch, progress: OnProgress, log: list[EpochLog], times: IterationTimes
) -> StepLosses:
    """The losses of one iteration, which is counted and reported."""
    losses = train_step(state, run.bank, batch, run.compiled)
    state.position = state.position.after(iteration=state.position.iteration + 1)
    progress(_event(state.position, log, times))
    return losses


def _event(position: TrainingProgress, log: list[EpochLog], times: IterationTimes | None = None) -> ProgressEvent:
    """Where the training stands."""
    return ProgressEvent("Train", position.iteration, position.total, "it", _detail(position, log, times))


def end_epoch(
    run: Run, state: TrainingState, epoch: int, log: Sequence[EpochLog] = (), times: IterationTimes | None = None
) -> EpochLog:
    """The log entry of an epoch. Validates the averaged weights and saves them if they are the best so far.

    The masks do not change while the sampler learns. Their scores are then those of the best epoch in the `log`.
    """
    position = state.position
    last = position.after(iteration=position.iteration - 1)
    best = max(log, key=lambda one: one.mean_dice, default=None)
    if last.trains_sampler and best is not None:
        scores = PatchScores(best.dice, {})
    else:
        segmenter = Segmenter.of(_averaged(state), run.device)
        scores = validate_patches(segmenter, run.bank, run.patches, run.device, position.seed)
    entry = EpochLog(
        epoch=epoch,
        iteration=position.iteration,
        learning_rate=learning_rate(run.plan.training, *last.schedule),
        losses={name: value / last.epoch_iterations for name, value in position.sums.items()},
        dice=scores.dice,
        latent_dice=scores.latent_dice,
        seconds=position.seconds,
        iteration_seconds=None if times is None else times.seconds,
        data_seconds=None if times is None else times.waited,
    )
    improved = entry.mean_dice >= position.best or last.trains_sampler  # the sampler does not change the mask
    if improved or not run.fold.checkpoint("best").is_file():
        state.position = position.after(best=entry.mean_dice)
        state.save_best(run.fold)
    return entry


def choose_spread(run: Run, state: TrainingState, entry: EpochLog) -> EpochLog:
    """The last log entry with the Dice of decoded true latents. The spread of samples is chosen and saved."""
    network = _averaged(state)
    assert isinstance(network, TextDiffSeg), "expected a model with a sampler"
    fit = fit_samples(network, run.bank, run.patches, state.position.seed)
    state.set_spread(fit.spread)
    state.save_best(run.fold)
    return entry.model_copy(update={"latent_dice": fit.latent_dice})


def _averaged(state: TrainingState) -> SegmentationNetwork:
    """A copy of the network with the averaged weights."""
    averaged = copy.deepcopy(state.model)
    averaged.load_state_dict(state.ema)
    return averaged


def _summed(sums: dict[str, float], steps: list[StepLosses]) -> dict[str, float]:
    """The sums of losses with those of further steps added. This waits for the device."""
    for step in steps:
        sums = sums | {name: sums.get(name, 0.0) + value for name, value in step.read().items()}
    return sums


def _detail(position: TrainingProgress, log: list[EpochLog], times: IterationTimes | None) -> str:
    """The mean loss of the current epoch, as far as it is read, the Dice of the last validation, and the times."""
    read = position.in_epoch // READ_EVERY * READ_EVERY
    losses = [f"loss={sum(position.sums.values()) / read:.3f}"] if read and position.sums else []
    dice = [f"dice={log[-1].mean_dice:.3f}"] if log else []
    return ", ".join([*losses, *dice, *([str(times)] if times and times.seconds else [])])
