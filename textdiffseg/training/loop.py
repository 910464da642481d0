"""The training loop of a fold. It starts a new run, or resumes an earlier one."""

import copy
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from plans.choices import Preset
from plans.layout import FoldFolder
from plans.plan import Plan
from textdiffseg.data.batch import Batch
from textdiffseg.data.sampling import first_subset_iteration
from textdiffseg.data.splits import Split
from textdiffseg.folds.plans import plan_of_fold
from textdiffseg.folds.position import TrainingPosition, read_position, refuse_other_plan
from textdiffseg.folds.replacing import replaced
from textdiffseg.networks.model import SegmentationNetwork, TextDiffSeg
from textdiffseg.precision import cuda_kernels
from textdiffseg.progress import Cancel, OnProgress, ProgressEvent, Report, never, silent
from textdiffseg.segmenter import Segmenter
from textdiffseg.training.checkpoint import TrainingState, complete_best
from textdiffseg.training.forecast import TrainingForecast
from textdiffseg.training.initial import refuse_late_start, refuse_own_folder
from textdiffseg.training.length import follow_pace
from textdiffseg.training.log import EpochLog, draw_progress, read_log, write_log
from textdiffseg.training.longer import prolong, wants_longer
from textdiffseg.training.optimise import StepLosses, learning_rate, train_step
from textdiffseg.training.options import TrainingOptions
from textdiffseg.training.saving import Saving
from textdiffseg.training.setup import TrainingSetup, compile_ahead, first_position, report_few_iterations, set_up_fold
from textdiffseg.training.spread import choose_spread
from textdiffseg.training.stop import deferring, stop_requests, until_stopped
from textdiffseg.training.timing import IterationTimes
from textdiffseg.training.tracking import tracked
from textdiffseg.training.validate import PatchScores, validate_patches

ONE_MORE_EPOCH = (
    "Note: only the sampler learns in a single further epoch. The masks stay as they are. With two or more further "
    "epochs, the masks learn, too."
)
READ_EVERY = 10  # iterations; to read losses, the host waits for the GPU, which then waits for the host


@cuda_kernels()
def train_fold(
    preprocessed: Path,
    split: Split,
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
        split: the training and validation cases.
        fold: the folder to write.
        options: the user's choices.
        preset: of the plan.
        report: called with each message.
        progress: called after each iteration.
        cancel: called before each iteration.
    """
    refuse_own_folder(options.init_from, options.restart, fold)
    with replaced(fold, options.restart, report):
        position = read_position(fold)
        refuse_other_plan(fold, "latest")
        refuse_late_start(position, options.init_from, fold)
        longer = position is not None and wants_longer(position, options, fold)
        if position is not None and position.finished and not longer:
            complete_best(fold, report)
            with tracked(fold, options.track, read_log(fold.log) if options.track else ()):
                return plan_of_fold(fold)
        setup = set_up_fold(preprocessed, split, fold, options, preset, report, position)
        state = _first_state(setup, position, longer, options, report, progress)
        run_epochs(setup, state, progress, cancel, report)
        return setup.plan


def _first_state(
    setup: TrainingSetup,
    saved: TrainingPosition | None,
    longer: bool,
    options: TrainingOptions,
    report: Report,
    progress: OnProgress,
) -> TrainingState:
    """The state from which to train: a new one, or that of the `saved` position, with its new length."""
    if saved is None:
        position = first_position(setup, options, report, progress)
        report_few_iterations(position, report)
        return setup.fresh(position)
    position = saved
    if longer:
        complete_best(setup.fold, report)  # the sampler learns on it
        position = prolong(setup, saved, options, report, progress)
    if position.limit_seconds is not None:
        compile_ahead(setup, saved)
    state = setup.fresh(position)  # a longer run begins with the masks again, unless a single epoch is left
    state.load(setup.fold)
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


def run_epochs(
    setup: TrainingSetup,
    state: TrainingState,
    progress: OnProgress = silent,
    cancel: Cancel = never,
    report: Report = silent,
) -> None:
    """Train until the last iteration of `state.position`, or until a request to stop."""
    log = [epoch for epoch in read_log(setup.fold.log) if epoch.iteration <= state.position.iteration]
    progress(_event(state.position, log))
    saving = Saving(setup, state, report)
    with stop_requests() as stop, tracked(setup.fold, setup.track, log) as track:
        follow = deferring(progress, stop)
        forecast = TrainingForecast(deferring(report, stop))
        clock = _Clock()  # it also counts the time to write an epoch
        while not state.position.finished:
            epoch = state.position.epoch
            if state.position.iteration == state.position.sampler_iteration:
                complete_best(setup.fold, report)  # it is missing if the first one could not be written
                state.begin_sampler(setup.fold)
            times = IterationTimes()
            batches = times.timed(until_stopped(_batches(setup, state.position), stop, cancel))
            unread = list[StepLosses]()
            for batch in batches:
                unread.append(_step(setup, state, batch, follow, log, times))
                if state.position.in_epoch % READ_EVERY == 0:
                    _read_losses(state, unread, clock, forecast)
            if unread:
                _read_losses(state, unread, clock, forecast)
            if state.position.epoch == epoch:  # stopped within the epoch
                saving.save()
                raise stop.pop(0)
            log.append(end_epoch(setup, state, epoch, log, times))
            write_log(setup.fold.log, log)
            if is_best(setup, state.position, log[-1]):
                state.position = state.position.after(sums={}, best=log[-1].mean_dice)
                saving.save_best()
            seconds = state.position.seconds + clock.lap()
            state.position = follow_pace(state.position.after(sums={}, seconds=seconds))
            if state.position.finished and state.position.trains_sampler:
                log[-1] = end_sampler(setup, state, log[-1])
                write_log(setup.fold.log, log)
            saving.save_if_due()
            track(log[-1])
            draw_progress(setup.fold.curves, log, f"{setup.plan.dataset}, {setup.plan.preset}, {setup.fold.path.name}")
            if stop:
                saving.save()
                raise stop.pop(0)
    complete_best(setup.fold, report)


class _Clock:
    """The time since its start, or since its last lap."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    def lap(self) -> float:
        """The seconds since the last lap."""
        now = time.perf_counter()
        seconds = now - self._began
        self._began = now
        return seconds


def _batches(setup: TrainingSetup, position: TrainingPosition) -> Iterator[Batch]:
    """The batches that are left in the current epoch."""
    return setup.loader.epoch(position.epoch, position.epoch_iterations, position.in_epoch, _subsets_from(position))


def _subsets_from(position: TrainingPosition) -> int:
    """The iteration of the current epoch from which samples may query subsets of the labels.

    A run that is trained longer has learned with all labels before, so this is its first iteration.
    """
    start = position.start.iteration
    _, length = position.schedule
    first = first_subset_iteration(length) if start == 0 and not position.trains_sampler else start
    return first - (position.iteration - position.in_epoch)


def _step(
    setup: TrainingSetup,
    state: TrainingState,
    batch: Batch,
    progress: OnProgress,
    log: list[EpochLog],
    times: IterationTimes,
) -> StepLosses:
    """The losses of one iteration, which is counted and reported."""
    losses = train_step(state, setup.bank, batch, setup.compiled)
    state.position = state.position.after(iteration=state.position.iteration + 1)
    progress(_event(state.position, log, times))
    return losses


def _read_losses(state: TrainingState, unread: list[StepLosses], clock: _Clock, forecast: TrainingForecast) -> None:
    """Add the `unread` losses to the sums of the epoch, and count the time. This waits for the device."""
    sums = _summed(state.position.sums, unread)
    unread.clear()
    state.position = state.position.after(sums=sums, seconds=state.position.seconds + clock.lap())
    forecast.update(state.position)


def _event(position: TrainingPosition, log: list[EpochLog], times: IterationTimes | None = None) -> ProgressEvent:
    """Where the training stands."""
    return ProgressEvent("Train", position.iteration, position.total, "it", _detail(position, log, times))


def end_epoch(
    setup: TrainingSetup,
    state: TrainingState,
    epoch: int,
    log: Sequence[EpochLog] = (),
    times: IterationTimes | None = None,
) -> EpochLog:
    """The log entry of an epoch. Validates the averaged weights.

    The masks do not change while the sampler learns. Their scores are then those of the best epoch in the `log`.
    """
    position = state.position
    last = _last(position)
    best = max(log, key=lambda logged: logged.mean_dice, default=None)
    if last.trains_sampler and best is not None:
        scores = PatchScores(best.dice, {})
    else:
        segmenter = Segmenter.of(_averaged(state), setup.device)
        scores = validate_patches(segmenter, setup.bank, setup.patches, setup.device, position.seed)
    return EpochLog(
        epoch=epoch,
        iteration=position.iteration,
        learning_rate=learning_rate(setup.plan.training, *last.schedule),
        losses={name: value / last.epoch_iterations for name, value in position.sums.items()},
        dice=scores.dice,
        latent_dice=scores.latent_dice,
        seconds=position.seconds,
        iteration_seconds=None if times is None else times.seconds,
        data_seconds=None if times is None else times.waited,
    )


def is_best(setup: TrainingSetup, position: TrainingPosition, entry: EpochLog) -> bool:
    """Whether the averaged weights are to be `checkpoint_best`. `position`, `entry`: of the end of their epoch.

    The masks do not change while the sampler learns, so its newest weights are the best.
    """
    improved = entry.mean_dice >= position.best or _last(position).trains_sampler
    return improved or not setup.fold.checkpoint("best").is_file()


def _last(position: TrainingPosition) -> TrainingPosition:
    """The position of the last iteration that was done."""
    return position.after(iteration=position.iteration - 1)


def end_sampler(setup: TrainingSetup, state: TrainingState, entry: EpochLog) -> EpochLog:
    """The last log entry with the Dice of decoded true latents. The spread of samples is chosen and saved."""
    network = _averaged(state)
    assert isinstance(network, TextDiffSeg), "expected a model with a sampler"
    chosen = choose_spread(network, setup.bank, setup.patches, state.position.seed)
    state.set_spread(chosen.spread)
    state.save_best(setup.fold)
    return entry.model_copy(update={"latent_dice": chosen.latent_dice})


def _averaged(state: TrainingState) -> SegmentationNetwork:
    """A copy of the network with the averaged weights."""
    averaged = copy.deepcopy(state.model)
    averaged.load_state_dict(state.ema)
    return averaged


def _summed(sums: dict[str, float], steps: list[StepLosses]) -> dict[str, float]:
    """The sums of losses with those of further steps added."""
    for step in steps:
        sums = sums | {name: sums.get(name, 0.0) + value for name, value in step.read().items()}
    return sums


def _detail(position: TrainingPosition, log: list[EpochLog], times: IterationTimes | None) -> str:
    """The mean loss of the current epoch, as far as it is read, the Dice of the last validation, and the times."""
    read = position.in_epoch // READ_EVERY * READ_EVERY
    losses = [f"loss={sum(position.sums.values()) / read:.3f}"] if read and position.sums else []
    dice = [f"dice={log[-1].mean_dice:.3f}"] if log else []
    return ", ".join([*losses, *dice, *([str(times)] if times and times.seconds else [])])
