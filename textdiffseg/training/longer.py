"""The length of a run that has started.

An unfinished run keeps its length, seed and schedule. A finished run is trained longer if `--epochs` or
`--max-minutes` exceeds its length. The learning rate then warms up again and decays to 0 at the new end.
"""

from dataclasses import replace

from plans.errors import UserError
from plans.layout import FoldFolder
from textdiffseg.folds.position import TrainingPosition
from textdiffseg.progress import OnProgress, Report, silent
from textdiffseg.training.length import with_new_end
from textdiffseg.training.options import TrainingOptions
from textdiffseg.training.setup import TrainingSetup, first_position


def wants_longer(position: TrainingPosition, options: TrainingOptions, fold: FoldFolder) -> bool:
    """Whether the options prolong a finished run. `UserError` if they do not fit the run."""
    faults = [*_other_seed(position, options, fold)]
    if not position.finished:
        faults += _other_length(position, options, fold)
    elif options.epochs is not None and options.epochs < position.epochs:
        faults += [_too_short(fold, f"--epochs {options.epochs}", f"{position.epochs} epochs")]
    elif options.max_minutes is not None and not _same_minutes(position, options) and not _more(position, options):
        spent = f"{position.seconds / 60:.3g} minutes"
        faults += [_too_short(fold, f"--max-minutes {options.max_minutes:g}", spent)]
    if faults:
        raise UserError(*faults)
    return position.finished and _more(position, options)


def prolong(
    setup: TrainingSetup,
    position: TrainingPosition,
    options: TrainingOptions,
    report: Report,
    progress: OnProgress = silent,
) -> TrainingPosition:
    """The position of a finished run with the new end, if `wants_longer`."""
    position = position.after(cases=setup.cases.hash)
    if options.epochs is not None:
        return with_new_end(position, epochs=options.epochs, limit_seconds=None)
    limit = 60 * (options.max_minutes or 0)
    further = first_position(setup, replace(options, max_minutes=(limit - position.seconds) / 60), report, progress)
    return with_new_end(
        position,
        epochs=position.epoch + further.epochs,
        iterations_per_epoch=further.iterations_per_epoch,
        limit_seconds=limit,
    )


def _more(position: TrainingPosition, options: TrainingOptions) -> bool:
    """Whether the options exceed the length of the run."""
    if options.epochs is not None:
        return options.epochs > position.epochs
    longest = max(position.seconds, position.limit_seconds or 0)
    return (
        options.max_minutes is not None and 60 * options.max_minutes > longest and not _same_minutes(position, options)
    )


def _same_minutes(position: TrainingPosition, options: TrainingOptions) -> bool:
    """Whether the run has this limit in minutes already."""
    return position.limit_seconds is not None and position.limit_seconds == 60 * (options.max_minutes or 0)


def _too_short(fold: FoldFolder, option: str, done: str) -> str:
    return (
        f"{fold.path} is trained already, for {done}: {option} is not longer. Give more to train it longer, leave it "
        "out to keep it as it is, or give --restart to train from the start."
    )


def _other_seed(position: TrainingPosition, options: TrainingOptions, fold: FoldFolder) -> list[str]:
    if options.seed in (None, position.seed):
        return []
    return [
        f"{fold.path}: this run was started with --seed {position.seed}, not --seed {options.seed}. Leave --seed out "
        "to resume, or give --restart to train from the start."
    ]


def _other_length(position: TrainingPosition, options: TrainingOptions, fold: FoldFolder) -> list[str]:
    """Faults of a new length for an unfinished run, whose schedule depends on its length."""
    limit = position.limit_seconds
    first = f"--epochs {position.epochs}" if limit is None else f"--max-minutes {limit / 60:g}"
    if options.epochs is not None:
        option, same = f"--epochs {options.epochs}", limit is None and options.epochs == position.epochs
    elif options.max_minutes is not None:
        option, same = f"--max-minutes {options.max_minutes:g}", _same_minutes(position, options)
    else:
        return []
    if same:
        return []
    name = option.partition(" ")[0]
    return [
        f"{fold.path}: this run was started with {first}, not {option}, and is not finished. Leave {name} out to "
        f"resume. Once it is finished, a larger {name} trains it longer. Or give --restart to train from the start."
    ]
